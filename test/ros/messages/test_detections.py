"""Detections to messages and back, through the wire format."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("rclpy")
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker

from sparse4d_core.boxes import transform_boxes
from sparse4d_core.types import CLASS_NAMES, Detections, Tracks
from sparse4d_ros.messages.detections import (
    detections_from_messages,
    states_from_cloud,
    to_detection_array,
    to_state_cloud,
)
from sparse4d_ros.messages.markers import to_markers
from sparse4d_ros.messages.stamps import make_header, ns_from_stamp
from sparse4d_ros.perception.image_decoding import ConversionError
from sparse4d_ros.perception.transforms import TransformBuffer

STAMP = 1_532_402_927_612_460_123
HEADER = make_header("base_link", STAMP)


@st.composite
def detections(draw, kind=Detections) -> Detections:
    """Any detections that a model can produce, float32."""
    count = draw(st.integers(0, 6))
    finite = {"allow_nan": False, "allow_infinity": False, "width": 32}
    boxes = draw(hnp.arrays(np.float32, (count, 10), elements=st.floats(-100, 100, **finite)))
    boxes[:, 3:6] = np.abs(boxes[:, 3:6]) + np.float32(0.1)
    boxes[:, 6] = boxes[:, 6] / 32
    scores = draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, **finite)))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, len(CLASS_NAMES) - 1)))
    ids = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 2**40)))
    return kind(boxes, scores, labels, ids=ids)


def test_the_document_numbers_the_classes_as_the_clouds_do():
    text = (Path(__file__).resolve().parents[3] / "docs" / "node.md").read_text(encoding="utf-8")
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(CLASS_NAMES))
    assert numbered in " ".join(text.split())


@settings(max_examples=40, deadline=None)
@given(found=detections())
def test_detection_array_round_trip(found):
    """Through the wire format: every number comes back, the yaw to float32's last digit (modulo a turn)."""
    message = to_detection_array(found, found.boxes.astype(np.float64), HEADER)
    cloud = to_state_cloud(found, found.boxes.astype(np.float64), HEADER)
    message = deserialize_message(serialize_message(message), Detection3DArray)
    cloud = deserialize_message(serialize_message(cloud), PointCloud2)
    back = detections_from_messages(message, cloud)
    turn = np.remainder(back.boxes[:, 6] - found.boxes[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(turn, 0, atol=1e-14)
    np.testing.assert_array_equal(np.delete(back.boxes, 6, axis=1), np.delete(found.boxes, 6, axis=1))
    np.testing.assert_array_equal(back.scores, found.scores)
    np.testing.assert_array_equal(back.labels, found.labels)
    np.testing.assert_array_equal(back.ids, found.ids)
    assert ns_from_stamp(message.header.stamp) == STAMP and message.header.frame_id == "base_link"


@settings(max_examples=40, deadline=None)
@given(tracks=detections(Tracks))
def test_state_cloud_round_trip(tracks):
    cloud = deserialize_message(serialize_message(to_state_cloud(tracks, tracks.boxes, HEADER)), PointCloud2)
    assert (cloud.width, cloud.height, cloud.row_step) == (len(tracks.boxes), 1, len(cloud.data))
    states = states_from_cloud(cloud)
    columns = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy", "vz")
    np.testing.assert_array_equal(np.stack([states[name] for name in columns], axis=1), tracks.boxes)
    np.testing.assert_array_equal(states["score"], tracks.scores)
    np.testing.assert_array_equal(states["track_id"], tracks.ids % 2**32)


def test_size_is_length_width_height():
    box = np.array([[1.0, 2, 3, 4.5, 1.9, 1.6, math.pi / 2, 0, 5, 0]])
    message = to_detection_array(Tracks(box, np.array([0.9]), np.array([0]), ids=np.array([7])), box, HEADER)
    found = message.detections[0]
    assert (found.bbox.size.x, found.bbox.size.y, found.bbox.size.z) == (4.5, 1.9, 1.6)
    assert (found.id, found.results[0].hypothesis.class_id, found.results[0].hypothesis.score) == ("7", "car", 0.9)
    assert found.results[0].pose.pose == found.bbox.center
    assert math.isclose(found.bbox.center.orientation.z, math.sin(math.pi / 4))


def test_own_classes_go_there_and_back():
    boxes = np.ones((3, 10))
    found = Detections(boxes, np.full(3, 0.5), np.array([1, 0, 1]), class_names=("tram", "car"))
    message = to_detection_array(found, boxes, HEADER)
    back = detections_from_messages(message)
    assert back.names() == found.names() == ["car", "tram", "car"] and back.class_names == ("car", "tram")
    assert [marker.text for marker in to_markers(found, boxes, HEADER).markers if marker.text] == ["car", "tram", "car"]


def test_missing_class_and_wrong_states():
    box = np.zeros((1, 10)) + 1
    found = Detections(box, np.array([0.5]), np.array([2]))
    message = to_detection_array(found, box, HEADER)
    assert message.detections[0].id == "" and detections_from_messages(message).ids is None
    with pytest.raises(ConversionError, match="0 points for 1 boxes"):
        empty = Detections(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64))
        detections_from_messages(message, to_state_cloud(empty, empty.boxes, HEADER))
    message.detections[0].results[0].hypothesis.class_id = ""
    with pytest.raises(ConversionError, match="class_id is empty"):
        detections_from_messages(message)


def test_markers():
    boxes = np.array([[1.0, 2, 3, 4, 2, 1.5, 0, 3, 4, 0], [5.0, 5, 0, 0.4, 0.4, 1, 0, 0.1, 0, 0]])
    tracks = Tracks(boxes, np.array([0.9, 0.5]), np.array([0, 9]), ids=np.array([3, 12]))
    markers = to_markers(tracks, boxes, HEADER).markers
    assert markers[0].action == Marker.DELETEALL
    assert [m.ns for m in markers[1:]] == ["boxes", "ids", "velocity", "boxes", "ids"]  # the cone stands still
    assert (markers[1].scale.x, markers[1].scale.y, markers[1].scale.z) == (4.0, 2.0, 1.5)
    assert (markers[2].text, markers[5].text) == ("car 3", "traffic_cone 12")
    tip = markers[3].points[1]
    assert (tip.x, tip.y, tip.z) == (4.0, 6.0, 3.0)
    assert len({(m.ns, m.id) for m in markers[1:]}) == 5
    assert all(m.header.frame_id == "base_link" for m in markers)
    (trail,) = (
        m for m in to_markers(tracks, boxes, HEADER, {3: np.arange(6.0).reshape(2, 3)}).markers if m.ns == "trails"
    )
    assert trail.type == Marker.LINE_STRIP and [(p.x, p.y, p.z) for p in trail.points] == [(0, 1, 2), (3, 4, 5)]
    assert (trail.id, trail.color.r) == (markers[1].id, markers[1].color.r)


@settings(max_examples=40, deadline=None)
@given(found=detections(), xyz=hnp.arrays(np.float64, 3, elements=st.floats(-50, 50)), yaw=st.floats(-3, 3))
def test_transform_boxes_inverts(found, xyz, yaw):
    buffer = TransformBuffer()
    buffer.insert("a", "b", 0, xyz, (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)), static=True)
    there = transform_boxes(found.boxes, buffer.lookup("a", "b", 0).matrix)
    back = transform_boxes(there, buffer.lookup("b", "a", 0).matrix)
    turn = np.remainder(back[:, 6] - found.boxes[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(np.delete(back, 6, axis=1), np.delete(found.boxes, 6, axis=1), atol=1e-9)
    np.testing.assert_allclose(turn, 0, atol=1e-9)
    speed = np.linalg.norm(there[:, 7:], axis=1)
    np.testing.assert_allclose(speed, np.linalg.norm(found.boxes[:, 7:].astype(float), axis=1), atol=1e-9)
