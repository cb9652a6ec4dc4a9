"""A synchronized set ► frame ► tracks, and the memory in between. The node and the replay both run this.

    process = prepare (decode, preprocess; knows no memory) ─► run (the network, on the memory of the set before)

The node calls the two from two threads, so that a set is decoded while the network has the one before. Whatever can go
wrong with a set ends in one exception, `FrameDropped`, with the cause to count it under.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from sparse4d_core.inference.pipeline import NonFiniteOutputError, Pipeline, PreparedFrame, StepResult
from sparse4d_core.types import Frame

from .frame_builder import FrameBuilder
from .image_decoding import ConversionError
from .synced_set import SetStatus, SyncedSet
from .transforms import TransformError

CAUSES = (
    "encoding", "image_data", "image_size", "frame_id", "stamp", "camera_info", "distortion", "unusable_frame",
    "non_finite_output", "tf_unknown_frame", "tf_connectivity", "tf_extrapolation_future", "tf_extrapolation_past",
    "tf_extrapolation_one_value", "tf_loop", "tf_invalid_argument",
)  # fmt: skip
"""All that a set can be dropped for here; docs/causes.md has what they mean."""


class FrameDropped(Exception):
    """A set that gave no output; `cause` is a short constant name to count it under."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class PreparedSet:
    """A set on its way to the network. The messages that its images came in are not kept."""

    frame: PreparedFrame
    epoch: int  # of the set
    status: SetStatus  # which cameras the set saw
    timings_ms: dict[str, float]  # decode_images, transforms


@dataclass(frozen=True)
class Processed:
    """What one set gave."""

    frame: Frame
    result: StepResult
    reset: str | None  # why the memory was cleared before this frame, if it was
    timings_ms: dict[str, float]  # decode_images, transforms, and the pipeline's stages
    status: SetStatus  # which cameras the set saw


def _unusable(error: ValueError) -> FrameDropped:
    """ValueError is the pipeline's word for a frame that cannot be used. File and line that raised it tell an error of
    the code's own from one of the frame."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return FrameDropped("unusable_frame", f"{error} ({Path(place.filename).name}:{place.lineno})")


class SetProcessor:
    """Runs sets through the model, one after another.

    One thread may `prepare` while another one runs a set; no two may do the same. `request_reset` is for any thread.
    """

    def __init__(self, pipeline: Pipeline, builder: FrameBuilder):
        self.pipeline, self._builder = pipeline, builder
        self._state = None
        self._epoch: int | None = None
        self._requested: str | None = None  # reason of a reset before the next set
        self._unreported: str | None = None  # reason of the last reset, until a set gives output

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs there."""
        return self.pipeline.on_gpu

    def request_reset(self, reason: str) -> None:
        """Forget all instances before the next set that the network gets."""
        self._requested = reason

    def close(self) -> None:
        """Ends the threads."""
        self._builder.close()

    def process(self, synced: SyncedSet) -> Processed:
        """One set through the model.

        Raises:
            FrameDropped: nothing came out; the memory is that of the frame before (or empty after bad output).
        """
        return self.run(self.prepare(synced))

    def prepare(self, synced: SyncedSet) -> PreparedSet:
        """The network's input; touches no memory.

        Raises:
            FrameDropped: the set cannot be used.
        """
        try:
            frame, timings = self._builder.build(synced)
            return PreparedSet(self.pipeline.prepare(frame), synced.epoch, synced.status, timings)
        except (ConversionError, TransformError) as error:
            raise FrameDropped(error.cause, str(error)) from error
        except ValueError as error:
            raise _unusable(error) from error

    def run(self, prepared: PreparedSet) -> Processed:
        """The network on a prepared set, in the order of the sets.

        Raises:
            FrameDropped: nothing came out; the memory is that of the frame before (or empty after bad output).
        """
        self._apply_resets(prepared.epoch)
        try:
            result = self.pipeline.run(prepared.frame, self._state)
        except NonFiniteOutputError as error:
            self.request_reset("the network's output was not finite")
            raise FrameDropped("non_finite_output", str(error)) from error
        except ValueError as error:
            raise _unusable(error) from error
        self._state = result.state
        reset, self._unreported = self._unreported or result.reset, None
        return Processed(prepared.frame.frame, result, reset, prepared.timings_ms | result.timings_ms, prepared.status)

    def _apply_resets(self, epoch: int) -> None:
        reason, self._requested = self._requested, None
        if self._epoch is not None and epoch != self._epoch:
            reason = "time jumped back"
        self._epoch = epoch
        if reason is not None:
            self._unreported = reason
            if self._state is not None:
                self._state = self._state.forget()
