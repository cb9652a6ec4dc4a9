"""Truth between key frames, what tracks do from frame to frame, and the table of rates."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from exported_steps import SMALL

from sparse4d_core.checkpoint.weights import save_checkpoint
from sparse4d_core.config import PRESETS
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.rates import __main__ as command
from sparse4d_core.evaluation.rates.rate_run import WAYS, Measured
from sparse4d_core.evaluation.rates.scene_truth import Course, Present, SceneTruth
from sparse4d_core.evaluation.rates.stability import Follower, Seen, summed
from sparse4d_core.evaluation.rates.table import HEADER, markdown
from sparse4d_core.network.sparse4d import Sparse4D

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One scene of 1 s at 4 Hz: four sets, two of them key frames."""
    root = tmp_path_factory.mktemp("fast")
    render_dataset(root, 1, 100_778, duration=1.0, rate=4, rig=NUSCENES_RIG.resized(160, 90))
    return NuScenesDataset(root, sweeps=True, cache=None)


def test_a_course_between_annotations_follows_the_curve():
    """A car at 10 m/s in a bend of 20 m: a straight line between annotations would cut it by 15 cm."""
    angle = np.arange(5) * 0.5 * 10 / 20
    course = Course(0, np.arange(5) * 0.5, 20 * np.column_stack([np.cos(angle), np.sin(angle)]))
    for seconds in (0.6, 0.75, 1.1, 1.5):
        centre, velocity = course.at(seconds)
        there = 20 * np.array([np.cos(seconds / 2), np.sin(seconds / 2)])
        assert np.linalg.norm(centre - there) < 0.02
        assert np.linalg.norm(velocity) == pytest.approx(10, rel=0.03)
    assert course.at(-0.1) is None and course.at(2.1) is None
    assert Course(0, np.array([0.0, 1.5]), np.zeros((2, 2))).at(0.7) is None, "nothing is known so far from both"


def test_the_truth_of_a_key_frame_is_its_annotations(data):
    scene = data.index.scene_names[0]
    truth, row = SceneTruth(data, scene), int(data.keyframes[0])
    present, annotated = truth.at(row), data.annotations(row)
    assert 0 < len(present.ids) and set(present.ids.tolist()) <= set(annotated.instance_ids.tolist())
    at = {number: box for number, box in zip(annotated.instance_ids.tolist(), annotated.boxes, strict=True)}
    pose = data.index.T_global_from_model[row]
    for number, centre in zip(present.ids.tolist(), present.centres, strict=True):
        np.testing.assert_allclose(centre, (pose @ [*at[number][:3], 1])[:2], atol=1e-6)
    assert set(truth.at(row + 1).ids.tolist()) <= set(annotated.instance_ids.tolist())


def present(*places: float) -> Present:
    """Objects 100, 101 ... at these x, that move on at 1 m/s."""
    count = len(places)
    centres, velocities = np.column_stack([places, np.zeros(count)]), np.tile([1.0, 0.0], (count, 1))
    return Present(100 + np.arange(count), np.zeros(count, int), centres, velocities)


def seen(seconds: float, **boxes: float) -> Seen:
    """Boxes by id (i7=..., none=... without one) at these x, at 1 m/s."""
    ids = [-1 if name == "none" else int(name[1:]) for name in boxes]
    centres, velocities = np.column_stack([list(boxes.values()), [0] * len(ids)]), np.tile([1.0, 0.0], (len(ids), 1))
    return Seen(seconds, np.array(ids), np.zeros(len(ids), int), centres, velocities)


def followed(*frames: tuple[Present, Seen]):
    follower = Follower()
    for truth, boxes in frames:
        follower.add(truth, boxes)
    return summed([follower])


def test_steady_tracks_are_steady():
    frames = [(present(0.1 * n, 20 + 0.1 * n), seen(0.1 * n, i1=0.1 * n + 0.3, i2=20 + 0.1 * n)) for n in range(11)]
    found = followed(*frames)
    assert (found.id_changes, found.blinks, found.without_id, found.id_delay) == (0, 0, 0, 0)
    assert found.jump == pytest.approx(0, abs=1e-12) and found.velocity_error == 0 and found.found == 1
    assert found.place_error == pytest.approx(0.15) and found.object_seconds == pytest.approx(2.0)


def test_every_fault_of_a_track_is_counted():
    truth = present(0.0)
    found = followed(
        (truth, seen(0.0, none=0.0)), (truth, seen(0.1, none=0.0)), (truth, seen(0.2, i1=0.0)),
        (truth, seen(0.3, i2=0.4)), (truth, seen(0.4)), (truth, seen(0.5, i2=0.4)),
    )  # fmt: skip
    assert (found.id_changes, found.blinks, found.found) == (1, 1, pytest.approx(5 / 6))
    assert (found.without_id, found.id_delay, found.longest_id_delay) == (pytest.approx(0.4), *[pytest.approx(0.2)] * 2)
    assert found.jump == pytest.approx(0.4 / 3), "from the third frame to the fourth, of three pairs in a row"


def test_a_track_goes_on_with_its_object_when_another_comes_near():
    """The nearest box to the second object is the first one's: the id decides."""
    found = followed((present(0.0, 3.0), seen(0.0, i1=0.0, i2=3.0)), (present(0.0, 1.0), seen(0.1, i1=0.9, i2=1.6)))
    assert found.id_changes == 0
    assert followed((present(0.0), seen(0.0, i1=0.0)), (present(0.0), seen(0.1, i1=2.5, i2=0.0))).id_changes == 1


def test_boxes_of_another_class_or_too_far_are_none():
    other = Seen(0.0, np.array([1]), np.array([3]), np.zeros((1, 2)), np.zeros((1, 2)))
    assert followed((present(0.0), other)).found == 0 and followed((present(0.0), seen(0.0, i1=2.1))).found == 0


def test_the_command(data, tmp_path, monkeypatch, capsys):
    calls = []
    measure = command.measure
    monkeypatch.setattr(command, "measure", lambda *a, **k: calls.append(a) or measure(*a, **k))
    words = ["--model", "demo", "--dataroot", str(data.dataroot), "--out", str(tmp_path / "out"), "--no-tracking"]
    words += ["--rates", "2", "4", "20", "--ways", "every", "two"]
    assert command.main(words) == 0 and len(calls) == 4, "the data set has no 20 Hz"
    rows = json.loads((tmp_path / "out" / "rates.json").read_text())["rows"]
    by_name = {(row.pop("way"), row.pop("rate")): row for row in rows}
    scores = {key: (row["nds"], row["map"], row["stability"]) for key, row in by_name.items()}
    assert scores["every", 2] == scores["two", 2] and scores["every", 4] != scores["two", 4]
    assert by_name["two", 4]["memory_mb"] > by_name["every", 4]["memory_mb"] > 0 and by_name["two", 4]["frame_ms"] > 0
    assert (tmp_path / "out" / "rates.md").read_text().count("\n") == 6
    assert command.main(words) == 2 and "--resume" in capsys.readouterr().err
    assert command.main([*words, "--resume"]) == 0 and len(calls) == 4, "a row that was done was run again"
    assert command.main([*words[:4], "--rates", "30", "--out", str(tmp_path / "none")]) == 2
    assert "4 Hz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([*words, "--processes", "0"])


def test_objects_have_the_numbers_of_the_models_classes(data, tmp_path, monkeypatch):
    """Boxes find objects of their own number alone; a model of own classes counts them in its own order."""
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    classes = ("pedestrian", "car")
    save_checkpoint(tmp_path / "two.pt", Sparse4D(replace(SMALL, class_names=classes)))
    given = []

    def measure(pipeline, data, *_):
        given.append((pipeline.config.class_names, data.classes))
        return Measured(0.0, 0.0, None, None, vars(followed((present(0.0), seen(0.0)))), 0.0, 0.0)

    monkeypatch.setattr(command, "measure", measure)
    words = ["--model", "demo", "--checkpoint", str(tmp_path / "two.pt"), "--dataroot", str(data.dataroot)]
    assert command.main([*words, "--out", str(tmp_path / "out"), "--rates", "2", "--ways", "every"]) == 0
    assert given == [(classes, classes)]


def test_the_table_has_a_column_for_each_figure():
    found = followed((present(0.0), seen(0.0, i1=0.0)), (present(0.0), seen(0.5, i2=0.0)))
    (line,) = markdown({("two", 10.0): Measured(0.5, 0.25, None, None, vars(found), 80.0, 0.5)}).splitlines()[2:]
    cells = dict(zip(HEADER, line.strip("| ").split(" | "), strict=True))
    assert cells["memories"] == "`two`" and cells["id changes"] == "120.0" and cells["AMOTA"] == "-"
    assert set(WAYS) == {"every", "one", "two", "interleaved"}
