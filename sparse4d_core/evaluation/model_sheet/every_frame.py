"""What shows in all frames and not in key frames alone: objects found twice, vertical velocities, ids in bfloat16."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from ...data.nuscenes.dataset import NuScenesDataset
from ...inference.duplicates import duplicate_pairs
from ...inference.pipeline import Pipeline
from ...types import Detections, Tracks
from ..keyframe_run import ScenePlan, frames_ahead

CONFIDENT = 0.3  # score of the boxes that are counted
PARTNER_RADIUS = 0.5  # m: the same object in two precisions lies nearer

Together = Counter[tuple[int, int]]
"""Of a scene: boxes that have this id in float32 and that one in bfloat16."""


@dataclass
class EveryFrame:
    """Counts over frames."""

    sets: int = 0
    boxes: int = 0  # of tracks above CONFIDENT
    duplicates: int = 0  # pairs of them on one spot
    vertical: list[np.ndarray] = field(default_factory=list)  # m/s, of all published tracks
    compared: int = 0  # boxes above CONFIDENT in float32
    same_object: int = 0  # of them: in bfloat16 found under that id there which is this object's
    has_tracks: bool = True  # models without ids (v1, v2) have none

    def count(self, tracks: Tracks) -> None:
        """One frame."""
        self.sets += 1
        self.boxes += int((tracks.scores >= CONFIDENT).sum())
        self.duplicates += duplicate_pairs(tracks, CONFIDENT)
        self.vertical.append(np.abs(tracks.boxes[:, 9]))

    def compare(self, full: Detections, half: Detections, together: Together) -> None:
        """One frame in both precisions; what was found together is added to `together`."""
        if full.ids is None:
            self.has_tracks = False
            return
        for row in np.flatnonzero(full.scores > CONFIDENT):
            self.compared += 1
            partner = partner_of(full, row, half)
            if partner is not None:
                together[int(full.ids[row]), int(half.ids[partner])] += 1

    def end_scene(self, together: Together) -> None:
        """Ids of new objects are given in the order of their rows, which ties may exchange: what counts is that they
        stay. So each id of float32 has that one of bfloat16, and none shares it, with which the most boxes agree
        (identity recall: Ristani et al., arXiv 1609.01775)."""
        if together:
            fulls, halves = (sorted({pair[side] for pair in together}) for side in (0, 1))
            boxes = np.array([[together[full, half] for half in halves] for full in fulls])
            self.same_object += int(boxes[linear_sum_assignment(boxes, maximize=True)].sum())

    def figures(self) -> dict[str, Any]:
        vertical = np.concatenate(self.vertical) if self.vertical else np.empty(0)
        return {
            "sets": self.sets,
            "boxes_per_set": self.boxes / max(self.sets, 1) if self.has_tracks else None,
            "duplicates_per_set": self.duplicates / max(self.sets, 1) if self.has_tracks else None,
            "vertical_velocity_median": float(np.median(vertical)) if len(vertical) else None,
            "bfloat16_same_ids": self.same_object / self.compared if self.compared else None,
        }


def partner_of(full: Detections, row: int, half: Detections) -> int | None:
    """The nearest row of the same class, if it is near enough to be the same object."""
    distance = np.linalg.norm(half.boxes[:, :3] - full.boxes[row, :3], axis=1)
    distance = np.where(half.labels == full.labels[row], distance, np.inf)
    nearest = int(distance.argmin()) if len(distance) else 0
    return nearest if len(distance) and distance[nearest] <= PARTNER_RADIUS else None


def watch(
    full: Pipeline,
    half: Pipeline,
    data: NuScenesDataset,
    plan: ScenePlan,
    scenes: Sequence[str],
    workers: int = 0,
) -> EveryFrame:
    """All frames of a plan; every scene begins without a memory.

    Args:
        full, half: the model in float32 and in bfloat16.
        workers: threads that read images ahead.
    """
    counts = EveryFrame()
    for scene in tqdm(scenes, "every frame", unit="scene", disable=None):
        states, together = [None, None], Together()

        def read(row: int, scene: str = scene):
            return plan.frame(data, scene, row)

        for frame in frames_ahead(read, plan.rows(data, scene), workers):
            one = full.step(frame, states[0])
            counts.count(one.tracks)
            states[0] = one.state
            other = half.step(frame, states[1])
            counts.compare(one.detections, other.detections, together)
            states[1] = other.state
        counts.end_scene(together)
    return counts
