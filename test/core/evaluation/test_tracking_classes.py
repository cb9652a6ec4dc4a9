"""Tracking scores of classes in parallel processes are the devkit's own, digit for digit."""

from __future__ import annotations

import json
import os

import pytest
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.tracking.evaluate import TrackingEval

from sparse4d_core.benchmark.tracking_scoring import FIRST_WRONG_ID, WRONG, imperfect_results, write_tables
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation import devkit_scores as scoring
from sparse4d_core.evaluation import tracking_classes


@pytest.fixture(scope="module")
def submission(three_scenes, shifted_truth, tmp_path_factory):
    """(arguments of the devkit's evaluation but its folder, names of the scenes) for three scenes."""
    scratch = tmp_path_factory.mktemp("view")
    scenes = [record["name"] for record in json.loads((three_scenes / "v1.0-mini" / "scene.json").read_text())]
    view = scoring.evaluation_view(three_scenes, "v1.0-mini", scenes, scratch)
    return str(shifted_truth[1]), scoring.SPLIT, "v1.0-mini", str(view)


def plain(values):
    """Without the time it took, and with NaN that equals itself."""
    return json.dumps({name: value for name, value in values.items() if name != "eval_time"}, sort_keys=True)


def devkit_run(submission, folder):
    file, split, version, view = submission
    evaluation = TrackingEval(config_factory("tracking_nips_2019"), file, split, str(folder), version, view, False)
    for name in ("tracks_gt", "tracks_pred"):
        setattr(evaluation, name, dict(sorted(getattr(evaluation, name).items())))
    return evaluation.main(render_curves=False)


@pytest.mark.filterwarnings("ignore")
def test_equal_to_the_devkits_own_run(submission, tmp_path):
    file, split, version, view = submission
    expected = devkit_run(submission, tmp_path / "devkit")
    assert expected["ids"] > 0 and 0 < expected["amota"] < 1, "a submission that is neither perfect nor empty"
    evaluation = tracking_classes.make_evaluation(file, split, str(tmp_path / "ours"), version, view)
    assert plain(tracking_classes.summary(evaluation, 2)) == plain(expected)
    for name in ("metrics_summary.json", "metrics_details.json"):
        written = [json.loads((tmp_path / folder / name).read_text()) for folder in ("devkit", "ours")]
        assert plain(written[0]) == plain(written[1])


@pytest.mark.filterwarnings("ignore")
def test_the_order_of_scenes_is_fixed(submission, tmp_path):
    file, split, version, view = submission
    evaluation = tracking_classes.make_evaluation(file, split, str(tmp_path), version, view)
    assert list(evaluation.tracks_gt) == sorted(evaluation.tracks_gt) == list(evaluation.tracks_pred)


def die(*_):
    os._exit(3)


@pytest.mark.filterwarnings("ignore")
def test_a_dead_process_is_named(submission, tmp_path, monkeypatch):
    file, split, version, view = submission
    evaluation = tracking_classes.make_evaluation(file, split, str(tmp_path), version, view)
    monkeypatch.setattr(tracking_classes, "accumulate", die)
    with pytest.raises(ChildProcessError, match="fewer processes"):
        tracking_classes.summary(evaluation, 2)
    assert not (tmp_path / "metrics_summary.json").exists()


def test_results_for_timing_look_like_a_trackers(tmp_path):
    """The same at every call; not all is found, and much is wrong. Their tables need no images."""
    write_tables(tmp_path, "v1.0-mini", scenes=1, duration=2.0)
    data = NuScenesDataset(tmp_path, cache=None)
    results, again = imperfect_results(data), imperfect_results(data)
    assert results.tracking == again.tracking and len(results.tracking) == len(data.keyframes) == 4
    truth = sum(int((data.annotations(row).labels >= 0).sum()) for row in data.keyframes.tolist())
    found = sum(map(len, results.detection.values())) / (1 + WRONG)
    assert truth > 20 and 0.5 * truth < found < 0.95 * truth
    boxes = [box for sample in results.tracking.values() for box in sample]
    wrong = sum(int(box["tracking_id"]) >= FIRST_WRONG_ID for box in boxes)
    assert wrong == WRONG * (len(boxes) - wrong)
