"""Two boxes of one class on one spot: solid objects cannot be, so one of the two is an object found twice.

The distance that two objects keep at least is the mean of their shorter sides, whichever way they stand: circles of
that diameter lie inside of them.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from ..types import Detections


def on_one_spot(boxes: np.ndarray, labels: np.ndarray, separation: float = 1.0) -> np.ndarray:
    """[M, M] bool, symmetric, False on the diagonal: pairs of one class nearer than two objects can be.

    Args:
        boxes: [M, 7 or more] x y z, length width height (m), yaw.
        labels: [M].
        separation: part of that distance; below 1 leaves room for errors of position and size.
    """
    boxes = np.asarray(boxes, np.float64)
    distance = np.linalg.norm(boxes[:, None, :2] - boxes[None, :, :2], axis=-1)
    shorter = boxes[:, 3:5].min(axis=1)
    near = distance < separation * (shorter[:, None] + shorter[None]) / 2
    return near & (labels[:, None] == labels[None]) & ~np.eye(len(boxes), dtype=bool)


def duplicate_pairs(found: Detections, min_score: float = 0.0) -> int:
    """Pairs on one spot among the boxes with at least this score."""
    rows = np.asarray(found.scores) >= min_score
    return int(on_one_spot(found.boxes[rows], found.labels[rows]).sum()) // 2


def without_duplicates(found: Detections, separation: float) -> Detections:
    """Of boxes on one spot only the best; rows come best first and stay in their order."""
    near = on_one_spot(found.boxes, found.labels, separation)
    kept = np.ones(len(found.boxes), dtype=bool)
    for row in np.flatnonzero(np.tril(near).any(axis=1)):
        kept[row] = not (near[row, :row] & kept[:row]).any()
    columns = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "class_names"}
    return replace(found, **{name: column[kept] for name, column in columns.items() if column is not None})
