"""Frames to run any preset on, without a data set."""

from __future__ import annotations

import math

import numpy as np

from ..config import Sparse4DConfig
from ..types import Frame

FRAME_INTERVAL_NS = 500_000_000


def ring_frames(config: Sparse4DConfig, count: int, cameras: int = 6) -> list[Frame]:
    """Frames of noise from a ring of cameras with 70 degrees of view, on a vehicle that drives at 5 m/s."""
    random = np.random.default_rng(0)
    width, height = config.image.original_wh
    focal = width / 2 / math.tan(math.radians(35))
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    poses = []
    for camera in range(cameras):
        c, s = math.cos(2 * math.pi * camera / cameras), math.sin(2 * math.pi * camera / cameras)
        poses.append([[c, -s, 0, 0], [0, 0, -1, 1.5], [s, c, 0, 0], [0, 0, 0, 1]])
    frames = []
    for index in range(count):
        T_global_from_model = np.eye(4)
        T_global_from_model[1, 3] = 5.0 * index * FRAME_INTERVAL_NS * 1e-9
        images = tuple(random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(cameras))
        frames.append(
            Frame(
                images=images,
                intrinsics=np.repeat(intrinsics[None], cameras, 0),
                T_cam_from_model=np.array(poses, dtype=np.float64),
                T_global_from_model=T_global_from_model,
                stamp_ns=index * FRAME_INTERVAL_NS,
            )
        )
    return frames
