"""sensor_msgs/CameraInfo ► pinhole intrinsics, and what to do about lens distortion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from .image_decoding import ConversionError

DistortionPolicy = Literal["refuse", "undistort", "rectified"]
"""What to do with images whose CameraInfo has D ≠ 0:
`refuse` them, `undistort` them (the raw image's K and D), or take them for already `rectified` (image_proc: use P)."""

_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "fisheye": (4,)}


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera: what the images are after `rectify`."""

    intrinsics: np.ndarray  # [3, 3] float64, pixels
    size_wh: tuple[int, int]  # pixels of the images as they arrive
    frame_id: str
    maps: tuple[np.ndarray, np.ndarray] | None = None  # of cv2.remap; None = images are rectified already

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """Undistorted image, the same size.

        Raises:
            ConversionError: cause `image_size` when the image is not of the size that CameraInfo states.
        """
        if (image.shape[1], image.shape[0]) != self.size_wh:
            raise ConversionError(
                "image_size",
                f"image of {self.frame_id}: {image.shape[1]}x{image.shape[0]} pixels; its CameraInfo says "
                f"{self.size_wh[0]}x{self.size_wh[1]}: publish the CameraInfo of this resolution",
            )
        return image if self.maps is None else cv2.remap(image, *self.maps, cv2.INTER_LINEAR)


def camera_model(info: Any, policy: DistortionPolicy = "refuse") -> CameraModel:
    """The camera that a CameraInfo describes, binning and region of interest included.

    Args:
        info: sensor_msgs/CameraInfo, of rclpy or of a bag reader.
        policy: what to do where D is not zero.

    Raises:
        ConversionError: cause `camera_info` for a K that is zero, not finite or no pinhole matrix; cause `distortion`
            for D ≠ 0 under `refuse`, or for an unknown distortion model.
    """
    distortion = np.asarray(info.d, np.float64).reshape(-1)
    distorted = bool(np.any(distortion != 0))
    rectified = distorted and policy == "rectified"
    matrix = np.asarray(info.p, np.float64).reshape(3, 4)[:, :3] if rectified else np.asarray(info.k, np.float64)
    intrinsics = _checked_intrinsics(matrix.reshape(3, 3), "P" if rectified else "K", info.header.frame_id)
    intrinsics, size_wh = _binned(intrinsics, info)
    maps = None
    if distorted and not rectified:
        maps = _undistortion(info, intrinsics, distortion, size_wh, policy)
    return CameraModel(intrinsics, size_wh, info.header.frame_id, maps)


def _checked_intrinsics(matrix: np.ndarray, name: str, frame_id: str) -> np.ndarray:
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.allclose(matrix[2], (0, 0, 1)):
        raise ConversionError(
            "camera_info",
            f"CameraInfo of {frame_id}: {name} = {matrix.tolist()}; expected positive focal lengths and a last row of "
            "0 0 1: is the camera calibrated?",
        )
    return matrix.copy()


def _binned(intrinsics: np.ndarray, info: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """Intrinsics and size of the delivered image; K itself refers to full resolution (CameraInfo.msg)."""
    binning = np.array((max(info.binning_x, 1), max(info.binning_y, 1)))
    offset = np.array((info.roi.x_offset, info.roi.y_offset))
    size = np.array((info.roi.width or info.width, info.roi.height or info.height)) // binning
    if (size <= 0).any():
        raise ConversionError(
            "camera_info", f"CameraInfo of {info.header.frame_id}: image size {size.tolist()}; expected > 0"
        )
    intrinsics[:2, 2] -= offset
    intrinsics[:2] /= binning[:, None]
    return intrinsics, (int(size[0]), int(size[1]))


def _undistortion(
    info: Any, intrinsics: np.ndarray, distortion: np.ndarray, size_wh: tuple[int, int], policy: str
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of cv2.remap from the distorted image to a pinhole image with the same intrinsics."""
    frame_id, model = info.header.frame_id, info.distortion_model
    if policy == "refuse":
        raise ConversionError(
            "distortion",
            f"CameraInfo of {frame_id}: D = {distortion.tolist()}; expected rectified images (D = 0): set the "
            "distortion policy to 'undistort' for raw images or to 'rectified' for the output of image_proc",
        )
    if policy != "undistort":
        raise ValueError(f"policy: {policy!r}; expected 'refuse', 'undistort' or 'rectified'")
    if model not in _COEFFICIENTS or len(distortion) not in _COEFFICIENTS[model]:
        known = ", ".join(f"{name} ({' or '.join(map(str, count))})" for name, count in _COEFFICIENTS.items())
        raise ConversionError(
            "distortion",
            f"CameraInfo of {frame_id}: distortion model {model!r} with {len(distortion)} coefficients; "
            f"expected {known}",
        )
    if model in ("equidistant", "fisheye"):
        return cv2.fisheye.initUndistortRectifyMap(intrinsics, distortion, np.eye(3), intrinsics, size_wh, cv2.CV_16SC2)
    return cv2.initUndistortRectifyMap(intrinsics, distortion, np.eye(3), intrinsics, size_wh, cv2.CV_16SC2)
