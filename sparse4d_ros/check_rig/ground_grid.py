"""The rig as a person checks it: ground grid and horizon in every image, and the cameras from above."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .mounting import Mounting

GRID = 5.0  # m between two lines
REACH = 40.0  # m, how far the grid goes
_STEP = 0.5  # m along a line; long straight pieces would leave the image where they pass the camera
_NEAR = 0.3  # m; nearer points are not drawn
_GRID_COLOR, _HORIZON_COLOR, _AHEAD_COLOR = (90, 200, 90), (255, 200, 80), (40, 150, 255)  # BGR
_VIEW = 5.0  # m, length of a field of view in the plan


@dataclass(frozen=True)
class CameraView:
    """An image of a camera, and where the camera is."""

    image: np.ndarray  # [H, W, 3] uint8 BGR, undistorted
    intrinsics: np.ndarray  # [3, 3] of this image, pixels
    T_cam_from_base: np.ndarray  # [4, 4] metres; axes of this image, which CameraInfo's R may have turned
    T_base_from_optical: np.ndarray  # [4, 4] metres; as TF has it


def draw_checks(views: Mapping[str, CameraView], ground: float, folder: Path) -> list[Path]:
    """An image of each camera: the grid on the ground, the line ahead of the vehicle in orange, the horizon in blue.

    Args:
        views: by camera.
        ground: height of the ground in the base frame, metres.
        folder: where the pictures go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for camera, view in views.items():
        picture = draw_ground(view.image, view.intrinsics, view.T_cam_from_base, ground)
        path = folder / f"{camera}.jpg"
        cv2.imwrite(str(path), picture)
        written.append(path)
    return written


def draw_ground(image: np.ndarray, intrinsics: np.ndarray, T_cam_from_base: np.ndarray, ground: float) -> np.ndarray:
    """One image with grid and horizon, [H, W, 3] uint8 BGR."""
    picture = image.copy()
    along = np.arange(-REACH, REACH + _STEP, _STEP)
    for offset in np.arange(-REACH, REACH + GRID, GRID):
        for line, color in (
            (np.stack([along, np.full_like(along, offset)], axis=1), _AHEAD_COLOR if offset == 0 else _GRID_COLOR),
            (np.stack([np.full_like(along, offset), along], axis=1), _GRID_COLOR),
        ):
            if offset == 0 and color == _AHEAD_COLOR:
                line = line[line[:, 0] >= 0]
            _draw_line(picture, np.column_stack([line, np.full(len(line), ground)]), intrinsics, T_cam_from_base, color)
    _draw_horizon(picture, intrinsics, T_cam_from_base)
    return picture


def _draw_line(picture: np.ndarray, points: np.ndarray, intrinsics: np.ndarray, T: np.ndarray, color) -> None:
    """Points [n, 3] in the base frame, joined where both ends are in front of the camera."""
    seen = points @ T[:3, :3].T + T[:3, 3]
    ahead = seen[:, 2] > _NEAR
    pixels = np.zeros((len(seen), 2))
    pixels[ahead] = ((seen[ahead] / seen[ahead, 2:]) @ intrinsics.T)[:, :2]
    inside = ahead & (np.abs(pixels) < 1e4).all(axis=1)
    for start, end in zip(
        np.flatnonzero(inside[:-1] & inside[1:]), np.flatnonzero(inside[:-1] & inside[1:]) + 1, strict=True
    ):
        cv2.line(picture, *(tuple(map(int, pixels[i].round())) for i in (start, end)), color, 1, cv2.LINE_AA)


def _draw_horizon(picture: np.ndarray, intrinsics: np.ndarray, T_cam_from_base: np.ndarray) -> None:
    """The image of all level directions: the line K^-T n, with n the base frame's z axis in the camera."""
    a, b, c = np.linalg.inv(intrinsics).T @ T_cam_from_base[:3, 2]
    if abs(b) < 1e-12:
        return  # the camera lies on its side
    width = picture.shape[1]
    ends = [(x, round(float(np.clip(-(a * x + c) / b, -1e4, 1e4)))) for x in (0, width)]
    cv2.line(picture, *ends, _HORIZON_COLOR, 2, cv2.LINE_AA)


def draw_plan(mountings: Sequence[Mounting], size: int = 700) -> np.ndarray:
    """Cameras and their fields of view from above, x up, [size, size, 3] uint8 BGR."""
    reach = max([3.0, *(abs(value) for one in mountings for value in one.position[:2])]) + _VIEW + 1.0
    scale = size / (2 * reach)
    picture = np.full((size, size, 3), (24, 22, 20), np.uint8)

    def pixel(x: float, y: float) -> tuple[int, int]:
        return round(size / 2 - y * scale), round(size / 2 - x * scale)

    cv2.arrowedLine(picture, pixel(0, 0), pixel(1.5, 0), _AHEAD_COLOR, 2, cv2.LINE_AA)
    cv2.putText(
        picture, "base frame, x ahead", (10, size - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _AHEAD_COLOR, 1, cv2.LINE_AA
    )
    for one in mountings:
        x, y, _ = one.position
        edges = [math.radians(one.yaw + side * one.field_of_view / 2) for side in (-1, 1)]
        arc = [(x + _VIEW * math.cos(a), y + _VIEW * math.sin(a)) for a in np.linspace(*edges, 12)]
        outline = np.array([pixel(x, y), *(pixel(*point) for point in arc)], np.int32)
        cv2.polylines(picture, [outline], True, _GRID_COLOR, 1, cv2.LINE_AA)
        middle = pixel(
            x + 0.6 * _VIEW * math.cos(math.radians(one.yaw)), y + 0.6 * _VIEW * math.sin(math.radians(one.yaw))
        )
        cv2.putText(
            picture,
            one.camera,
            (middle[0] - 40, middle[1]),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.45,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    return picture
