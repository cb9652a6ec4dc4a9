"""Rigid transforms from the numbers that tables hold; float64."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def rigid(translation, rotation_wxyz) -> np.ndarray:
    """[4, 4] from a translation in metres and a quaternion w x y z (normalised here)."""
    w, x, y, z = rotation_wxyz
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat((x, y, z, w)).as_matrix()
    matrix[:3, 3] = translation
    return matrix


def inverse(T: np.ndarray) -> np.ndarray:
    """[4, 4] inverse of a rigid transform."""
    result = np.eye(4)
    result[:3, :3] = T[:3, :3].T
    result[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return result
