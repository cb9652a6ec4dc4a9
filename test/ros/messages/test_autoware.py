"""Autoware's messages, through the wire format."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

pytest.importorskip("autoware_perception_msgs", reason="autoware_perception_msgs is not installed")
from autoware_perception_msgs.msg import (
    DetectedObjectKinematics,
    DetectedObjects,
    ObjectClassification,
    Shape,
    TrackedObjects,
)
from rclpy.serialization import deserialize_message, serialize_message

from sparse4d_core.types import CLASS_NAMES, Detections, Tracks
from sparse4d_ros.messages.autoware import LABELS, Deviations, outputs, to_detected_objects, to_tracked_objects
from sparse4d_ros.messages.stamps import make_header

HEADER = make_header("base_link", 1_532_402_927_612_460_123)
BOXES = np.array([[1.0, 2, 3, 4, 2, 1.5, np.pi / 2, 3, 4, 0.5], [5.0, 5, 0, 0.4, 0.4, 1, 0, 0.1, 0, 0]])
IDENTITIES = uuid.UUID(int=7)


def tracks(*ids: int, labels: tuple[int, ...] = (0, 9)) -> Tracks:
    return Tracks(BOXES[: len(ids)], np.array([0.9, 0.5])[: len(ids)], np.array(labels)[: len(ids)], ids=np.array(ids))


def detected(found: Detections, *options) -> list:
    message = to_detected_objects(found, BOXES[: len(found.scores)], HEADER, *options)
    back = deserialize_message(serialize_message(message), DetectedObjects)
    assert back.header == HEADER
    return back.objects


def tracked(found: Detections, deviations: Deviations | None = None, identities: uuid.UUID = IDENTITIES) -> list:
    message = to_tracked_objects(found, BOXES[: len(found.scores)], HEADER, deviations, identities)
    back = deserialize_message(serialize_message(message), TrackedObjects)
    assert back.header == HEADER
    return back.objects


def test_pose_shape_velocity_and_score_are_those_of_the_box():
    for car in (detected(tracks(3, 12))[0], tracked(tracks(3, 12))[0]):
        pose, twist = car.kinematics.pose_with_covariance.pose, car.kinematics.twist_with_covariance.twist
        assert (pose.position.x, pose.position.y, pose.position.z) == (1, 2, 3)
        assert pose.orientation.z == pytest.approx(np.sqrt(0.5)) and pose.orientation.w == pytest.approx(np.sqrt(0.5))
        seen = (twist.linear.x, twist.linear.y, twist.linear.z)
        assert seen == pytest.approx((4, -3, 0.5)), "ahead, to its left, up"
        dimensions = car.shape.dimensions
        assert car.shape.type == Shape.BOUNDING_BOX and (dimensions.x, dimensions.y, dimensions.z) == (4, 2, 1.5)
        assert car.existence_probability == pytest.approx(0.9)
        (classification,) = car.classification
        assert (classification.label, classification.probability) == (ObjectClassification.CAR, 1.0)
        assert car.kinematics.orientation_availability == DetectedObjectKinematics.AVAILABLE


def test_what_is_not_known_is_marked():
    car, cone = detected(tracks(3, 12))
    assert car.kinematics.has_twist
    assert not (car.kinematics.has_position_covariance or car.kinematics.has_twist_covariance)
    assert not car.kinematics.pose_with_covariance.covariance.any()
    assert cone.classification[0].label == ObjectClassification.UNKNOWN
    assert cone.kinematics.orientation_availability == DetectedObjectKinematics.UNAVAILABLE
    (barrier,) = detected(tracks(3, labels=(CLASS_NAMES.index("barrier"),)))
    assert barrier.kinematics.orientation_availability == DetectedObjectKinematics.SIGN_UNKNOWN


def test_given_deviations_are_on_the_diagonals():
    for thing in (detected(tracks(3), Deviations(2, 3, 4))[0], tracked(tracks(3), Deviations(2, 3, 4))[0]):
        pose = thing.kinematics.pose_with_covariance.covariance.reshape(6, 6)
        twist = thing.kinematics.twist_with_covariance.covariance.reshape(6, 6)
        np.testing.assert_array_equal(pose, np.diag([4, 4, 4, 0, 0, 9]))
        np.testing.assert_array_equal(twist, np.diag([16, 16, 0, 0, 0, 0]))
    kinematics = detected(tracks(3), Deviations(2, 3, 4))[0].kinematics
    assert kinematics.has_position_covariance and kinematics.has_twist_covariance


def test_a_track_keeps_its_uuid_and_no_other_has_it():
    first, second = tracked(tracks(3, 12), None, IDENTITIES)
    (again,) = tracked(tracks(12), None, IDENTITIES)
    (elsewhere,) = tracked(tracks(12), None, uuid.UUID(int=8))
    assert bytes(second.object_id.uuid) == bytes(again.object_id.uuid)
    assert len({bytes(thing.object_id.uuid) for thing in (first, second, elsewhere)}) == 3


def test_no_two_configurations_give_the_same_uuid():
    """Of two nodes on one machine, or of one that is configured again, whose ids count from the same number."""
    found = tracks(3, 12)
    uuids = set()
    for _ in range(2):
        message = outputs(None)["autoware/tracked_objects"].convert(found, BOXES, HEADER)
        uuids |= {bytes(thing.object_id.uuid) for thing in message.objects}
    assert len(uuids) == 4


def test_what_hardly_moves_stands():
    car, cone = tracked(tracks(3, 12))
    assert not car.kinematics.is_stationary and cone.kinematics.is_stationary


def test_classes():
    """Every moving class of the published models has its own; what Autoware does not know is UNKNOWN."""
    unknown = {name for name in CLASS_NAMES if name not in LABELS}
    assert unknown == {"barrier", "traffic_cone"} and LABELS["construction_vehicle"] == ObjectClassification.TRUCK
    own = Detections(BOXES[:1], np.array([0.9]), np.array([0]), class_names=("robot.small",))
    assert detected(own)[0].classification[0].label == ObjectClassification.UNKNOWN


def test_without_ids_there_are_no_tracks():
    empty = Tracks(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64), ids=None)
    assert tracked(empty) == []
