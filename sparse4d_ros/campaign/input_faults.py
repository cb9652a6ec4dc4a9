"""Faults of the inputs: each of them missing, late, wrong, huge, truncated, repeated, out of order."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from lifecycle_msgs.msg import Transition
from rclpy.serialization import serialize_message

from ..messages.stamps import ns_from_stamp, stamp_from_ns
from ..units import nanoseconds
from .fault import Fault, NotSurvived
from .running_system import RunningSystem
from .streams import IMAGE, INFO, TF, Change, transform, unchanged

CAMERA = "cam_front"  # the one that misbehaves
HUGE_WH = (8000, 6000)  # pixels

Alter = Callable[[Any], Sequence[Any]]
"""A message ► what goes out instead."""


@contextlib.contextmanager
def changed(system: RunningSystem, change: Change) -> Iterator[None]:
    """Messages of the streams are changed meanwhile."""
    system.streams.change = change
    try:
        yield
    finally:
        system.streams.change = unchanged


def only(kind: str, alter: Alter, source: str | None = CAMERA) -> Change:
    """Changes messages of one kind, of one camera or, with None, of all."""

    def change(its_kind: str, its_source: str, message: Any) -> Sequence[Any]:
        return alter(message) if its_kind == kind and source in (None, its_source) else [message]

    return change


def altered(kind: str, alter: Callable[[], Alter], source: str | None = CAMERA) -> Callable[[RunningSystem], Any]:
    """For `Fault.inject`: the change is made anew for each use, as it may remember messages."""
    return lambda system: changed(system, only(kind, alter(), source))


# ------------------------------------------------------------------------------------------------- what can be altered


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


# ---------------------------------------------------------------------------------------------- calibration at a start


@contextlib.contextmanager
def started_without_calibration(system: RunningSystem) -> Iterator[None]:
    """The node is activated while one camera sends no CameraInfo."""
    with changed(system, only(INFO, nothing)):
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            if not system.change_state(transition):
                raise NotSurvived(f"transition {transition} failed")
        yield


def frame_of_another(message: Any) -> Sequence[Any]:
    other = copy.copy(message)
    other.header = copy.deepcopy(message.header)
    other.header.frame_id = "cam_back"
    return [other]


LOST = ("images_dropped.timeout", "images_dropped.incomplete", "images_dropped.late")
LATE = (*LOST, "images_dropped.clock", "images_dropped.quarantined")
POSELESS = ("sets_dropped.tf_extrapolation_future", "sets_dropped.tf_extrapolation_past")
REFUSED_POSE = ("messages_rejected.tf_invalid_values", "refused.tf_invalid_values", *POSELESS)

IMAGE_FAULTS = (
    Fault("image missing", "one camera sends nothing", altered(IMAGE, lambda: nothing), LOST, seconds=3.0),
    Fault(
        "images missing",
        "no camera sends anything",
        altered(IMAGE, lambda: nothing, None),
        says="no images",
        seconds=4.0,
    ),
    Fault("image late", "one camera's images come 0.7 s late", altered(IMAGE, lambda: Delayed(0.7)), LATE, seconds=3.0),
    Fault(
        "image of another size",
        "half the calibrated width",
        altered(IMAGE, lambda: smaller),
        ("sets_dropped.image_size",),
    ),
    Fault(
        "image huge",
        "a JPEG of 8000 by 6000 pixels",
        altered(IMAGE, lambda: huge_picture),
        ("sets_dropped.image_size",),
    ),
    Fault(
        "image of many bytes",
        "20 MB behind the end of the JPEG",
        altered(IMAGE, lambda: partial(field, "data", padded)),
    ),
    Fault(
        "image truncated",
        "half of the JPEG",
        altered(IMAGE, lambda: partial(field, "data", half)),
        ("sets_dropped.image_data",),
    ),
    Fault(
        "image empty",
        "no data",
        altered(IMAGE, lambda: partial(field, "data", lambda _: b"")),
        ("sets_dropped.image_data",),
    ),
    Fault(
        "image unreadable",
        "data that are no picture",
        altered(IMAGE, lambda: partial(field, "data", lambda _: b"no picture" * 99)),
        ("sets_dropped.encoding", "sets_dropped.image_data"),
    ),
    Fault(
        "image of another frame",
        "the frame of another camera",
        altered(IMAGE, lambda: frame_of_another),
        ("sets_dropped.frame_id",),
    ),
    Fault("image repeated", "each image twice", altered(IMAGE, lambda: repeated), ("images_dropped.duplicate_stamp",)),
    Fault(
        "image out of order",
        "every second image overtakes the one before",
        altered(IMAGE, Swapped),
        ("images_dropped.out_of_order", *LATE),
    ),
    Fault(
        "image flood",
        "one camera sends 20 images for each",
        altered(IMAGE, lambda: flood),
        ("images_dropped.incomplete", "images_dropped.superseded"),
    ),
    Fault(
        "image message truncated",
        "half of the serialized message",
        altered(IMAGE, lambda: cut_bytes),
        (
            "messages_rejected.internal_error",
            "sets_dropped.internal_error",
            "sets_dropped.image_message",
            "images_dropped.message",
        ),
    ),
    Fault(
        "image message lying",
        "a serialized length of four billion",
        altered(IMAGE, lambda: lying_length),
        (
            "messages_rejected.internal_error",
            "sets_dropped.internal_error",
            "sets_dropped.image_message",
            "images_dropped.message",
        ),
    ),
)

CALIBRATION_FAULTS = (
    Fault(
        "calibration missing",
        "activated while one camera has no CameraInfo",
        started_without_calibration,
        ("images_dropped.no_camera_info",),
        seconds=3.0,
    ),
    Fault(
        "calibration of zeros",
        "K of zeros",
        altered(INFO, lambda: partial(field, "k", lambda k: [0.0] * 9)),
        ("sets_dropped.camera_info",),
    ),
    Fault(
        "calibration not finite",
        "K of NaN",
        altered(INFO, lambda: partial(field, "k", lambda k: [math.nan] * 9)),
        ("sets_dropped.camera_info",),
    ),
    Fault(
        "calibration of another size",
        "width and height of another camera",
        altered(INFO, lambda: partial(field, "width", lambda w: 2 * w)),
        ("sets_dropped.image_size", "sets_dropped.camera_info"),
    ),
    Fault(
        "calibration late", "CameraInfo comes 0.7 s after its image", altered(INFO, lambda: Delayed(0.7)), seconds=2.0
    ),
    Fault("calibration repeated", "each CameraInfo twice", altered(INFO, lambda: repeated)),
    Fault("calibration message truncated", "half of the serialized message", altered(INFO, lambda: cut_bytes)),
    Fault("calibration message lying", "a serialized length of four billion", altered(INFO, lambda: lying_length)),
)

TRANSFORM_FAULTS = (
    Fault("pose missing", "nothing on /tf", altered(TF, lambda: nothing, None), POSELESS),
    Fault("pose late by 0.1 s", "within tf_timeout", altered(TF, lambda: Delayed(0.1), None), seconds=3.0),
    Fault("pose late by 1 s", "later than tf_timeout", altered(TF, lambda: Delayed(1.0), None), POSELESS, seconds=3.0),
    Fault("pose not finite", "x is NaN", altered(TF, lambda: pose("translation.x", math.nan), None), REFUSED_POSE),
    Fault(
        "pose not a rotation",
        "a quaternion of length 3",
        altered(TF, lambda: pose("rotation.w", 3.0), None),
        REFUSED_POSE,
    ),
    Fault(
        "pose of the past",
        "stamped 10 s earlier",
        altered(TF, lambda: older_pose(10.0), None),
        ("resets.transforms jumped back in time", *POSELESS),
    ),
    Fault(
        "pose in a loop",
        "the base frame becomes its own grandchild",
        altered(TF, lambda: loop, None),
        ("sets_dropped.tf_loop", "messages_rejected.tf_wrong_parent", *POSELESS),
    ),
    Fault("pose repeated", "each pose twice", altered(TF, lambda: repeated, None)),
    Fault("pose out of order", "every second pose overtakes the one before", altered(TF, Swapped, None), seconds=2.0),
    Fault(
        "transforms of strangers",
        "3000 foreign transforms with each pose",
        altered(TF, lambda: strangers, None),
        seconds=2.0,
    ),
    Fault("pose message truncated", "half of the serialized message", altered(TF, lambda: cut_bytes, None), POSELESS),
    Fault(
        "pose message lying", "a serialized length of four billion", altered(TF, lambda: lying_length, None), POSELESS
    ),
)
