"""What can be done to a message on its way out: it comes late, twice, swapped, changed, or as half of its bytes."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from rclpy.serialization import serialize_message

from ...messages.stamps import ns_from_stamp, stamp_from_ns
from ...units import nanoseconds
from ..streams import transform

CAMERA = "cam_front"  # the one that misbehaves
HUGE_WH = (8000, 6000)  # pixels

Alter = Callable[[Any], Sequence[Any]]
"""A message ► what goes out instead, messages or serialized bytes."""


def nothing(message: Any) -> Sequence[Any]:
    return []


def repeated(message: Any) -> Sequence[Any]:
    return [message, message]


def field(name: str, value: Callable[[Any], Any], message: Any) -> Sequence[Any]:
    """A copy with another value of one field."""
    other = copy.copy(message)
    setattr(other, name, value(getattr(message, name)))
    return [other]


def restamped(stamp_ns: Callable[[int], int], message: Any) -> Sequence[Any]:
    """A copy with another stamp."""
    other = copy.copy(message)
    other.header = copy.deepcopy(message.header)
    other.header.stamp = stamp_from_ns(stamp_ns(ns_from_stamp(message.header.stamp)))
    return [other]


def cut_bytes(message: Any) -> Sequence[Any]:
    """Half of the serialized message."""
    data = bytes(serialize_message(message))
    return [data[: len(data) // 2]]


def lying_length(message: Any) -> Sequence[Any]:
    """The first length in the serialized message becomes four billion: of a frame's name, or of a list of transforms.

    The message begins with four bytes about the encoding; eight more of a header are its stamp.
    """
    data, start = bytearray(serialize_message(message)), 12 if hasattr(message, "header") else 4
    data[start : start + 4] = b"\xff\xff\xff\xff"
    return [bytes(data)]


class Delayed:
    """Messages go out so many seconds after they should, with the next one of their kind."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._seconds, self._clock, self._waiting = seconds, clock, deque()

    def __call__(self, message: Any) -> Sequence[Any]:
        now = self._clock()
        self._waiting.append((now + self._seconds, copy.copy(message)))
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(self._waiting.popleft()[1])
        return due


class Swapped:
    """Every second message overtakes the one before it."""

    def __init__(self) -> None:
        self._held: Any = None

    def __call__(self, message: Any) -> Sequence[Any]:
        if self._held is None:
            self._held = copy.copy(message)
            return []
        held, self._held = self._held, None
        return [message, held]


def flood(message: Any) -> Sequence[Any]:
    """Twenty images in place of one, a millisecond apart."""
    first = ns_from_stamp(message.header.stamp)
    return [restamped(lambda _, k=k: first + k * 1_000_000, message)[0] for k in range(20)]


def huge_picture(message: Any) -> Sequence[Any]:
    """Few bytes that unpack to 144 MB."""
    return field("data", lambda _: _huge_jpeg(), message)


@cache
def _huge_jpeg() -> bytes:
    return cv2.imencode(".jpg", np.zeros((HUGE_WH[1], HUGE_WH[0], 3), np.uint8))[1].tobytes()


def smaller(message: Any) -> Sequence[Any]:
    """A picture of half the size."""
    pixels = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_COLOR)
    pixels = cv2.resize(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2))
    return field("data", lambda _: cv2.imencode(".jpg", pixels)[1].tobytes(), message)


def half(data: Any) -> bytes:
    return bytes(data[: len(data) // 2])


def padded(data: Any) -> bytes:
    return bytes(data) + bytes(20_000_000)


def many_zeros(values: Any) -> list[float]:
    return [0.0] * 1_000_000


def strangers(message: Any) -> Sequence[Any]:
    """Thousands of transforms that are no concern of the rig's, beside the one that is."""
    stamp_ns = ns_from_stamp(message.transforms[0].header.stamp)
    return [message, type(message)(transforms=[transform("far_away", f"thing_{k}", stamp_ns) for k in range(3000)])]


def pose(name: str, value: float) -> Alter:
    """Another number in the rotation or the translation of the pose."""

    def alter(message: Any) -> Sequence[Any]:
        other = copy.deepcopy(message)
        part, _, axis = name.partition(".")
        setattr(getattr(other.transforms[0].transform, part), axis, value)
        return [other]

    return alter


def older_pose(seconds: float) -> Alter:
    def alter(message: Any) -> Sequence[Any]:
        other = copy.deepcopy(message)
        header = other.transforms[0].header
        header.stamp = stamp_from_ns(ns_from_stamp(header.stamp) - nanoseconds(seconds))
        return [other]

    return alter


def loop(message: Any) -> Sequence[Any]:
    """The base frame becomes a child of a camera's frame, which is its own child."""
    other = copy.deepcopy(message)
    other.transforms[0].header.frame_id = CAMERA
    return [other]


def frame_of_another(message: Any) -> Sequence[Any]:
    other = copy.copy(message)
    other.header = copy.deepcopy(message.header)
    other.header.frame_id = "cam_back"
    return [other]
