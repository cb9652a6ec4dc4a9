"""Where annotated objects are in frames between key frames: on a smooth curve through their annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from ...boxes import transform_boxes
from ...data.nuscenes.dataset import NuScenesDataset
from ..results import CLASS_RANGE, MAX_RANGE

_LARGEST_GAP = 0.8  # s between two annotations of an object; nothing is known in between where it is longer


@dataclass(frozen=True)
class Present:
    """The objects of one frame, within the ranges that are scored."""

    ids: np.ndarray  # [K] int64, of the data set
    labels: np.ndarray  # [K] int64
    centres: np.ndarray  # [K, 2] m, global frame
    velocities: np.ndarray  # [K, 2] m/s, global frame


@dataclass(frozen=True)
class Course:
    """One object's annotations, in order of time."""

    label: int
    seconds: np.ndarray  # [M]
    centres: np.ndarray  # [M, 2]

    def at(self, seconds: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Centre and velocity, [2] m and m/s; None before the first annotation, after the last one, and in gaps."""
        after = int(np.searchsorted(self.seconds, seconds - 1e-6))
        if after == len(self.seconds) or len(self.seconds) < 2:
            return None
        annotated = self.seconds[after] - seconds <= 1e-6
        if not annotated and (after == 0 or self.seconds[after] - self.seconds[after - 1] > _LARGEST_GAP):
            return None
        near = slice(max(after - 2, 0), after + 2)  # two annotations on either side, where there are
        curve = CubicSpline(self.seconds[near], self.centres[near])
        return curve(seconds), curve(seconds, 1)


class SceneTruth:
    """The annotated objects of one scene.

    Args:
        data: with sweeps.
        scene: its name.
    """

    def __init__(self, data: NuScenesDataset, scene: str):
        self._data, self._ranges = data, np.array([CLASS_RANGE.get(name, MAX_RANGE) for name in data.classes])
        found: dict[int, list[tuple[int, float, Sequence[float]]]] = {}
        for row in data.scene_frames(scene).tolist():
            if data.index.tokens[row]:
                truth = data.annotations(row)
                boxes = np.column_stack([truth.boxes, np.zeros(len(truth))])
                centres = transform_boxes(boxes, data.index.T_global_from_model[row])[:, :2]
                for number, label, centre in zip(
                    truth.instance_ids.tolist(), truth.labels.tolist(), centres, strict=True
                ):
                    found.setdefault(number, []).append((label, data.index.stamp_us[row] * 1e-6, centre))
        self._courses = {
            number: Course(parts[0][0], np.array([p[1] for p in parts]), np.array([p[2] for p in parts]))
            for number, parts in found.items()
        }

    def at(self, row: int) -> Present:
        """The objects of a frame, be it annotated or not."""
        pose, seconds = self._data.index.T_global_from_model[row], self._data.index.stamp_us[row] * 1e-6
        courses = {number: course.at(seconds) for number, course in self._courses.items()}
        placed = {number: state for number, state in courses.items() if state is not None}
        ids = np.array(list(placed), np.int64)
        labels = np.array([self._courses[number].label for number in placed], np.int64)
        centres, velocities = (np.array([state[i] for state in placed.values()]).reshape(-1, 2) for i in range(2))
        near = np.linalg.norm(centres - pose[:2, 3], axis=1) <= self._ranges[labels]
        return Present(ids[near], labels[near], centres[near], velocities[near])
