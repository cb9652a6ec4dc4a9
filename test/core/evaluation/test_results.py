"""nuScenes submissions from detector output."""

from __future__ import annotations

import numpy as np
import pytest
from golden_data import Golden, golden_parameters

from sparse4d_core.data.nuscenes.tables import rigid
from sparse4d_core.evaluation import results
from sparse4d_core.evaluation.results import ResultsWriter, attribute
from sparse4d_core.types import CLASS_NAMES, Detections, Tracks


def detections(record: dict, rows=slice(None), kind=Detections) -> Detections:
    return kind(
        boxes=np.array(record["boxes_3d"], dtype=np.float32).reshape(-1, 10)[rows],
        scores=np.array(record["scores_3d"], dtype=np.float32)[rows],
        labels=np.array(record["labels_3d"], dtype=np.int64)[rows],
        ids=np.array(record["instance_ids"], dtype=np.int64)[rows],
    )


def records(writer_input, example: dict, output: str) -> dict:
    """Submission of all samples of the example; one writer per sample, since each has its own lidar mount."""
    submission = {}
    for info, record in zip(example["infos"], example["results"], strict=True):
        T_ego_from_lidar = rigid(info["lidar2ego_translation"], info["lidar2ego_rotation"])
        T_global_from_ego = rigid(info["ego2global_translation"], info["ego2global_rotation"])
        writer = ResultsWriter(T_ego_from_lidar)
        found, tracks = writer_input(record)
        writer.add(info["token"], found, tracks, T_global_from_ego @ T_ego_from_lidar)
        submission |= writer.detection if output == "detection_output" else writer.tracking
    return submission


def kept(record: dict, threshold: float, by: str) -> Tracks:
    return detections(record, np.array(record[by], dtype=np.float32) >= threshold, Tracks)


def compare(golden: Golden, output: str, actual: dict) -> None:
    expected = golden["example"][output]["results"]
    assert actual.keys() == expected.keys()
    for token, wanted in expected.items():
        got = actual[token]
        assert [record.keys() for record in got] == [record.keys() for record in wanted]
        for key in ("translation", "size", "velocity"):
            golden.check(f"{output}/{key}", [r[key] for r in got], 1e-5, expected=[r[key] for r in wanted])
        ours, theirs = (np.array([r["rotation"] for r in side]) for side in (got, wanted))
        sign = np.sign((ours * theirs).sum(axis=1, keepdims=True))  # q and -q are the same rotation
        golden.check(f"{output}/rotation", ours * sign, 1e-5, expected=theirs)
        kind = "detection" if output == "detection_output" else "tracking"
        score = [r[f"{kind}_score"] for r in got], [r[f"{kind}_score"] for r in wanted]
        golden.check(f"{output}/{kind}_score", score[0], 1e-5, expected=score[1])
        for key in (f"{kind}_name", "attribute_name", "sample_token"):
            assert [r.get(key) for r in got] == [r.get(key) for r in wanted]
        if kind == "tracking":
            assert [int(r["tracking_id"]) for r in got] == [
                int("".join(c for c in r["tracking_id"].split(",")[0] if c.isdigit())) for r in wanted
            ]


CASES = ("detection_output", "tracking_output", "tracking_output_without_cls_scores", "description")


@pytest.mark.parametrize("file, case", golden_parameters("results_format", CASES))
def test_golden(golden, file, case):
    data = Golden(golden, file)
    if case == "description":
        rules = data["description"]
        assert rules["detection_class_range"] == results.CLASS_RANGE
        assert tuple(rules["tracking_names"]) == results.TRACKED_CLASSES
        assert rules["max_boxes_per_sample"] == results.MAX_BOXES
        assert tuple(rules["class_order"]) == CLASS_NAMES
        return
    threshold = data["description"]["tracking_threshold"]
    by = "scores_3d" if case.endswith("without_cls_scores") else "cls_scores"
    compare(data, case, records(lambda r: (detections(r), kept(r, threshold, by)), data["example"], case))


def test_attributes_are_the_challenges():
    from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES

    for name in CLASS_NAMES:
        for speed in (0.0, 5.0):
            assert attribute(name, speed) in (*ATTRIBUTE_NAMES, "")
    assert attribute("bus", 0.1) == "vehicle.stopped"
    assert attribute("bicycle", 0.3) == "cycle.with_rider"


def some(count: int, **change) -> Tracks:
    boxes = np.tile(np.float32([5, 0, 0, 4, 2, 1.5, 0.3, 1, 0, 0]), (count, 1))
    values = dict(boxes=boxes, scores=np.linspace(0.1, 0.9, count), labels=np.zeros(count, int), ids=np.arange(count))
    return Tracks(**{**values, **change})


def test_keeps_the_best_boxes_of_a_crowd():
    writer = ResultsWriter()
    writer.add("a", some(700), some(700), np.eye(4))
    assert len(writer.detection["a"]) == len(writer.tracking["a"]) == results.MAX_BOXES
    assert min(r["detection_score"] for r in writer.detection["a"]) > 0.3


def test_refuses_bad_input():
    writer = ResultsWriter()
    writer.add("a", some(0), None, np.eye(4))
    with pytest.raises(ValueError, match="added before"):
        writer.add("a", some(0), None, np.eye(4))
    with pytest.raises(ValueError, match="finite"):
        writer.add("b", some(1, boxes=np.full((1, 10), np.nan)), None, np.eye(4))
    with pytest.raises(ValueError, match="ids"):
        writer.add("c", some(1), some(1, ids=None), np.eye(4))
