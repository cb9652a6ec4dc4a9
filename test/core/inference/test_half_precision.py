"""What the image encoder in bfloat16 changes for the shipped model: objects stay where they are, under their ids."""

from __future__ import annotations

import numpy as np

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.__main__ import render_dataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.types import Detections

SEED = 100_700  # training has 0 to 9,999
CONFIDENT = 0.3  # objects with a score above it are compared
SCORE, CENTRE = 0.05, 0.05  # metres; seen over 20 frames of two scenes: 0.035 and 0.026


def test_confident_objects_stay_the_same_over_a_scene(tmp_path):
    render_dataset(tmp_path, 1, SEED, duration=3.0, rate=2, rig=NUSCENES_RIG.resized(704, 396))
    data = NuScenesDataset(tmp_path, cache=None)
    pipelines = [Pipeline.from_preset("demo", precision=precision) for precision in ("float32", "bfloat16")]
    states = [None, None]
    same_object: dict[int, int] = {}  # id in float32 -> id in bfloat16, for the whole scene
    compared = 0
    for index in data.keyframes:
        frame = data.frame(int(index))
        results = [pipeline.step(frame, state) for pipeline, state in zip(pipelines, states, strict=True)]
        states = [result.state for result in results]
        full, half = (result.detections for result in results)
        assert not np.array_equal(full.scores, half.scores), "the precision changes nothing: the test shows nothing"
        for row in np.flatnonzero(full.scores > CONFIDENT):
            partner = partner_of(full, row, half)
            assert same_object.setdefault(int(full.ids[row]), int(half.ids[partner])) == half.ids[partner]
            compared += 1
    assert compared >= 50
    assert len(set(same_object.values())) == len(same_object), "two objects under one id"
    exchanged = sum(one != other for one, other in same_object.items())
    assert exchanged <= 0.1 * len(same_object), "new objects that tie may exchange their ids, others may not"


def partner_of(full: Detections, row: int, half: Detections) -> int:
    """The row of the same object in lower precision: the nearest, with the same label and nearly the same score."""
    distance = np.linalg.norm(half.boxes[:, :3] - full.boxes[row, :3], axis=1)
    nearest = int(distance.argmin())
    assert distance[nearest] <= CENTRE and half.labels[nearest] == full.labels[row]
    assert abs(half.scores[nearest] - full.scores[row]) <= SCORE
    return nearest
