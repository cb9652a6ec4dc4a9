"""sensor_msgs/CameraInfo ► the pinhole camera that a stream's images are; the rules are image_geometry's.

| stream    | intrinsics | lens                                            | camera frame                              |
|-----------|------------|-------------------------------------------------|-------------------------------------------|
| raw       | K          | D: refused or undistorted as the policy demands | the optical frame (header.frame_id)       |
| rectified | P[:, :3]   | none left; image_proc repeats the D of before   | the optical frame turned by R, moved by T |

CameraInfo does not state which of the two a stream is: the topic does (`is_rectified`), or the rig's `rectified`.

- T = (Tx / fx', Ty / fy', 0) metres from P[:, 3], as the message defines it for the second camera of a stereo pair,
  whose header names the *first* camera's optical frame. A camera with a frame of its own in TF must publish
  Tx = Ty = 0, or it is shifted twice.
- R = 0 is "not given" (the message has it for stereo cameras only), allowed where Tx = Ty = 0. P = 0 is "not given"
  too, allowed where nothing distinguishes a rectified image from a raw one: D = 0, and R the identity or not given.
- image_proc passes images with D = 0 through as they are: what it publishes of such a camera fits P and R only if
  P = [K | 0] and R = I.
- D = 0 means no lens with every distortion model, `equidistant` included: a fisheye that follows the ideal model needs
  a coefficient next to 0.
- K and P belong to the full sensor. The region of interest is taken off first, then binning divides. `do_rectify` asks
  for another region of the rectified image; image_proc keeps the raw region, so it changes nothing here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np

from .image_decoding import ConversionError
from .lens import COEFFICIENTS, MAX_FIELD_OF_VIEW_DEG, Pinhole, undistorted

DistortionPolicy = Literal["refuse", "undistort", "rectified"]
"""What to do with raw images whose CameraInfo has D ≠ 0: `refuse` or `undistort` them; `rectified` takes every stream
for rectified, whatever its topic is called."""

Rectified = Literal["auto", "true", "false"]
"""Whether a stream is rectified; `auto`: if its topic's name contains `image_rect`."""

_ROTATION_TOLERANCE = 1e-3  # calibration files round R

log = logging.getLogger(__name__)


def is_rectified(image_topic: str, setting: Rectified = "auto") -> bool:
    """Whether images of this topic are rectified: /front/image_rect, /front/image_rect_color/compressed, ..."""
    if setting not in ("auto", "true", "false"):
        raise ValueError(f"rectified: expected 'auto', 'true' or 'false', got {setting!r}")
    return "image_rect" in image_topic if setting == "auto" else setting == "true"


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera: what the images are after `rectify`."""

    intrinsics: np.ndarray  # [3, 3] float64, pixels
    size_wh: tuple[int, int]  # pixels of the images as they arrive
    frame_id: str  # the optical frame
    maps: tuple[np.ndarray, np.ndarray] | None = None  # of cv2.remap; None = images are pinhole images already
    T_cam_from_optical: np.ndarray = field(default_factory=lambda: np.eye(4))  # [4, 4] float64; not I if rectified
    lost_field_of_view_deg: tuple[float, float] | None = None  # of a fisheye lens: horizontal, vertical
    name: str = ""  # of the camera, in messages; empty: frame_id

    def rectify(self, image: np.ndarray) -> np.ndarray:
        """Undistorted image, the same size.

        Raises:
            ConversionError: cause `image_size` when the image is not of the size that CameraInfo states.
        """
        if (image.shape[1], image.shape[0]) != self.size_wh:
            raise ConversionError(
                "image_size",
                f"image of {self.name or self.frame_id}: {image.shape[1]}x{image.shape[0]} pixels; its CameraInfo says "
                f"{self.size_wh[0]}x{self.size_wh[1]} (after region of interest and binning): publish the CameraInfo "
                "of this resolution",
            )
        return image if self.maps is None else cv2.remap(image, *self.maps, cv2.INTER_LINEAR)


def camera_model(
    info: Any,
    policy: DistortionPolicy = "refuse",
    rectified: bool = False,
    name: str = "",
    max_field_of_view_deg: float = MAX_FIELD_OF_VIEW_DEG,
    reduction: int = 1,
) -> CameraModel:
    """The camera that a CameraInfo describes.

    Args:
        info: sensor_msgs/CameraInfo, of rclpy or of a bag reader.
        policy: what to do with a raw image where D is not zero.
        rectified: whether the images are rectified (`is_rectified`).
        name: of the camera, for messages; empty: its frame.
        max_field_of_view_deg: degrees that the pinhole made from a fisheye may show, across width and height.
        reduction: images are decoded at 1 / reduction of their size, rounded up (`decode_image`).

    Raises:
        ConversionError: cause `camera_info` for numbers that describe no camera, `distortion` for D ≠ 0 under `refuse`
            or a lens that is not known. The message names the camera, the field, what it holds and what to do.
    """
    if policy not in ("refuse", "undistort", "rectified"):
        raise ValueError(f"policy: expected 'refuse', 'undistort' or 'rectified', got {policy!r}")
    reader = _Reader(info, name or info.header.frame_id)
    K = reader.pinhole("k", info.k)
    distortion = reader.numbers("d", info.d)
    T_cam_from_optical = np.eye(4)
    if rectified or policy == "rectified":
        K, T_cam_from_optical, distortion = *reader.rectified(K, distortion), np.zeros(0)
    intrinsics, size_wh = reader.delivered(K, reduction)
    if not distortion.any():
        return CameraModel(intrinsics, size_wh, info.header.frame_id, None, T_cam_from_optical, name=name)
    pinhole = reader.undistorted(distortion, intrinsics, size_wh, policy, max_field_of_view_deg)
    return CameraModel(
        pinhole.intrinsics, size_wh, info.header.frame_id, pinhole.maps, np.eye(4), pinhole.lost_deg, name
    )


def image_wh(info: Any, name: str = "") -> tuple[int, int]:
    """Width and height of the images that come with a CameraInfo: after region of interest and binning.

    Raises:
        ConversionError: cause `camera_info`.
    """
    return _Reader(info, name or info.header.frame_id).delivered(np.eye(3), 1)[1]


@dataclass(frozen=True)
class _Reader:
    """Reads one CameraInfo, refusing what it cannot honour."""

    info: Any
    name: str

    def refusal(self, field: str, got: Any, expected: str, fix: str, cause: str = "camera_info") -> ConversionError:
        got = got.tolist() if isinstance(got, np.ndarray) else got
        return ConversionError(cause, f"CameraInfo of {self.name}: {field} = {got}; expected {expected}: {fix}")

    def numbers(self, field: str, values: Any) -> np.ndarray:
        numbers = np.asarray(values, np.float64).reshape(-1)
        if not np.isfinite(numbers).all():
            raise self.refusal(field.upper(), numbers, "finite numbers", "calibrate the camera again")
        return numbers

    def pinhole(self, field: str, values: Any) -> np.ndarray:
        """[3, 3] of K, or [3, 4] of P: positive focal lengths, no skew, last row 0 0 1 (0)."""
        matrix = self.numbers(field, values).reshape(3, -1)
        fixed = [matrix[0, 1], matrix[1, 0], *matrix[2, :2], *matrix[2, 3:], matrix[2, 2] - 1]
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or not np.allclose(fixed, 0):
            raise self.refusal(
                field.upper(), matrix, "positive focal lengths, no skew and a last row of 0 0 1",
                "calibrate the camera; all zeros mean that it is not",
            )  # fmt: skip
        return matrix

    def rectified(self, K: np.ndarray, distortion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intrinsics [3, 3] of the whole rectified image, and T_cam_from_optical [4, 4]."""
        R, P = self.numbers("r", self.info.r).reshape(3, 3), self.numbers("p", self.info.p)
        if not P.any():
            if distortion.any() or not (np.array_equal(R, np.eye(3)) or not R.any()):
                raise self.refusal(
                    "P", P, "the projection of the rectified image, as D or R says that it differs from the raw one",
                    "calibrate the camera, or set 'rectified: false' for this camera in the rig file",
                )  # fmt: skip
            return K, np.eye(4)
        P = self.pinhole("p", P)
        T_cam_from_optical = np.eye(4)
        T_cam_from_optical[:2, 3] = P[:2, 3] / P[(0, 1), (0, 1)]
        if R.any() or P[:2, 3].any():
            T_cam_from_optical[:3, :3] = self._rotation(R)
        return P[:, :3].copy(), T_cam_from_optical

    def _rotation(self, R: np.ndarray) -> np.ndarray:
        if np.abs(R @ R.T - np.eye(3)).max() > _ROTATION_TOLERANCE or np.linalg.det(R) < 0:
            raise self.refusal(
                "R", R, "a rotation", "publish the rectifying rotation, 1 0 0 0 1 0 0 0 1 for a single camera"
            )
        return R

    def delivered(self, K: np.ndarray, reduction: int) -> tuple[np.ndarray, tuple[int, int]]:
        """Intrinsics and size of the images as they are decoded; `K` belongs to the full sensor."""
        info, roi = self.info, self.info.roi
        full = np.array((info.width, info.height))
        if (full <= 0).any():
            raise self.refusal("width, height", full, "positive numbers", "publish the size of the full sensor")
        offset, size = np.array((roi.x_offset, roi.y_offset)), np.array((roi.width, roi.height))
        if not offset.any() and not size.any():
            size = full
        if (size <= 0).any() or (offset + size > full).any():
            raise self.refusal(
                "roi", f"{size[0]}x{size[1]} at {offset[0]}, {offset[1]}",
                f"a part of the {full[0]}x{full[1]} pixels", "give it in pixels of the full sensor, or leave it 0",
            )  # fmt: skip
        binning = np.array((max(info.binning_x, 1), max(info.binning_y, 1)))
        size = size // binning
        if (size <= 0).any():
            raise self.refusal("binning_x, binning_y", binning, "an image that is left", "0 or 1 means no binning")
        intrinsics = K.copy()
        intrinsics[:2, 2] -= offset
        intrinsics[:2] /= binning[:, None] * reduction
        return intrinsics, (-(-int(size[0]) // reduction), -(-int(size[1]) // reduction))

    def undistorted(
        self, distortion: np.ndarray, intrinsics: np.ndarray, size_wh: tuple[int, int], policy: str, limit_deg: float
    ) -> Pinhole:
        model = self.info.distortion_model
        if policy == "refuse":
            raise self.refusal(
                "D", distortion, "rectified images (D = 0)",
                "set the parameter distortion to 'undistort' for raw images, or 'rectified: true' for this camera in "
                "the rig file if they come out of image_proc", "distortion",
            )  # fmt: skip
        if len(distortion) not in COEFFICIENTS.get(model, ()):
            known = ", ".join(f"{name} ({' or '.join(map(str, count))})" for name, count in COEFFICIENTS.items())
            raise self.refusal(
                "distortion_model", f"{model!r} with {len(distortion)} coefficients", known,
                "rectify the images with image_proc", "distortion",
            )  # fmt: skip
        try:
            pinhole = undistorted(model, distortion, intrinsics, size_wh, limit_deg)
        except ValueError as error:
            raise self.refusal("K", intrinsics, "an image around the optical axis", str(error), "distortion") from error
        if pinhole.lost_deg is not None:
            log.log(
                logging.WARNING if any(pinhole.lost_deg) else logging.INFO,
                "camera %s: a fisheye lens of %.1f x %.1f degrees is undistorted into a pinhole; of its field of view "
                "%.1f degrees across and %.1f degrees up and down are lost",
                self.name, *pinhole.lens_deg, *pinhole.lost_deg,
            )  # fmt: skip
        return pinhole
