"""The official devkit scores what it should: truth near 1, shifted truth less."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from sparse4d_core.atomic_write import write_json, write_text
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.nuscenes.tables import DatasetError
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation import evaluate as command
from sparse4d_core.evaluation.evaluate import evaluate
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.types import Detections, Tracks


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    render_dataset(root, 2, 100_001, duration=2.0, rate=2, rig=NUSCENES_RIG.resized(320, 180))
    return root


def submit(world, folder, shift=0.0, samples=slice(None), new_ids=False, empty=False):
    """Write the truth, moved by `shift` metres, as results."""
    dataset, writer = NuScenesDataset(world, cache=None), ResultsWriter()
    for i in dataset.keyframes[samples]:
        frame, truth = dataset.frame(i, images=False), dataset.annotations(i)
        if empty:
            truth = truth.select(np.zeros(len(truth), bool))
        boxes = np.column_stack([truth.boxes, np.zeros(len(truth))]) + np.eye(1, 10) * shift
        scores = np.full(len(truth), 0.9)
        ids = truth.instance_ids + (1000 * i if new_ids else 0)
        tracks = Tracks(boxes, scores, truth.labels, ids=ids)
        writer.add(frame.token, Detections(boxes, scores, truth.labels), tracks, frame.T_global_from_model)
    writer.write_detection(folder / "results.json")
    writer.write_tracking(folder / "tracking.json")
    return folder / "results.json", folder / "tracking.json"


def test_truth_scores_one(world, tmp_path):
    results, tracking = submit(world, tmp_path)
    scores = evaluate(world, "v1.0-mini", results, tracking, tmp_path / "out")
    assert scores.detection.map > 0.99 and scores.detection.nds > 0.9  # the attribute is a guess from the speed
    assert scores.detection.errors["mATE"] < 1e-4
    assert scores.detection.errors["mAVE"] < 1e-3  # the lidar frame is tilted by about a degree
    assert scores.tracking.amota > 0.97 and scores.tracking.ids == 0 and scores.tracking.amotp < 0.05
    assert scores.samples == 8 and scores.missing_samples == 0 and len(scores.scenes) == 2
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["detection"]["nds"] == scores.detection.nds
    assert f"{scores.detection.nds:.4f}" in scores.table()


def test_shifted_boxes_and_changing_ids_score_less(world, tmp_path):
    results, tracking = submit(world, tmp_path, shift=1.5, new_ids=True)
    scores = evaluate(world, "v1.0-mini", results, tracking)
    assert 0.2 < scores.detection.map < 0.6
    assert scores.detection.errors["mATE"] == pytest.approx(1.5, abs=0.3)
    assert scores.tracking.amota < 0.7 and scores.tracking.ids > 10


def test_missing_samples_count_as_empty(world, tmp_path):
    results, _ = submit(world, tmp_path, samples=slice(0, 2))
    scores = evaluate(world, "v1.0-mini", results)
    assert len(scores.scenes) == 1 and scores.samples == 4 and scores.missing_samples == 2
    assert scores.detection.map < 0.7 and scores.tracking is None


def test_tracks_that_were_not_submitted_are_no_score_of_nothing(world, tmp_path):
    """Null is what criteria skip: there are no annotations of tracked classes."""
    evaluate(world, "v1.0-mini", submit(world, tmp_path)[0], out=tmp_path / "out")
    assert "tracking" not in json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_nothing_found_scores_zero(world, tmp_path):
    results, tracking = submit(world, tmp_path, empty=True)
    scores = evaluate(world, "v1.0-mini", results, tracking)
    assert scores.detection.nds == scores.detection.map == scores.tracking.amota == 0


def test_annotations_of_classes_that_are_not_scored(world, tmp_path):
    """Barriers are not tracked, and of own categories nothing is scored: the devkit's exceptions name neither."""
    results, tracking = submit(world, tmp_path)
    own = shutil.copytree(world, tmp_path / "own")
    table = own / "v1.0-mini" / "category.json"
    categories = json.loads(table.read_text())
    write_json(table, [record | {"name": "movable_object.barrier"} for record in categories])
    scores = evaluate(own, "v1.0-mini", results, tracking)
    assert scores.tracking is None and scores.samples == 8 and scores.detection.class_ap["car"] == 0
    write_json(table, [record | {"name": "robot.small"} for record in categories])
    with pytest.raises(DatasetError, match="have no annotations of classes that nuScenes scores"):
        evaluate(own, "v1.0-mini", results, tracking)


def test_command_and_its_errors(world, tmp_path, capsys):
    results, _ = submit(world, tmp_path)
    arguments = ["--dataroot", str(world), "--out", str(tmp_path / "out"), "--results"]
    assert command.main([*arguments, str(results), "--split", "all"]) == 0
    assert "NDS" in capsys.readouterr().out

    def refused(*more) -> str:
        assert command.main([*arguments, *map(str, more)]) == 2
        return capsys.readouterr().err

    assert "scene-0001" in refused(results, "--scenes", "scene-0001")
    assert "no file" in refused(tmp_path / "none.json")
    text = results.read_text()
    write_text(results, text.replace('"car"', '"robot.small"'))
    assert "detection has classes that nuScenes does not score: robot.small" in refused(results)
    write_text(results, text[:100])
    assert "complete" in refused(results)
    write_json(results, {"meta": {}, "results": {"unknown": []}})
    assert "unknown" in refused(results)
    write_json(results, {"meta": {}, "results": {}})
    with pytest.raises(DatasetError, match="no sample to score"):
        evaluate(world, "v1.0-mini", results)
