"""Poses, and decoded boxes carried from one frame of reference into another, with numpy alone.

The anchor state and its geometry, as tensors, stand in :mod:`sparse4d_core.geometry`.
"""

from __future__ import annotations

import numpy as np


def inverse(T_a_from_b: np.ndarray) -> np.ndarray:
    """T_b_from_a [4, 4] of a rigid transform, float64.

    Not np.linalg.inv: after each call a thread of its BLAS looks for more work, 10 to 20 ms of a processor.
    """
    T_b_from_a = np.eye(4)
    T_b_from_a[:3, :3] = T_a_from_b[:3, :3].T
    T_b_from_a[:3, 3] = -T_a_from_b[:3, :3].T @ T_a_from_b[:3, 3]
    return T_b_from_a


def transform_boxes(boxes: np.ndarray, T_b_from_a: np.ndarray) -> np.ndarray:
    """Decoded boxes [M, 10] (x y z, length width height, yaw, vx vy vz) of frame a in frame b, float64.

    The box stays upright: its yaw is the heading's direction in b's x-y plane. Velocities are rotated, not carried
    along by b's own motion.
    """
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 10)
    R, t = T_b_from_a[:3, :3], T_b_from_a[:3, 3]
    heading = _rotated(R, np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))], axis=1))
    boxes[:, :3] = _rotated(R, boxes[:, :3]) + t
    # Of columns in memory of their own: how NumPy computes that of an array's column depends on where its result lies,
    # to the last digit, and what the node publishes must equal the replay to that digit.
    boxes[:, 6] = np.arctan2(*np.ascontiguousarray(heading[:, 1::-1].T))
    boxes[:, 7:] = _rotated(R, boxes[:, 7:])
    return boxes


def along_the_ground(boxes: np.ndarray) -> np.ndarray:
    """Decoded boxes [M, 10] of the model frame with a vertical velocity of 0.

    Nobody annotates it, so no model learns it, and what a network gives instead grows with the frame rate (the demo's:
    -1 m/s at 2 Hz, -5 at 10 Hz). In a frame that is tilted by a degree or two, it would be a speed of parked cars.
    """
    boxes = np.array(boxes).reshape(-1, 10)
    boxes[:, 9] = 0
    return boxes


def _rotated(R: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """R [3, 3] applied to vectors [M, 3]. Not BLAS: beside other threads its last digit varies from call to call."""
    return vectors[:, :1] * R[:, 0] + vectors[:, 1:2] * R[:, 1] + vectors[:, 2:3] * R[:, 2]
