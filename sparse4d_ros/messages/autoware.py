"""Detections and tracks for Autoware: autoware_perception_msgs DetectedObjects and TrackedObjects.

Only imported where the parameter `autoware` asks for it: the messages are Autoware's, no ROS distribution has them.
Poses are in the header's frame, velocities along the object's own axes, as Autoware's detectors give and its trackers
take them. What is not known is marked as absent: covariances unless deviations are given, acceleration, the direction
of what has none.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from autoware_perception_msgs.msg import (
    DetectedObject,
    DetectedObjectKinematics,
    DetectedObjects,
    ObjectClassification,
    Shape,
    TrackedObject,
    TrackedObjectKinematics,
    TrackedObjects,
)
from geometry_msgs.msg import Vector3
from std_msgs.msg import Header
from unique_identifier_msgs.msg import UUID

from sparse4d_core.types import Detections

from .detections import pose_of_box
from .outgoing import OtherOutput


@dataclass(frozen=True)
class Deviations:
    """Standard deviations of the boxes, for their covariances: the model does not estimate them, an evaluation does."""

    position: float  # m, of x, y and z
    yaw: float  # rad
    velocity: float  # m/s, along any axis of the ground

    def fill(self, kinematics: Kinematics) -> None:
        """Sets the diagonals of both covariances, [6, 6] row by row: x y z, then the rotations about them."""
        pose, twist = kinematics.pose_with_covariance.covariance, kinematics.twist_with_covariance.covariance
        pose[0] = pose[7] = pose[14] = self.position**2
        pose[35] = self.yaw**2
        twist[0] = twist[7] = self.velocity**2


Kinematics = TypeVar("Kinematics", DetectedObjectKinematics, TrackedObjectKinematics)

LABELS = {
    "car": ObjectClassification.CAR,
    "truck": ObjectClassification.TRUCK,
    "construction_vehicle": ObjectClassification.TRUCK,
    "bus": ObjectClassification.BUS,
    "trailer": ObjectClassification.TRAILER,
    "motorcycle": ObjectClassification.MOTORCYCLE,
    "bicycle": ObjectClassification.BICYCLE,
    "pedestrian": ObjectClassification.PEDESTRIAN,
    "animal": ObjectClassification.ANIMAL,
}
"""Class -> Autoware's; others (barrier, traffic_cone, a model's own) are UNKNOWN, which Autoware keeps clear of."""

ORIENTATIONS = {
    "barrier": DetectedObjectKinematics.SIGN_UNKNOWN,  # front and back look the same
    "traffic_cone": DetectedObjectKinematics.UNAVAILABLE,
}
STATIONARY_SPEED = 0.3  # m/s; slower tracks stand


def to_detected_objects(
    detections: Detections, boxes: np.ndarray, header: Header, deviations: Deviations | None = None
) -> DetectedObjects:
    """Detections ► DetectedObjects.

    Args:
        detections: scores and classes.
        boxes: [M, 10] float64, the same boxes in the header's frame.
        header: frame and stamp of the set.
        deviations: None: covariances are marked as absent.
    """
    known, objects = deviations is not None, []
    for box, score, name in zip(boxes.tolist(), detections.scores.tolist(), detections.names(), strict=True):
        kinematics = DetectedObjectKinematics(has_twist=True, has_position_covariance=known, has_twist_covariance=known)
        objects.append(
            DetectedObject(
                existence_probability=score,
                classification=_classification(name),
                kinematics=_filled(kinematics, box, name, deviations),
                shape=_shape(box),
            )
        )
    return DetectedObjects(header=header, objects=objects)


def to_tracked_objects(
    tracks: Detections,
    boxes: np.ndarray,
    header: Header,
    deviations: Deviations | None,
    identities: uuid.UUID,
) -> TrackedObjects:
    """Tracks ► TrackedObjects. A track keeps its UUID as long as it lives; no other gets it.

    Args:
        tracks: scores, classes and ids.
        boxes: [M, 10] float64, the same boxes in the header's frame.
        header: frame and stamp of the set.
        deviations: None: covariances are zero; the message has no flags for them.
        identities: what the UUIDs are made from, besides the ids.
    """
    ids = np.zeros(0, np.int64) if tracks.ids is None else tracks.ids
    objects = []
    for box, score, name, number in zip(
        boxes.tolist(), tracks.scores.tolist(), tracks.names(), ids.tolist(), strict=True
    ):
        standing = math.hypot(box[7], box[8]) < STATIONARY_SPEED
        objects.append(
            TrackedObject(
                object_id=UUID(uuid=list(uuid.uuid5(identities, str(number)).bytes)),
                existence_probability=score,
                classification=_classification(name),
                kinematics=_filled(TrackedObjectKinematics(is_stationary=standing), box, name, deviations),
                shape=_shape(box),
            )
        )
    return TrackedObjects(header=header, objects=objects)


def outputs(deviations: Deviations | None) -> dict[str, OtherOutput]:
    """Autoware's topics below the node's name.

    UUIDs are those of this call: whatever track ids count from, no other node has them, nor this one when it is
    configured again.
    """
    return {
        "autoware/detected_objects": OtherOutput(
            DetectedObjects, partial(to_detected_objects, deviations=deviations), "detections"
        ),
        "autoware/tracked_objects": OtherOutput(
            TrackedObjects,
            partial(to_tracked_objects, deviations=deviations, identities=uuid.uuid4()),
            "tracks",
        ),
    }


def _filled(kinematics: Kinematics, box: Sequence[float], name: str, deviations: Deviations | None) -> Kinematics:
    kinematics.pose_with_covariance.pose = pose_of_box(box)
    kinematics.twist_with_covariance.twist.linear = _along_own_axes(box)
    kinematics.orientation_availability = ORIENTATIONS.get(name, kinematics.AVAILABLE)
    if deviations is not None:
        deviations.fill(kinematics)
    return kinematics


def _along_own_axes(box: Sequence[float]) -> Vector3:
    """The box's velocity: ahead, to its left, up."""
    yaw, vx, vy, vz = box[6:10]
    cos, sin = math.cos(yaw), math.sin(yaw)
    return Vector3(x=cos * vx + sin * vy, y=cos * vy - sin * vx, z=vz)


def _classification(name: str) -> list[ObjectClassification]:
    """Of the best class alone: the model's other scores are not probabilities of the rest."""
    return [ObjectClassification(label=LABELS.get(name, ObjectClassification.UNKNOWN), probability=1.0)]


def _shape(box: Sequence[float]) -> Shape:
    return Shape(type=Shape.BOUNDING_BOX, dimensions=Vector3(x=box[3], y=box[4], z=box[5]))
