"""Small rendered data sets, shared by the tests of this folder."""

from __future__ import annotations

import pathlib

import pytest

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.types import Detections, Tracks


@pytest.fixture(scope="session")
def three_scenes(tmp_path_factory) -> pathlib.Path:
    """Three scenes of two key frames each; `splits.json` has a split `two` of the first and the last."""
    root = tmp_path_factory.mktemp("three_scenes")
    render_dataset(root, 3, 100_010, duration=1.0, rate=2, rig=NUSCENES_RIG.resized(160, 90))
    names = NuScenesDataset(root, cache=None).index.scene_names.tolist()
    (root / "v1.0-mini" / "splits.json").write_text(f'{{"two": ["{names[0]}", "{names[2]}"]}}')
    return root


@pytest.fixture(scope="session")
def shifted_truth(three_scenes, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """Detection and tracking submissions: the truth, moved, and ids that change sometimes."""
    folder = tmp_path_factory.mktemp("submission")
    data, writer = NuScenesDataset(three_scenes, cache=None), ResultsWriter()
    for row in data.keyframes.tolist():
        frame, truth = data.frame(row, images=False), data.annotations(row)
        boxes = [[*box, 0.0] for box in truth.boxes.tolist()]
        for number, box in enumerate(boxes):
            box[0] += 0.3 * (number % 9)
        scores = [(0.3, 0.6, 0.9)[i % 3] for i in truth.instance_ids.tolist()]  # few, so few thresholds to score at
        ids = truth.instance_ids + 1000 * (row * (truth.instance_ids % 5 == 0))
        tracks = Tracks(boxes, scores, truth.labels, ids=ids)
        writer.add(frame.token, Detections(boxes, scores, truth.labels), tracks, frame.T_global_from_model)
    writer.write_detection(folder / "results.json")
    writer.write_tracking(folder / "tracking.json")
    return folder / "results.json", folder / "tracking.json"
