"""Cameras, calibration and transforms of a rig, published live from a thread; a fault may change any message."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from ..messages.stamps import make_header
from ..perception.rig import Rig, RigCamera

IMAGE, INFO, TF = "image", "info", "tf"
QUEUE_DEPTH = 12  # messages

Change = Callable[[str, str, Any], Sequence[Any]]
"""(IMAGE, INFO or TF; camera, of TF the child frame; message) -> what goes out, messages or serialized bytes."""


def unchanged(kind: str, source: str, message: Any) -> Sequence[Any]:
    return [message]


class CameraStreams:
    """Publishes from its construction until `close`. Cameras are staggered by what publishing takes.

    Args:
        node: owns the publishers.
        rig: which topics, and whether images are raw.
        rate: sets a second.
        size_wh: of the images, pixels.

    Attributes:
        change: applied to every message but the static transforms; may be replaced at any time.
        paused: nothing is published while it is set.
        sets: published so far.
    """

    def __init__(self, node: Node, rig: Rig, rate: float, size_wh: tuple[int, int]):
        self._rig, self._period, self._size_wh = rig, 1.0 / rate, size_wh
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = node.create_publisher(TFMessage, "/tf_static", latched)
        self._static.publish(static_transforms(rig))
        self._poses = node.create_publisher(TFMessage, "/tf", 100)
        self._images = {
            c: node.create_publisher(
                CompressedImage if c.transport == "compressed" else Image, c.image_topic, QUEUE_DEPTH
            )
            for c in rig.cameras
        }
        self._infos = {c: node.create_publisher(CameraInfo, c.info_topic, QUEUE_DEPTH) for c in rig.cameras}
        self._pictures = {camera: picture(camera, size_wh) for camera in rig.cameras}
        self.change: Change = unchanged
        self.paused, self.sets = threading.Event(), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def publish_set(self) -> None:
        """One image of each camera, with its calibration and the pose at its stamp: now."""
        change, frames = self.change, self._rig.frames
        for camera in self._rig.cameras:
            stamp_ns = time.time_ns()
            self._send(self._poses, change(TF, frames.base_frame, ego_pose(self._rig, stamp_ns)))
            self._send(self._infos[camera], change(INFO, camera.name, camera_info(camera, stamp_ns, self._size_wh)))
            image = self._pictures[camera]
            image.header = make_header(camera.frame, stamp_ns)
            self._send(self._images[camera], change(IMAGE, camera.name, image))
        self.sets += 1

    @staticmethod
    def _send(publisher: Any, messages: Sequence[Any]) -> None:
        for message in messages:
            publisher.publish(message)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if not self.paused.is_set():
                self.publish_set()
            due = max(due + self._period, time.monotonic() - self._period)  # after a stall not all at once
            self._stop.wait(max(0.0, due - time.monotonic()))


def picture(camera: RigCamera, size_wh: tuple[int, int]) -> Any:
    """An image message of a camera, without a stamp: coarse noise."""
    width, height = size_wh
    coarse = np.random.default_rng(len(camera.name)).integers(0, 255, (height // 12 + 1, width // 12 + 1, 3), np.uint8)
    pixels = cv2.resize(coarse, size_wh, interpolation=cv2.INTER_CUBIC)
    if camera.transport == "compressed":
        return CompressedImage(format="jpeg", data=cv2.imencode(".jpg", pixels)[1].tobytes())
    return Image(width=width, height=height, step=3 * width, encoding="bgr8", data=pixels.tobytes())


def camera_info(camera: RigCamera, stamp_ns: int, size_wh: tuple[int, int]) -> CameraInfo:
    """A pinhole without distortion."""
    width, height = size_wh
    header = make_header(camera.frame, stamp_ns)
    info = CameraInfo(header=header, width=width, height=height, distortion_model="plumb_bob")
    focal = 0.8 * width
    info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.d = [0.0] * 5
    return info


def ego_pose(rig: Rig, stamp_ns: int) -> TFMessage:
    """The vehicle stands still."""
    return TFMessage(transforms=[transform(rig.frames.global_frame, rig.frames.base_frame, stamp_ns)])


def static_transforms(rig: Rig) -> TFMessage:
    """Where the cameras look does not matter here: all frames coincide."""
    children = [rig.frames.model_frame, *rig.frames.cameras.values()]
    return TFMessage(transforms=[transform(rig.frames.base_frame, child, 0) for child in children])


def transform(parent: str, child: str, stamp_ns: int) -> TransformStamped:
    """Parent and child coincide."""
    message = TransformStamped(header=make_header(parent, stamp_ns), child_frame_id=child)
    message.transform.rotation.w = 1.0
    return message
