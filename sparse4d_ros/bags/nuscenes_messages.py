"""nuScenes records ► messages of a bag (rosbags' types). Frame names are the channels in lower case."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from sparse4d_core.data.nuscenes.tables import DETECTION_NAMES, DatasetError, Record, SceneTables

from ..units import MICROSECOND, NANOSECONDS
from .bag_io import typestore

GLOBAL_FRAME, BASE_FRAME = "map", "base_link"
LIDAR = "LIDAR_TOP"  # the model frame of published weights; its calibration is needed, its files are not
ANNOTATION_TOPIC, SAMPLE_TOPIC = "/nuscenes/annotations", "/nuscenes/sample"


def image_topic(channel: str) -> str:
    """Topic of a camera's JPEGs."""
    return f"/{channel.lower()}/image_rect/compressed"


def info_topic(channel: str) -> str:
    """Topic of a camera's CameraInfo."""
    return f"/{channel.lower()}/camera_info"


def stamp_ns(record: Record) -> int:
    """Time of a nuScenes record (microseconds) in nanoseconds."""
    return int(record["timestamp"]) * MICROSECOND


def _new(name: str, **fields: Any) -> Any:
    return typestore().types[name](**fields)


def header(frame_id: str, time_ns: int) -> Any:
    """std_msgs/Header."""
    sec, nanosec = divmod(time_ns, NANOSECONDS)
    return _new(
        "std_msgs/msg/Header", stamp=_new("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec), frame_id=frame_id
    )


def _vector(kind: str, xyz: list[float]) -> Any:
    return _new(f"geometry_msgs/msg/{kind}", x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def _quaternion(wxyz: list[float]) -> Any:
    """nuScenes stores w, x, y, z."""
    w, x, y, z = map(float, wxyz)
    return _new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def transform(parent: str, child: str, time_ns: int, record: Record) -> Any:
    """TransformStamped T_parent_from_child of a record with translation and rotation."""
    pose = _new(
        "geometry_msgs/msg/Transform",
        translation=_vector("Vector3", record["translation"]),
        rotation=_quaternion(record["rotation"]),
    )
    return _new(
        "geometry_msgs/msg/TransformStamped", header=header(parent, time_ns), child_frame_id=child, transform=pose
    )


def tf_message(transforms: list[Any]) -> Any:
    """tf2_msgs/TFMessage."""
    return _new("tf2_msgs/msg/TFMessage", transforms=transforms)


def camera_info(channel: str, sample_data: Record, calibration: Record) -> Any:
    """sensor_msgs/CameraInfo of a rectified camera: D = 0, P = [K | 0]."""
    K = np.array(calibration["camera_intrinsic"], np.float64)
    if K.shape != (3, 3):
        raise DatasetError(
            f"calibrated_sensor {calibration['token']} ({channel}): camera_intrinsic is not a 3x3 matrix"
        )
    no_region = _new("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return _new(
        "sensor_msgs/msg/CameraInfo",
        header=header(channel.lower(), stamp_ns(sample_data)),
        height=int(sample_data["height"]),
        width=int(sample_data["width"]),
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=no_region,
    )


def compressed_image(tables: SceneTables, channel: str, sample_data: Record) -> Any:
    """sensor_msgs/CompressedImage with the bytes of the dataset's JPEG file, untouched.

    Raises:
        DatasetError: the file is missing, empty, or lies outside the dataset.
    """
    path = (tables.dataroot / sample_data["filename"]).resolve()
    if not path.is_relative_to(tables.dataroot.resolve()):
        raise DatasetError(f"sample_data {sample_data['token']}: {sample_data['filename']} lies outside the dataset")
    if not path.is_file() or path.stat().st_size == 0:
        raise DatasetError(f"sample_data {sample_data['token']}: image {path} is missing or empty")
    return _new(
        "sensor_msgs/msg/CompressedImage",
        header=header(channel.lower(), stamp_ns(sample_data)),
        format="jpeg",
        data=np.fromfile(path, np.uint8),
    )


def annotation_array(tables: SceneTables, annotations: list[Record], time_ns: int) -> Any:
    """vision_msgs/Detection3DArray in the global frame; ids are instance tokens, sizes x=length y=width z=height."""
    head = header(GLOBAL_FRAME, time_ns)
    return _new(
        "vision_msgs/msg/Detection3DArray",
        header=head,
        detections=[_annotation(tables, annotation, head) for annotation in annotations],
    )


def _annotation(tables: SceneTables, annotation: Record, head: Any) -> Any:
    """First hypothesis: detection class, if the category has one; last: the category's full name."""
    width, length, height = annotation["size"]
    pose = _new(
        "geometry_msgs/msg/Pose",
        position=_vector("Point", annotation["translation"]),
        orientation=_quaternion(annotation["rotation"]),
    )
    category = tables.category_name(annotation)
    names = [DETECTION_NAMES[category], category] if category in DETECTION_NAMES else [category]
    return _new(
        "vision_msgs/msg/Detection3D",
        header=head,
        results=[_hypothesis(name, pose) for name in names],
        bbox=_new("vision_msgs/msg/BoundingBox3D", center=pose, size=_vector("Vector3", [length, width, height])),
        id=annotation["instance_token"],
    )


def _hypothesis(name: str, pose: Any) -> Any:
    return _new(
        "vision_msgs/msg/ObjectHypothesisWithPose",
        hypothesis=_new("vision_msgs/msg/ObjectHypothesis", class_id=name, score=1.0),
        pose=_new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
    )


def sample_text(tables: SceneTables, scene: Record, sample: Record, time_ns: int) -> Any:
    """std_msgs/String with JSON: which sample the set at `stamp_ns` is, and what Detection3D has no field for."""
    extras = [
        {
            "token": annotation["token"],
            "attributes": [tables.attribute[token]["name"] for token in annotation["attribute_tokens"]],
            "visibility": annotation["visibility_token"],
            "num_lidar_pts": annotation["num_lidar_pts"],
            "num_radar_pts": annotation["num_radar_pts"],
        }
        for annotation in tables.annotations[sample["token"]]
    ]
    content = {
        "token": sample["token"],
        "scene": scene["name"],
        "stamp_ns": time_ns,
        "timestamp": sample["timestamp"],
        "annotations": extras,
    }
    return _new("std_msgs/msg/String", data=json.dumps(content))
