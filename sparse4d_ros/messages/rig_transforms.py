"""The part of TF that a rig hangs together by: its own frames, and everything above them. No ROS in here.

A robot's joints, other sensors and other robots' transforms are much of the traffic and are never asked for: of them
the buffer gets one sample, so that it can name the frames, and the newest wait aside. If the rig turns out to hang
below such a frame, because a transform that connects them comes later, they follow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..perception.rig import RigFrames
from ..perception.transforms import TransformBuffer, TransformError
from ..units import NANOSECONDS

KEPT_ASIDE = 100  # samples of each frame that is not needed (yet),
STRANGERS = 500  # and so many such frames; one more is not looked at before the rig hangs below it
JUMP_NS = NANOSECONDS // 2  # further back than this is a jump of time, not a message out of order


class TransformSample(NamedTuple):
    """T_parent_from_child at one time, as it came."""

    parent: str
    child: str
    stamp_ns: int
    translation: tuple[float, float, float]  # metres
    rotation_xyzw: tuple[float, float, float, float]


class RigTransforms:
    """Puts the transforms that matter to a rig into its buffer. For one thread.

    Args:
        frames: of the rig.
        buffer: filled here, read by others.
    """

    def __init__(self, frames: RigFrames, buffer: TransformBuffer):
        self._buffer = buffer
        by_name = {frames.model_frame} if frames.T_base_from_model is None else set()
        self._rig = {frames.global_frame, frames.base_frame, *by_name, *frames.cameras.values()}
        self._needed = set(self._rig)
        self._aside: dict[str, deque[TransformSample]] = {}  # child -> its newest samples
        self._parents: dict[str, str] = {}  # child -> parent

    def take(self, samples: Iterable[TransformSample], static: bool) -> bool:
        """Takes the transforms of one message in.

        Returns:
            Whether time has jumped back: then everything dynamic from before is forgotten.

        Raises:
            TransformError: for the first invalid transform of the rig's, after the valid ones are in.
        """
        samples = [s._replace(parent=s.parent.removeprefix("/"), child=s.child.removeprefix("/")) for s in samples]
        jumped = not static and any(map(self._is_jump, samples))
        if jumped:
            self._buffer.clear()
            self._aside.clear()
        failure: TransformError | None = None
        for sample in samples:
            try:
                self._take(sample, static)
            except TransformError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return jumped

    def _take(self, sample: TransformSample, static: bool) -> None:
        needed = sample.child in self._needed
        if not needed and not static:
            self._keep_aside(sample)
            return
        self._buffer.insert(*sample, static=static)  # static ones all: they are few, and come once
        self._parents[sample.child] = sample.parent
        if needed:
            self._need(sample.parent)

    def _is_jump(self, sample: TransformSample) -> bool:
        """Whether a transform between two frames of the rig, or on the way, is far behind its last one."""
        if sample.child not in self._needed:
            return False
        newest_ns = self._buffer.newest_ns(sample.child)
        if newest_ns is None or sample.stamp_ns >= newest_ns - JUMP_NS:
            return False
        return not all(sample.child in self._line(frame) for frame in self._rig)  # else it is above all of the rig

    def _line(self, frame: str) -> Iterator[str]:
        """The frame itself, its parent, and so on."""
        seen = set()
        while frame is not None and frame not in seen:
            seen.add(frame)
            yield frame
            frame = self._parents.get(frame)

    def _keep_aside(self, sample: TransformSample) -> None:
        if sample.child not in self._aside:
            if len(self._aside) >= STRANGERS:
                return
            self._aside[sample.child] = deque(maxlen=KEPT_ASIDE)
            with suppress(TransformError):  # a stranger's mistake
                self._buffer.insert(*sample)  # its names, for messages about missing frames
        self._aside[sample.child].append(sample)
        self._parents[sample.child] = sample.parent

    def _need(self, frame: str | None) -> None:
        """A frame that the rig hangs below is needed, and so is everything above it; what waited of them goes on."""
        while frame is not None and frame not in self._needed:
            self._needed.add(frame)
            for sample in self._aside.pop(frame, ()):
                with suppress(TransformError):  # of a bad one it is too late to tell; the next like it is reported
                    self._buffer.insert(*sample)
            frame = self._parents.get(frame)
