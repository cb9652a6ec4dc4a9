"""A raw image's lens ► the pinhole that the image becomes, and the maps of cv2.remap that make it one.

Lens models are those of sensor_msgs/distortion_models, with the coefficients in OpenCV's order. Directions are in the
camera's optical frame; u, v are pixels with whole numbers at pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "fisheye": (4,)}
"""Lens model -> how many coefficients it may have. `fisheye` is another name of `equidistant`; 12: with thin prism, 14:
with a tilted sensor too."""

FISHEYE = ("equidistant", "fisheye")

MAX_FIELD_OF_VIEW_DEG = 110.0
"""Of a pinhole made from a fisheye: the widest camera that published weights were trained with (nuScenes, rear)."""

_GRID = 20_001  # angles or radii at which a lens model is tabulated
_OUTSIDE = -2  # a source pixel that no image has, so that cv2.remap leaves black


@dataclass(frozen=True)
class Pinhole:
    """What a raw image becomes."""

    intrinsics: np.ndarray  # [3, 3] float64, pixels
    maps: tuple[np.ndarray, np.ndarray]  # of cv2.remap, fixed point: [H, W, 2] int16, [H, W] uint16
    lens_deg: tuple[float, float] | None = None  # fisheye: field of view of the lens, horizontal and vertical
    lost_deg: tuple[float, float] | None = None  # fisheye: how much of it the pinhole leaves out


def undistorted(
    model: str,
    coefficients: np.ndarray,
    intrinsics: np.ndarray,
    size_wh: tuple[int, int],
    max_field_of_view_deg: float = MAX_FIELD_OF_VIEW_DEG,
) -> Pinhole:
    """The pinhole image, of the same size, that a raw image becomes.

    `plumb_bob` and `rational_polynomial` keep the intrinsics of the raw image. A fisheye gets the widest pinhole that
    shows no more than the lens does to the left and right and no more than `max_field_of_view_deg`. What the lens
    model does not reach (a polynomial is only valid up to where it stops rising) stays black instead of showing a
    second copy of the picture.

    Args:
        model: one of COEFFICIENTS.
        coefficients: [one of COEFFICIENTS[model]] float64.
        intrinsics: [3, 3] float64 of the raw image, pixels, without skew.
        size_wh: pixels.
        max_field_of_view_deg: degrees across the width and across the height, above 0 and below 180.

    Raises:
        ValueError: no field of view is left: the image shows nothing within the limit.
    """
    if model not in FISHEYE:
        maps = cv2.initUndistortRectifyMap(intrinsics, coefficients, np.eye(3), intrinsics, size_wh, cv2.CV_16SC2)
        reached = _radius_reached(coefficients, np.linalg.norm(_corner(intrinsics, size_wh)))
        return Pinhole(intrinsics, _black_beyond(maps, intrinsics, size_wh, reached))
    angles, distances = _equidistant_table(coefficients)
    pinhole, lens_deg, lost_deg = _fisheye_pinhole(intrinsics, size_wh, angles, distances, max_field_of_view_deg)
    maps = cv2.fisheye.initUndistortRectifyMap(intrinsics, coefficients, np.eye(3), pinhole, size_wh, cv2.CV_16SC2)
    reached = np.tan(angles[-1]) if angles[-1] < np.pi / 2 else np.inf
    return Pinhole(pinhole, _black_beyond(maps, pinhole, size_wh, reached), lens_deg, lost_deg)


def _equidistant_table(coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Angles from the axis (rad, up to pi) as far as the model rises, and their distances in the image (focal = 1)."""
    angles = np.linspace(0.0, np.pi, _GRID)
    square = angles**2
    powers = np.stack([square, square**2, square**3, square**4])
    return _rising(angles, angles * (1 + coefficients @ powers))


def _radius_reached(coefficients: np.ndarray, farthest: float) -> float:
    """Radius (tangent of the angle from the axis) where the radial polynomial stops rising, at most past `farthest`."""
    k1, k2, _, _, k3, k4, k5, k6 = np.pad(coefficients, (0, 8))[:8]
    radii = np.linspace(0.0, 1.1 * farthest, _GRID)
    square = radii**2
    ratio = 1 + square * (k1 + square * (k2 + square * k3))
    divisor = 1 + square * (k4 + square * (k5 + square * k6))
    with np.errstate(divide="ignore", invalid="ignore"):
        rising, _ = _rising(radii, radii * ratio / divisor)
    return np.inf if len(rising) == _GRID else rising[-1]


def _rising(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both up to where the outputs stop rising."""
    falls = np.flatnonzero(~(np.diff(outputs) > 0))
    end = falls[0] + 1 if len(falls) else len(inputs)
    return inputs[:end], outputs[:end]


def _fisheye_pinhole(
    intrinsics: np.ndarray, size_wh: tuple[int, int], angles: np.ndarray, distances: np.ndarray, limit_deg: float
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Intrinsics, the lens's field of view and what is lost of it, both in degrees, horizontal and vertical.

    The outermost columns see what the lens sees there, or the limit. Pixels keep their shape (fx / fy), so the height
    decides nothing unless more than the limit were to be seen across it; the axis keeps its place between what is seen
    above and below.
    """
    last = np.array(size_wh, np.float64) - 1
    focal, centre = intrinsics[(0, 1), (0, 1)], intrinsics[:2, 2]
    edges = np.stack([centre, last - centre]) / focal  # [near or far edge, axis], distances from the axis
    seen = np.sign(edges) * np.interp(np.abs(edges), distances, angles)
    kept = np.tan(np.clip(seen, -np.radians(limit_deg) / 2, np.radians(limit_deg) / 2))
    spread = kept.sum(0)
    if (spread <= 0).any():
        raise ValueError(f"no field of view within {limit_deg:g} degrees of the optical axis")
    pinhole = np.eye(3)
    by_height = last[1] / (2 * np.tan(np.radians(limit_deg) / 2))
    pinhole[0, 0] = max(last[0] / spread[0], by_height * focal[0] / focal[1])
    pinhole[1, 1] = pinhole[0, 0] * focal[1] / focal[0]
    pinhole[:2, 2] = last * kept[0] / spread
    shown = np.arctan(np.stack([pinhole[:2, 2], last - pinhole[:2, 2]]) / pinhole[(0, 1), (0, 1)])
    lens = np.degrees(seen.sum(0))
    lost = np.degrees(np.maximum(seen - shown, 0).sum(0))
    return pinhole, (float(lens[0]), float(lens[1])), (float(lost[0]), float(lost[1]))


def _corner(intrinsics: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """[2] distances (focal = 1) of the image's farthest edges from the axis."""
    centre = intrinsics[:2, 2]
    return np.maximum(np.abs(centre), np.abs(np.array(size_wh) - 1 - centre)) / intrinsics[(0, 1), (0, 1)]


def _black_beyond(
    maps: tuple[np.ndarray, np.ndarray], pinhole: np.ndarray, size_wh: tuple[int, int], radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """The maps, with pixels farther from the axis than `radius` (focal = 1) sent outside the raw image."""
    if np.linalg.norm(_corner(pinhole, size_wh)) > radius:
        x = (np.arange(size_wh[0]) - pinhole[0, 2]) / pinhole[0, 0]
        y = (np.arange(size_wh[1]) - pinhole[1, 2]) / pinhole[1, 1]
        maps[0][x**2 + y[:, None] ** 2 > radius**2] = _OUTSIDE
    return maps
