"""Messages of a small rig that drives along x: what the node's tests feed it with."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from sparse4d_ros.messages.stamps import make_header, stamp_from_ns

MS = 10**6
START = 1_700_000_000 * 10**9
CAMERAS = ("cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right")
STAGGER_NS = {camera: 7 * i * MS for i, camera in enumerate(CAMERAS)}
SPEED = 5.0  # m/s
SIZE = (352, 198)  # pixels
PERIOD = 100 * MS
LOOK_FORWARD = (-0.5, 0.5, -0.5, 0.5)  # optical frame (z forward) in a frame with x forward


def image_stamps(k: int, start_ns: int = START) -> dict[str, int]:
    """Camera -> stamp of its image in set number k."""
    return {camera: start_ns + k * PERIOD + stagger for camera, stagger in STAGGER_NS.items()}


def set_stamp(k: int, start_ns: int = START) -> int:
    return max(image_stamps(k, start_ns).values())


@cache
def pixels(camera: str, size: tuple[int, int] = SIZE) -> np.ndarray:
    noise = np.random.default_rng(CAMERAS.index(camera)).integers(
        0, 255, (size[1] // 16 + 1, size[0] // 16 + 1, 3), np.uint8
    )
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)


@cache
def jpeg(camera: str, size: tuple[int, int] = SIZE) -> bytes:
    return cv2.imencode(".jpg", pixels(camera, size))[1].tobytes()


def compressed(camera: str, stamp_ns: int, data: bytes | None = None, frame: str | None = None) -> CompressedImage:
    header = make_header(camera if frame is None else frame, stamp_ns)
    return CompressedImage(header=header, format="jpeg", data=jpeg(camera) if data is None else data)


def raw(camera: str, stamp_ns: int, encoding: str = "bgr8", size: tuple[int, int] = SIZE) -> Image:
    data = pixels(camera, size)
    return Image(
        header=make_header(camera, stamp_ns), height=size[1], width=size[0], encoding=encoding, step=3 * size[0],
        data=data.tobytes(),
    )  # fmt: skip


def camera_info(camera: str, stamp_ns: int, k: tuple | None = None, d: tuple = (0.0,) * 5) -> CameraInfo:
    fx, cx, cy = 280.0, SIZE[0] / 2, SIZE[1] / 2
    matrix = (fx, 0.0, cx, 0.0, fx, cy, 0.0, 0.0, 1.0) if k is None else k
    info = CameraInfo(header=make_header(camera, stamp_ns), width=SIZE[0], height=SIZE[1], distortion_model="plumb_bob")
    info.k, info.d = [float(x) for x in matrix], [float(x) for x in d]
    info.p = [*info.k[:3], 0.0, *info.k[3:6], 0.0, *info.k[6:], 0.0]
    return info


def transform(parent: str, child: str, stamp_ns: int, translation=(0.0, 0.0, 0.0), rotation=(0.0, 0.0, 0.0, 1.0)):
    message = TransformStamped(child_frame_id=child)
    message.header = make_header(parent, stamp_ns)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = map(float, translation)
    q.x, q.y, q.z, q.w = map(float, rotation)
    return message


def static_transforms(cameras: tuple[str, ...] = CAMERAS) -> TFMessage:
    half = np.sqrt(0.5)
    transforms = [transform("base_link", "lidar_top", 0, (0.9, 0.0, 1.8), (0.0, 0.0, -half, half))]
    transforms += [transform("base_link", camera, 0, (1.5, 0.0, 1.5), LOOK_FORWARD) for camera in cameras]
    return TFMessage(transforms=transforms)


def ego_pose(stamp_ns: int) -> TFMessage:
    x = SPEED * (stamp_ns - START) * 1e-9
    return TFMessage(transforms=[transform("map", "base_link", stamp_ns, (x, 0.0, 0.0))])


def restamped(message, stamp_ns: int):
    message.header.stamp = stamp_from_ns(stamp_ns)
    return message
