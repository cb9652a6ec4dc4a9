"""Sparse depth maps from lidar points, the supervision of the dense depth head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DEPTH_STRIDES = (4, 8, 16)  # pixels of the network input per cell of the first feature levels
MIN_DEPTH = 0.1  # m
_EMPTY = -1.0


def depth_maps(
    points: np.ndarray,
    projection: np.ndarray,
    input_wh: tuple[int, int],
    strides: Sequence[int] = DEPTH_STRIDES,
    max_depth: float = 60.0,
) -> list[np.ndarray]:
    """Depth of the nearest lidar point in every cell.

    Args:
        points: [P, 3 or more] metres, model frame.
        projection: [N, 4, 4] model frame homogeneous -> pixels of the network input.
        max_depth: metres; greater depths are clipped to it.

    Returns:
        One [N, h, w] float32 per stride, metres; -1 where no point fell.
    """
    width, height = input_wh
    homogeneous = np.concatenate([points[:, :3], np.ones_like(points[:, :1])], axis=1, dtype=np.float64)
    maps = [np.full((len(projection), height // s, width // s), _EMPTY, np.float32) for s in strides]
    for camera, matrix in enumerate(projection):
        pixels = homogeneous @ np.asarray(matrix, np.float64)[:3].T
        depth = pixels[:, 2]
        in_front = depth > MIN_DEPTH
        depth = depth[in_front]
        column, row = np.round(pixels[in_front, :2] / depth[:, None]).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        nearest_last = np.argsort(-depth[inside], kind="stable")  # the last value written to a cell stays
        column, row = column[inside][nearest_last], row[inside][nearest_last]
        clipped = np.clip(depth[inside][nearest_last], MIN_DEPTH, max_depth)
        for level, stride in zip(maps, strides, strict=True):
            level[camera, row // stride, column // stride] = clipped
    return maps
