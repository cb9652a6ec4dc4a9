"""A synchronized set ► frame ► tracks, and the memory in between. The node and the replay both run this.

Whatever can go wrong with a set ends in one exception, `FrameDropped`, with the cause to count it under.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from sparse4d_core.inference.pipeline import NonFiniteOutputError, Pipeline, StepResult
from sparse4d_core.types import Frame

from .frame_builder import FrameBuilder
from .image_decoding import ConversionError
from .synced_set import SetStatus, SyncedSet
from .transforms import TransformError


class FrameDropped(Exception):
    """A set that gave no output; `cause` is a short constant name to count it under."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


@dataclass(frozen=True)
class Processed:
    """What one set gave."""

    frame: Frame
    result: StepResult
    reset: str | None  # why the memory was cleared before this frame, if it was
    timings_ms: dict[str, float]  # decode_images, transforms, and the pipeline's stages
    status: SetStatus  # which cameras the set saw


def _place(error: Exception) -> str:
    """File and line that raised it: an error of the code's own is then told from one of the frame."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


class SetProcessor:
    """Runs sets through the model, one after another. Not for two threads at once, except `request_reset`."""

    def __init__(self, pipeline: Pipeline, builder: FrameBuilder):
        self.pipeline, self._builder = pipeline, builder
        self._state = None
        self._epoch: int | None = None
        self._requested: str | None = None  # reason of a reset before the next set
        self._unreported: str | None = None  # reason of the last reset, until a set gives output

    def request_reset(self, reason: str) -> None:
        """Forget all instances before the next set."""
        self._requested = reason

    def close(self) -> None:
        """Ends the threads."""
        self._builder.close()

    def process(self, synced: SyncedSet) -> Processed:
        """One set through the model.

        Raises:
            FrameDropped: nothing came out; the memory is that of the frame before (or empty after bad output).
        """
        self._apply_resets(synced.epoch)
        try:
            frame, timings = self._builder.build(synced)
            result = self.pipeline.step(frame, self._state)
        except (ConversionError, TransformError) as error:
            raise FrameDropped(error.cause, str(error)) from error
        except NonFiniteOutputError as error:
            self.request_reset("the network's output was not finite")
            raise FrameDropped("non_finite_output", str(error)) from error
        except ValueError as error:  # the pipeline's word for a frame that cannot be used
            raise FrameDropped("unusable_frame", f"{error} ({_place(error)})") from error
        self._state = result.state
        reset, self._unreported = self._unreported or result.reset, None
        return Processed(frame, result, reset, timings | result.timings_ms, synced.status)

    def _apply_resets(self, epoch: int) -> None:
        reason, self._requested = self._requested, None
        if self._epoch is not None and epoch != self._epoch:
            reason = "time jumped back"
        self._epoch = epoch
        if reason is not None:
            self._unreported = reason
            if self._state is not None:
                self._state = self._state.forget()
