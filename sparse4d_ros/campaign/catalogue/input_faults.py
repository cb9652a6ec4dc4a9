"""Faults of the inputs: each of them missing, late, wrong, huge, truncated, repeated, out of order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from lifecycle_msgs.msg import Transition

from ..running_system import RunningSystem
from ..streams import IMAGE, INFO, TF, Change, unchanged
from .alterations import (
    CAMERA,
    Alter,
    Delayed,
    Swapped,
    cut_bytes,
    field,
    flood,
    frame_of_another,
    half,
    huge_picture,
    loop,
    lying_length,
    many_zeros,
    nothing,
    older_pose,
    padded,
    pose,
    repeated,
    smaller,
    strangers,
)
from .fault import Fault, NotSurvived


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


@contextlib.contextmanager
def started_without_calibration(system: RunningSystem) -> Iterator[None]:
    """The node is activated while one camera sends no CameraInfo."""
    with changed(system, only(INFO, nothing)):
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            if not system.change_state(transition):
                raise NotSurvived(f"transition {transition} failed")
        yield


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
    Fault(
        "calibration huge", "a million distortion coefficients", altered(INFO, lambda: partial(field, "d", many_zeros))
    ),
    Fault("calibration out of order", "every second CameraInfo overtakes the one before", altered(INFO, Swapped)),
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
    Fault(
        "pose message truncated",
        "half of the serialized message",
        altered(TF, lambda: cut_bytes, None),
        ("messages_rejected.message",),
    ),
    Fault(
        "pose message lying",
        "a serialized length of four billion",
        altered(TF, lambda: lying_length, None),
        ("messages_rejected.message",),
    ),
)
