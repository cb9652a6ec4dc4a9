"""Annotated boxes of a bag ► records of nuScenes tables. Messages are read by their fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparse4d_core.data.nuscenes.table_writer import CATEGORY_OF
from sparse4d_core.data.nuscenes.tables import DETECTION_NAMES, Record

from ..perception.transforms import quaternion_from_matrix, quaternion_matrix


def pose_of(matrix: np.ndarray) -> tuple[list[float], list[float]]:
    """(translation, rotation w x y z) of a rigid transform [4, 4]."""
    x, y, z, w = quaternion_from_matrix(matrix)
    return matrix[:3, 3].tolist(), [float(w), float(x), float(y), float(z)]


def is_token(text: str) -> bool:
    """Whether the text looks like a nuScenes token."""
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)


def category_of(detection: Any) -> str | None:
    """nuScenes category of the hypotheses; the last that names one wins, as it is the more exact one."""
    names = [result.hypothesis.class_id for result in detection.results]
    known = [
        CATEGORY_OF.get(name, name) for name in names if name in CATEGORY_OF or "." in name or name in DETECTION_NAMES
    ]
    return known[-1] if known else None


def problem_of(detection: Any) -> str | None:
    """Why a box cannot be learned from, or None."""
    c, q, s = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
    if not all(map(math.isfinite, (c.x, c.y, c.z, q.x, q.y, q.z, q.w, s.x, s.y, s.z))):
        return "box with a number that is not finite"
    if min(s.x, s.y, s.z) <= 0:
        return "box of size zero"
    return None if abs(math.hypot(q.x, q.y, q.z, q.w) - 1) < 1e-3 else "box without orientation"


def annotation_record(detection: Any, T_global_from_box: np.ndarray, sample: str, name: str, extra: dict) -> Record:
    """sample_annotation without links. Unknown lidar points count as one: training drops boxes without any."""
    c, q, s = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
    if np.array_equal(T_global_from_box, np.eye(4)):
        translation, rotation = [c.x, c.y, c.z], [q.w, q.x, q.y, q.z]  # not a digit changes
    else:
        T = quaternion_matrix((q.x, q.y, q.z, q.w))
        T[:3, 3] = c.x, c.y, c.z
        translation, rotation = pose_of(T_global_from_box @ T)
    return {
        "token": extra.get("token", name),
        "sample_token": sample,
        "visibility_token": extra.get("visibility", "4"),
        "attributes": extra.get("attributes", []),
        "translation": translation,
        "size": [s.y, s.x, s.z],  # width, length, height
        "rotation": rotation,
        "num_lidar_pts": extra.get("num_lidar_pts", 1),
        "num_radar_pts": extra.get("num_radar_pts", 0),
    }
