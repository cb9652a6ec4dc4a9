"""Pictures of loss curves, and how fast samples are loaded."""

from __future__ import annotations

import json

import cv2
import pytest

from sparse4d_core.benchmark import loader_throughput
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.training import plot
from sparse4d_core.training.run.journal import Journal


@pytest.fixture
def run(tmp_path):
    """The log of a run that was resumed at iteration 40 and met a step that was not finite."""
    lines = [{"iteration": i, "loss": 10.0 / i, "lr": 1e-3, "loss/cls_0": 1.0, "loss/cls_2": 2.0} for i in (20, 40, 60)]
    lines.insert(2, {"iteration": 41, "event": "step skipped: gradient not finite", "samples": ["a"]})
    lines.append({"iteration": 40, "loss": 7.0, "lr": 1e-3, "loss/cls_2": None})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_a_log_is_read_with_its_last_word_on_every_iteration(run):
    log = plot.read_log(run / "log.jsonl")
    assert log["loss"][0].tolist() == [20, 40, 60] and log["loss"][1].tolist() == [0.5, 7.0, 10 / 60]
    assert log["loss/cls_2"][0].tolist() == [20, 40, 60] and plot.last_layer(list(log)) == 2


def test_loss_curves_become_a_small_picture(run, capsys):
    assert plot.main([str(run), "--out", str(run / "images" / "loss.png")]) == 0
    assert "60 iterations" in capsys.readouterr().out
    picture = cv2.imread(str(run / "images" / "loss.png"))
    assert picture.shape[1] == 800 and picture.std() > 10
    assert (run / "images" / "loss.png").stat().st_size < 100_000


@pytest.mark.parametrize(("text", "said"), [("", "no report with a loss"), ("{broken\n", "line 1 is no JSON")])
def test_logs_that_cannot_be_drawn_are_named(tmp_path, capsys, text, said):
    (tmp_path / "log.jsonl").write_text(text)
    assert plot.main([str(tmp_path), "--out", str(tmp_path / "loss.png")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "loss.png").exists()


def test_a_log_torn_by_a_power_loss_is_read_and_goes_on(run):
    """Half of its last line is lost; before and after the run is resumed it is a log."""
    log = run / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-15])
    assert plot.read_log(log)["loss"][1].tolist() == [0.5, 0.25, 10 / 60]
    journal = Journal(run, 40, 60)
    journal.report(60, {"loss": 3.0, "lr": 1e-3})
    journal.close()
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["iteration"] for record in records] == [20, 40, 41, 60, 60]
    assert plot.read_log(log)["loss"][1].tolist() == [0.5, 0.25, 3.0]
    assert plot.draw(run, run / "loss.png") == 60


def test_loading_is_measured_beside_the_step(tmp_path, capsys):
    render_dataset(tmp_path / "world", 1, 5, duration=1.0, rate=2, rig=NUSCENES_RIG.resized(160, 90))
    arguments = f"--model demo --dataroot {tmp_path}/world --workers 0 1 --frames 2 --steps 1 --device cpu --threads 1 "
    assert loader_throughput.main(f"{arguments} --out {tmp_path}/loader.json".split()) == 0
    result = json.loads((tmp_path / "loader.json").read_text())
    assert [row["workers"] for row in result["rows"]] == [0, 1] and result["step_frames_per_s"] > 0
    for row in result["rows"]:
        assert row["of_step"] == pytest.approx(row["frames_per_s"] / result["step_frames_per_s"])
    assert "A GPU consumes far more than this CPU" in capsys.readouterr().out
