"""The report: its numbers are the devkit's, its pictures show the worst, its file needs no other one."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation import evaluate as command
from sparse4d_core.evaluation.devkit_scores import evaluate
from sparse4d_core.evaluation.report import breakdown
from sparse4d_core.evaluation.report.confidence import by_class, draws, intervals, scores
from sparse4d_core.evaluation.report.detection_matches import Matches, collect
from sparse4d_core.evaluation.report.error_pictures import (
    boxes_in_model,
    pictures_of_misses,
    worst_false_positives,
    worst_misses,
)
from sparse4d_core.evaluation.report.written_report import write_report
from sparse4d_core.types import CLASS_NAMES


@pytest.fixture(scope="module")
def data(three_scenes):
    return NuScenesDataset(three_scenes, cache=None)


@pytest.fixture(scope="module")
def matches(three_scenes, shifted_truth, data) -> Matches:
    return collect(three_scenes, "v1.0-mini", shifted_truth[0], data.index.scene_names.tolist())


@pytest.fixture(scope="module")
def scored(three_scenes, shifted_truth):
    return evaluate(three_scenes, "v1.0-mini", shifted_truth[0])


def test_scores_of_all_scenes_are_the_devkits(matches, scored):
    found = scores(by_class(matches), np.ones(3))
    expected = scored.detection
    assert 0.2 < expected.map < 0.9
    assert found["NDS"] == pytest.approx(expected.nds, abs=1e-12)
    assert found["mAP"] == pytest.approx(expected.map, abs=1e-12)
    for name, value in expected.errors.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    for name, value in expected.class_ap.items():
        assert found[f"AP {name}"] == pytest.approx(value, abs=1e-12), name


def test_a_weight_of_zero_leaves_a_scene_out(three_scenes, shifted_truth, matches):
    """As the devkit scores the other two alone."""
    kept = [matches.scenes[0], matches.scenes[2]]
    expected = evaluate(three_scenes, "v1.0-mini", shifted_truth[0], scenes=kept).detection
    found = scores(by_class(matches), np.array([1, 0, 1]))
    assert found["NDS"] == pytest.approx(expected.nds, abs=1e-12)
    assert found["mAVE"] == pytest.approx(expected.errors["mAVE"], abs=1e-12)


def test_weights_count_a_scene_twice(matches):
    """Twice everything is the same as once."""
    once, twice = (scores(by_class(matches), np.full(3, weight)) for weight in (1, 2))
    assert twice == pytest.approx(once, abs=1e-12)
    assert scores(by_class(matches), np.array([2, 1, 0])) != once


def test_intervals(matches):
    found = intervals(matches, 20)["mAP"]
    assert found.low <= found.value <= found.high and found.low < found.high
    assert intervals(matches, 20) == intervals(matches, 20), "drawn anew each time"
    assert draws(5, 7).sum(axis=1).tolist() == [5] * 7
    assert {(one.value, one.low, one.high) for one in intervals(matches, 5, matches).values()} == {(0.0, 0.0, 0.0)}
    with pytest.raises(ValueError, match="different scenes"):
        intervals(matches, 2, replace(matches, scenes=("a", "b", "c")))


def test_groups_count_every_object_once(matches, data):
    total = len(matches.objects.label)
    everything = breakdown.group("all", matches, np.arange(total))
    assert everything.objects == total and 0 < everything.found < total
    assert everything.confident == int((matches.objects.score >= 0.3).sum())
    errors = matches.boxes.errors[matches.boxes.object >= 0, 0]
    assert everything.distance_error == pytest.approx(errors.mean())
    assert sum(one.objects for one in breakdown.by_visibility(matches)) == total
    within = (matches.objects.distance < 50).sum()
    assert sum(one.objects for one in breakdown.by_distance(matches)) == within
    views = breakdown.camera_views(data, matches.objects)
    cameras = breakdown.by_camera(matches, views)
    assert sum(one.objects for one in cameras if one.name != "no camera") == sum(map(len, views)) > total / 2
    assert {one.name for one in cameras} - {"no camera"} <= set(data.camera_names)


def test_cameras_see_what_is_visible(matches, data):
    """Objects that are fully visible are in some image."""
    views = breakdown.camera_views(data, matches.objects)
    clear = (matches.objects.visibility == 4) & (matches.objects.distance < 15) & (matches.objects.distance > 5)
    seen = [bool(views[row]) for row in np.flatnonzero(clear)]
    assert len(seen) > 10 and np.mean(seen) > 0.9


def test_calibration(matches):
    found = breakdown.calibration(matches)
    assert found.count.sum() == len(matches.boxes.score) and 0 <= found.error <= 1
    right = (matches.boxes.object >= 0).mean()
    assert (found.precision * found.count).sum() / found.count.sum() == pytest.approx(right)


def test_the_worst_come_first(matches):
    misses, wrong = worst_misses(matches.objects), worst_false_positives(matches.boxes)
    assert 0 < len(misses) <= 20 and np.isnan(matches.objects.score[misses]).all()
    visibility = matches.objects.visibility[misses]
    assert (np.diff(visibility) <= 0).all()
    nearest = matches.objects.distance[misses][visibility == visibility[0]]
    assert (np.diff(nearest) >= 0).all()
    assert (matches.boxes.object[wrong] == -1).all() and (np.diff(matches.boxes.score[wrong]) <= 0).all()


def test_boxes_in_the_model_frame(matches, data):
    """Back where the data set has them."""
    token = matches.objects.sample[0]
    number = int(np.flatnonzero(data.index.tokens == token)[0])
    rows = np.flatnonzero(matches.objects.sample == token)
    boxes = boxes_in_model(matches.objects, rows, data.frame(number, images=False))
    expected = data.annotations(number).boxes
    for box in boxes:
        nearest = expected[np.linalg.norm(expected[:, :3] - box[:3], axis=1).argmin()]
        np.testing.assert_allclose(box, nearest[:7], atol=1e-6)
    assert boxes_in_model(matches.objects, rows[:0], data.frame(number, images=False)).shape == (0, 7)


def test_pictures_show_the_place(matches, data):
    made = pictures_of_misses(data, matches, 3)
    assert len(made) == 3 and all(one.title.startswith("missed: ") for one in made)
    shown = [one for one in made if one.jpeg]
    assert shown and all((data.dataroot / one.link).is_file() and one.jpeg[:2] == b"\xff\xd8" for one in shown)


def test_the_file_needs_no_other(three_scenes, shifted_truth, scored, tmp_path):
    out, measured = tmp_path / "out" / "report.html", {
        "sets": 9, "dropped": {"total": 4, "late <set>": 4, "no_stamp": 0}, "step_ms": {"median": 50.0, "p99": None},
    }  # fmt: skip
    write_report(
        out, three_scenes, "v1.0-mini", shifted_truth[0], scored, None, shifted_truth[0], ["one thing"], measured, 3
    )
    text = out.read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:|//)', text) and "<script" not in text
    assert set(re.findall(r'src="(data:[a-z/+]+)', text)) == {"data:image/svg+xml", "data:image/jpeg"}
    for heading in ("Scores", "Beside the other run", "Classes", "Calibration", "Where objects", "The run", "Worst"):
        assert heading in text
    assert "no_stamp" not in text  # what did not occur takes no row
    assert "late &lt;set&gt;" in text and "one thing" in text and f"{scored.detection.nds:.4f}" in text
    for link in re.findall(r'<a href="([^#"]+)"><img', text):
        assert (out.parent / link).is_file()
    assert all(name in text for name in CLASS_NAMES)


def test_the_command_writes_it(three_scenes, shifted_truth, tmp_path, capsys):
    words = ["--dataroot", str(three_scenes), "--results", str(shifted_truth[0]), "--out", str(tmp_path)]
    assert command.main([*words, "--report", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 100_000
    with pytest.raises(SystemExit):
        command.main([*words, "--against", "x.json"])
    assert "--report" in capsys.readouterr().err
