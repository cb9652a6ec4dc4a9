"""Detections and tracks ◄► vision_msgs/Detection3DArray, and the point clouds with their velocities.

Boxes are in the header's frame: size x = length, y = width, z = height, yaw about z. Messages are read by their fields,
so rclpy's classes and those of a bag reader do alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesis, ObjectHypothesisWithPose

from sparse4d_core.types import CLASS_NAMES, Detections

from ..perception.image_decoding import ConversionError
from .stamps import ns_from_stamp

_FLOAT_STATES = ("x", "y", "z", "vx", "vy", "vz", "l", "w", "h", "yaw", "score")
STATE_FIELDS = np.dtype([(name, "<f4") for name in _FLOAT_STATES] + [("class_id", "<u4"), ("track_id", "<u4")])
"""A point of `~/track_states`: metres, m/s, radians in the header's frame; `class_id` indexes the model's classes."""


def to_detection_array(detections: Detections, boxes: np.ndarray, header: Header) -> Detection3DArray:
    """Detections or Tracks ► vision_msgs/Detection3DArray.

    Args:
        detections: scores, labels and ids.
        boxes: [M, 10] float64, the same boxes in the header's frame.
        header: frame and stamp of the set.
    """
    ids = text_ids(detections)
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.names(), ids, strict=True)
    return Detection3DArray(header=header, detections=[_detection(*row, header) for row in rows])


def text_ids(detections: Detections) -> list[str]:
    """The id of every row as text; empty where there is none."""
    if detections.ids is None:
        return [""] * len(detections.labels)
    return ["" if i < 0 else str(i) for i in detections.ids.tolist()]


def _detection(box: Sequence[float], score: float, name: str, identity: str, header: Header) -> Detection3D:
    pose = pose_of_box(box)
    result = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=name, score=score))
    result.pose.pose = pose
    bbox = BoundingBox3D(center=pose, size=Vector3(x=box[3], y=box[4], z=box[5]))
    return Detection3D(header=header, results=[result], bbox=bbox, id=identity)


def pose_of_box(box: Sequence[float]) -> Pose:
    """Centre and yaw of a box."""
    half = 0.5 * box[6]
    return Pose(
        position=Point(x=box[0], y=box[1], z=box[2]), orientation=Quaternion(z=math.sin(half), w=math.cos(half))
    )


def to_state_cloud(detections: Detections, boxes: np.ndarray, header: Header) -> PointCloud2:
    """Detections or Tracks ► sensor_msgs/PointCloud2, one point each: Detection3D has no room for velocities.

    Same order of rows as `to_detection_array`. `track_id` is the id modulo 2^32, and 2^32 - 1 where there is none.
    """
    points = np.zeros(len(boxes), STATE_FIELDS)
    for name, column in zip(("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy", "vz"), boxes.T, strict=True):
        points[name] = column
    points["score"], points["class_id"] = detections.scores, detections.labels
    ids = np.full(len(boxes), -1, np.int64) if detections.ids is None else detections.ids
    points["track_id"] = (ids % 2**32).astype(np.uint32)
    kinds = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32}
    fields = [
        PointField(name=name, offset=offset, datatype=kinds[dtype.str], count=1)
        for name, (dtype, offset) in STATE_FIELDS.fields.items()
    ]
    return PointCloud2(
        header=header, height=1, width=len(points), fields=fields, point_step=STATE_FIELDS.itemsize,
        row_step=points.nbytes, data=points.tobytes(), is_dense=True,
    )  # fmt: skip


def states_from_cloud(message: Any) -> np.ndarray:
    """PointCloud2 of `to_state_cloud` ► structured array of STATE_FIELDS.

    Raises:
        ConversionError: cause `fields` when the cloud has another layout.
    """
    names = tuple(field.name for field in message.fields)
    if names != STATE_FIELDS.names or message.point_step != STATE_FIELDS.itemsize:
        raise ConversionError("fields", f"track states: fields {names}; expected {STATE_FIELDS.names}")
    return np.frombuffer(bytes(message.data), STATE_FIELDS)


def detections_from_messages(array: Any, states: Any | None = None) -> Detections:
    """Detection3DArray (and the state cloud of the same rows, for velocities) ► Detections in the header's frame.

    Boxes are float64 [M, 10]; velocities are zero without `states`. Ids are None unless every object has one. Classes
    are the published ones, or, where a message has others, those that occur in it, in the order of the alphabet.

    Raises:
        ConversionError: cause `class` for an object without a class, `fields` for a cloud of other rows.
    """
    boxes, scores, names = np.zeros((len(array.detections), 10)), [], []
    for row, detection in zip(boxes, array.detections, strict=True):
        c, s, q = detection.bbox.center.position, detection.bbox.size, detection.bbox.center.orientation
        yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        row[:7] = c.x, c.y, c.z, s.x, s.y, s.z, yaw
        hypothesis = detection.results[0].hypothesis
        if not hypothesis.class_id:
            raise ConversionError("class", "detection: class_id is empty; expected the name of a class")
        scores.append(hypothesis.score)
        names.append(hypothesis.class_id)
    if states is not None:
        points = states_from_cloud(states)
        if len(points) != len(boxes) or ns_from_stamp(states.header.stamp) != ns_from_stamp(array.header.stamp):
            raise ConversionError("fields", f"states: {len(points)} points for {len(boxes)} boxes of another message")
        boxes[:, 7:] = np.stack([points[name] for name in ("vx", "vy", "vz")], axis=1)
    ids = [detection.id for detection in array.detections]
    numbers = np.array([int(i) for i in ids], np.int64) if all(i.isdigit() for i in ids) else None
    class_names = CLASS_NAMES if set(names) <= set(CLASS_NAMES) else tuple(sorted(set(names)))
    labels = np.array([class_names.index(name) for name in names], np.int64)
    return Detections(boxes, np.array(scores, np.float64), labels, ids=numbers, class_names=class_names)
