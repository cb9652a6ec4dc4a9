"""Messages ◄► core types, both directions. The only module that knows both.

Incoming messages are read by their fields, so rclpy's classes and those of a bag reader do alike; outgoing ones are
rclpy's. Boxes leave in the base frame: size x = length, y = width, z = height, yaw about z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import CompressedImage, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesis, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

from sparse4d_core.geometry import transform_boxes
from sparse4d_core.types import CLASS_NAMES, Detections, Frame, Tracks
from sparse4d_core.visualization import CLASS_COLORS_RGB

from ..bags.record import SetRecord
from ..perception.camera_model import CameraModel, DistortionPolicy, camera_model
from ..perception.image_decoding import ConversionError, decode_image
from ..perception.transforms import TransformBuffer, TransformError

__all__ = [
    "build_frame", "camera_model", "CameraModel", "check_header", "ConversionError", "decode_image",
    "detections_from_messages", "DistortionPolicy", "insert_transforms", "make_header", "ns_from_stamp",
    "record_from_messages", "RigFrames", "stamp_from_ns", "STATE_FIELDS", "states_from_cloud", "to_base_frame",
    "to_compressed_image", "to_detection_array", "to_markers", "to_messages", "to_state_cloud",
]  # fmt: skip

NANOSECONDS = 1_000_000_000
MIN_ARROW_SPEED = 0.3  # m/s; slower objects get no velocity arrow
MARKER_LIFETIME = 1  # s; pictures of a node that stopped fade

_FLOAT_STATES = ("x", "y", "z", "vx", "vy", "vz", "l", "w", "h", "yaw", "score")
STATE_FIELDS = np.dtype([(name, "<f4") for name in _FLOAT_STATES] + [("class_id", "<u4"), ("track_id", "<u4")])
"""A point of `~/track_states`: metres, m/s, radians in the header's frame; `class_id` indexes CLASS_NAMES."""


# ---------------------------------------------------------------------------------------------------------------- time


def ns_from_stamp(stamp: Any) -> int:
    """builtin_interfaces/Time ► nanoseconds since the epoch."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def stamp_from_ns(stamp_ns: int) -> Time:
    """Nanoseconds since the epoch ► builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
    return Time(sec=sec, nanosec=nanosec)


# ------------------------------------------------------------------------------------------------------------ incoming


@dataclass(frozen=True)
class RigFrames:
    """Names of the frames that a rig hangs together by."""

    cameras: Mapping[str, str]  # camera name -> optical frame, in the order of the model's cameras
    global_frame: str = "map"
    base_frame: str = "base_link"
    model_frame: str = "lidar_top"
    T_base_from_model: np.ndarray | None = None  # [4, 4]; None: TF knows `model_frame`
    rectified: frozenset[str] = frozenset()  # names of the cameras whose images are rectified


def insert_transforms(buffer: TransformBuffer, message: Any, static: bool) -> None:
    """Put every transform of a tf2_msgs/TFMessage into the buffer.

    Raises:
        TransformError: for the first invalid transform, after the valid ones are in.
    """
    failure: Exception | None = None
    for transform in message.transforms:
        t, q = transform.transform.translation, transform.transform.rotation
        try:
            buffer.insert(
                transform.header.frame_id,
                transform.child_frame_id,
                ns_from_stamp(transform.header.stamp),
                np.array((t.x, t.y, t.z)),
                np.array((q.x, q.y, q.z, q.w)),
                static=static,
            )
        except TransformError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def check_header(message: Any, frame_id: str) -> int:
    """Stamp of an image in nanoseconds, after a look at its header.

    Raises:
        ConversionError: cause `stamp` for a zero stamp, `frame_id` for an image of another frame.
    """
    if message.header.frame_id.lstrip("/") != frame_id:
        raise ConversionError(
            "frame_id", f"image: frame {message.header.frame_id!r}; the rig expects {frame_id!r} on this topic"
        )
    stamp_ns = ns_from_stamp(message.header.stamp)
    if stamp_ns <= 0:
        raise ConversionError("stamp", f"image of {frame_id}: stamp {stamp_ns} ns; expected the time of exposure")
    return stamp_ns


def build_frame(
    images: Mapping[str, tuple[int, np.ndarray] | None],
    stamp_ns: int,
    cameras: Mapping[str, CameraModel],
    rig: RigFrames,
    buffer: TransformBuffer,
) -> Frame:
    """One synchronized set ► Frame, every camera posed by the ego motion at its own image's stamp.

    Args:
        images: camera name -> (stamp in nanoseconds, decoded BGR image); None or absent = camera missing.
        stamp_ns: stamp of the set, nanoseconds.
        cameras: camera name -> its model; needed for the cameras that have an image.
        rig: names of the frames.
        buffer: the transforms.

    Raises:
        ConversionError: an image that does not fit its CameraInfo, or has none.
        TransformError: as tf2 would for the same lookup.
    """
    T_base_from_model = np.eye(4) if rig.T_base_from_model is None else rig.T_base_from_model
    source = rig.model_frame if rig.T_base_from_model is None else rig.base_frame
    pixels: list[np.ndarray | None] = []
    intrinsics, T_cam_from_model = [], []
    for name, optical_frame in rig.cameras.items():
        image_ns, image = images.get(name) or (stamp_ns, None)
        model = cameras.get(name)
        if image is not None and model is None:
            raise ConversionError("camera_info", f"camera {name}: image without CameraInfo; publish its calibration")
        pixels.append(None if image is None else model.rectify(image))
        intrinsics.append(np.eye(3) if model is None else model.intrinsics)
        if image is None:  # masked: the pipeline looks at neither its pose nor its intrinsics
            T_cam_from_model.append(np.eye(4))
            continue
        pose = buffer.lookup_full(optical_frame, image_ns, source, stamp_ns, rig.global_frame)
        T_cam_from_model.append(model.T_cam_from_optical @ pose.matrix @ T_base_from_model)
    return Frame(
        images=tuple(pixels),
        intrinsics=np.stack(intrinsics),
        T_cam_from_model=np.stack(T_cam_from_model),
        T_global_from_model=buffer.lookup(rig.global_frame, source, stamp_ns).matrix @ T_base_from_model,
        stamp_ns=stamp_ns,
        camera_names=tuple(rig.cameras),
    )


# ------------------------------------------------------------------------------------------------------------ outgoing


def to_base_frame(detections: Detections, rig: RigFrames, buffer: TransformBuffer, stamp_ns: int) -> np.ndarray:
    """Boxes [M, 10] float64 of model-frame detections in the base frame, where the messages have them."""
    T_base_from_model = rig.T_base_from_model
    if T_base_from_model is None:
        T_base_from_model = buffer.lookup(rig.base_frame, rig.model_frame, stamp_ns).matrix
    return transform_boxes(detections.boxes, T_base_from_model)


def make_header(frame_id: str, stamp_ns: int) -> Header:
    """std_msgs/Header."""
    return Header(frame_id=frame_id, stamp=stamp_from_ns(stamp_ns))


def to_detection_array(detections: Detections, boxes: np.ndarray, header: Header) -> Detection3DArray:
    """Detections or Tracks ► vision_msgs/Detection3DArray.

    Args:
        detections: scores, labels and ids.
        boxes: [M, 10] float64, the same boxes in the header's frame (`to_base_frame`).
        header: frame and stamp of the set.
    """
    ids = _text_ids(detections)
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), ids, strict=True)
    return Detection3DArray(header=header, detections=[_detection(*row, header) for row in rows])


def _text_ids(detections: Detections) -> list[str]:
    if detections.ids is None:
        return [""] * len(detections.labels)
    return ["" if i < 0 else str(i) for i in detections.ids.tolist()]


def _detection(box: Sequence[float], score: float, label: int, identity: str, header: Header) -> Detection3D:
    pose = _pose(box)
    result = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=CLASS_NAMES[label], score=score))
    result.pose.pose = pose
    bbox = BoundingBox3D(center=pose, size=Vector3(x=box[3], y=box[4], z=box[5]))
    return Detection3D(header=header, results=[result], bbox=bbox, id=identity)


def _pose(box: Sequence[float]) -> Pose:
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


def to_messages(
    detections: Detections, tracks: Tracks, rig: RigFrames, buffer: TransformBuffer, stamp_ns: int
) -> dict[str, Any]:
    """What is published for a set, by topic: detections, detection_states, tracks, track_states; in the base frame.

    Raises:
        TransformError: no transform from the model frame to the base frame.
    """
    header = make_header(rig.base_frame, stamp_ns)
    messages: dict[str, Any] = {}
    for name, found in (("detection", detections), ("track", tracks)):
        boxes = to_base_frame(found, rig, buffer, stamp_ns)
        messages[f"{name}s"] = to_detection_array(found, boxes, header)
        messages[f"{name}_states"] = to_state_cloud(found, boxes, header)
    return messages


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

    Boxes are float64 [M, 10]; velocities are zero without `states`. Ids are None unless every object has one.

    Raises:
        ConversionError: cause `class` for an unknown class, `fields` for a cloud of other rows.
    """
    boxes, scores, labels = np.zeros((len(array.detections), 10)), [], []
    for row, detection in zip(boxes, array.detections, strict=True):
        c, s, q = detection.bbox.center.position, detection.bbox.size, detection.bbox.center.orientation
        yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        row[:7] = c.x, c.y, c.z, s.x, s.y, s.z, yaw
        hypothesis = detection.results[0].hypothesis
        if hypothesis.class_id not in CLASS_NAMES:
            raise ConversionError("class", f"detection: class {hypothesis.class_id!r}; expected one of {CLASS_NAMES}")
        scores.append(hypothesis.score)
        labels.append(CLASS_NAMES.index(hypothesis.class_id))
    if states is not None:
        points = states_from_cloud(states)
        if len(points) != len(boxes) or ns_from_stamp(states.header.stamp) != ns_from_stamp(array.header.stamp):
            raise ConversionError("fields", f"states: {len(points)} points for {len(boxes)} boxes of another message")
        boxes[:, 7:] = np.stack([points[name] for name in ("vx", "vy", "vz")], axis=1)
    ids = [detection.id for detection in array.detections]
    numbers = np.array([int(i) for i in ids], np.int64) if all(i.isdigit() for i in ids) else None
    return Detections(boxes, np.array(scores, np.float64), np.array(labels, np.int64), ids=numbers)


def record_from_messages(
    detections: Any, detection_states: Any, tracks: Any, track_states: Any, received_ns: int = 0
) -> SetRecord:
    """The four messages of one set ► what the record keeps of them."""
    found = detections_from_messages(detections, detection_states)
    tracked = detections_from_messages(tracks, track_states)
    return SetRecord(
        ns_from_stamp(detections.header.stamp),
        detections.header.frame_id,
        found,
        Tracks(tracked.boxes, tracked.scores, tracked.labels, ids=tracked.ids),
        received_ns,
    )


def to_compressed_image(picture: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """[H, W, 3] uint8 BGR ► sensor_msgs/CompressedImage (JPEG of that quality, 1 to 100)."""
    encoded, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not encoded:
        raise ConversionError("image_data", f"picture: OpenCV could not encode {picture.shape} {picture.dtype} as JPEG")
    return CompressedImage(header=header, format="jpeg", data=data.tobytes())


# ------------------------------------------------------------------------------------------------------------- markers


def to_markers(tracks: Detections, boxes: np.ndarray, header: Header) -> MarkerArray:
    """Tracks ► visualization_msgs/MarkerArray: DELETEALL, then box, text (class, id if any) and arrow of each."""
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    ids = _text_ids(tracks)
    for number, (box, label, identity) in enumerate(zip(boxes.tolist(), tracks.labels.tolist(), ids, strict=True)):
        name = CLASS_NAMES[label]
        color = tuple(value / 255 for value in CLASS_COLORS_RGB[name])
        markers.append(_box_marker(box, color, header, number))
        markers.append(_text_marker(box, f"{name} {identity}".strip(), header, number))
        if math.hypot(box[7], box[8]) > MIN_ARROW_SPEED:
            markers.append(_arrow_marker(box, color, header, number))
    return MarkerArray(markers=markers)


def _marker(
    namespace: str, kind: int, color: tuple[float, float, float], alpha: float, header: Header, number: int
) -> Marker:
    r, g, b = color
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=r, g=g, b=b, a=alpha)
    marker.lifetime = Duration(sec=MARKER_LIFETIME)
    return marker


def _box_marker(box: Sequence[float], color: tuple[float, float, float], header: Header, number: int) -> Marker:
    marker = _marker("boxes", Marker.CUBE, color, 0.5, header, number)
    marker.pose = _pose(box)
    marker.scale = Vector3(x=box[3], y=box[4], z=box[5])
    return marker


def _text_marker(box: Sequence[float], text: str, header: Header, number: int) -> Marker:
    marker = _marker("ids", Marker.TEXT_VIEW_FACING, (1.0, 1.0, 1.0), 1.0, header, number)
    marker.pose.position = Point(x=box[0], y=box[1], z=box[2] + 0.5 * box[5] + 0.5)
    marker.scale.z = 0.6
    marker.text = text
    return marker


def _arrow_marker(box: Sequence[float], color: tuple[float, float, float], header: Header, number: int) -> Marker:
    """From the centre to where the object will be in one second."""
    marker = _marker("velocity", Marker.ARROW, color, 1.0, header, number)
    marker.points = [Point(x=box[0], y=box[1], z=box[2]), Point(x=box[0] + box[7], y=box[1] + box[8], z=box[2])]
    marker.scale = Vector3(x=0.15, y=0.35, z=0.4)
    return marker
