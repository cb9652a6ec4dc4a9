"""Camera messages ► small pictures with their calibration and poses, as the scene keeps them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import cv2
import numpy as np

from sparse4d_core.boxes import inverse

from ..perception.camera_reader import CameraReader
from ..perception.image_decoding import ConversionError
from ..perception.rig import RigFrames
from ..perception.transforms import TransformBuffer, TransformError
from .scene import CameraImage

WIDTH = 416  # pixels of a picture
QUALITY = 80  # of its JPEG


class Thumbnails:
    """Makes the pictures of one rig. Not for two threads at once.

    Args:
        frames: of the rig.
        buffer: transforms; may grow while a pose is awaited.
    """

    def __init__(self, frames: RigFrames, buffer: TransformBuffer):
        self._frames, self._buffer, self._deadline = frames, buffer, 0.0
        self._readers = {
            camera: CameraReader(camera, camera in frames.rectified, "undistort", reduction=partial(reduction, WIDTH))
            for camera in frames.cameras
        }

    def picture(self, camera: str, stamp_ns: int, message: Any, info: Any) -> CameraImage:
        """The small picture of one message; its poses are None where TF lacks them.

        Args:
            message: sensor_msgs/Image or CompressedImage.
            info: the camera's sensor_msgs/CameraInfo.

        Raises:
            ConversionError: an image or a calibration that cannot be used; names the camera.
        """
        image, model = self._readers[camera].read(message, info)
        small, intrinsics = shrink(image, model.intrinsics, WIDTH)
        encoded, data = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        if not encoded:
            raise ConversionError("image_data", f"camera {camera}: OpenCV could not encode {small.shape} as JPEG")
        frame, T_optical_from_cam = self._frames.cameras[camera], inverse(model.T_cam_from_optical)
        poses = [self.pose(target, frame, stamp_ns) for target in (self._frames.base_frame, self._frames.global_frame)]
        return CameraImage(
            stamp_ns,
            data.tobytes(),
            (small.shape[1], small.shape[0]),
            intrinsics,
            *(None if pose is None else pose @ T_optical_from_cam for pose in poses),
        )

    def wait_at_most(self, seconds: float) -> None:
        """From now on, for all poses together; 0, as at first, where nobody fills the buffer meanwhile."""
        self._deadline = time.monotonic() + seconds

    def pose(self, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
        """T_target_from_source [4, 4] at a time, after waiting for it; None: TF does not have it."""
        while True:
            revision = self._buffer.revision
            try:
                return self._buffer.lookup(target, source, stamp_ns).matrix
            except TransformError:
                if not self._buffer.wait_for_change(revision, self._deadline - time.monotonic()):
                    return None


def reduction(width: int, size_wh: tuple[int, int]) -> int:
    """By how much a JPEG is reduced while it is decoded, so that it stays at least `width` pixels wide where it is."""
    return max((factor for factor in (2, 4, 8) if size_wh[0] >= factor * width), default=1)


def shrink(image: np.ndarray, intrinsics: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The image [H, W, 3] at most `width` pixels wide, and its intrinsics [3, 3]."""
    factor = min(1.0, width / image.shape[1])
    size = round(image.shape[1] * factor), max(1, round(image.shape[0] * factor))
    # Averaging over areas is for images that were not reduced before; it takes five times as long.
    way = cv2.INTER_LINEAR if factor > 0.5 else cv2.INTER_AREA
    small = image if factor == 1.0 else cv2.resize(image, size, interpolation=way)
    return small, np.diag([size[0] / image.shape[1], size[1] / image.shape[0], 1.0]) @ intrinsics
