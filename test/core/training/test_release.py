"""Shipping a run's weights: what is written, how exact it is, which weights are taken."""

from __future__ import annotations

import json
import pathlib
import signal
from dataclasses import asdict

import pytest
import tiny_run
import torch

from sparse4d_core.checkpoint.file import CheckpointError
from sparse4d_core.checkpoint.weights import load_checkpoint
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training.release import halved, main, portable_command


@pytest.fixture
def run(tmp_path):
    """A finished run with an average of its weights."""
    trainer = tiny_run.tiny_trainer(tmp_path / "run", iterations=2)
    trainer.run()
    record = {
        "command": ["/somewhere/train.py", "--model", "demo", "--dataroot", "/home/user/world", "--lr", "0.001"],
        "model": asdict(trainer.model.config),
        "training": asdict(trainer.config),
    }
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    return trainer


def loaded(path: pathlib.Path) -> Sparse4D:
    model = Sparse4D(tiny_run.MODEL)
    load_checkpoint(path, model)
    return model


@pytest.mark.parametrize("finished", [True, False])
def test_the_average_is_shipped_from_finished_and_from_running_runs(run, tmp_path, finished, capsys):
    folder, out = run.settings.out, tmp_path / "weights" / "demo.pt"
    if not finished:
        (folder / "model.pt").unlink()
    assert main([str(folder), "--out", str(out), "--float32"]) == 0
    expected = run.average.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded(out).state_dict().items())
    assert "averaged weights of demo after 2 iterations" in capsys.readouterr().out
    sheet = json.loads(out.with_suffix(".json").read_text())
    assert sheet["iterations"] == 2 and sheet["model"]["num_anchors"] == 24 and sheet["scores"] is None
    assert (out.parent / "demo_log.jsonl").read_text() == (folder / "log.jsonl").read_text()


def test_of_a_run_that_goes_on_after_its_end_the_newest_weights_are_shipped(run, tmp_path, capsys):
    """model.pt is of the former end."""
    trainer = tiny_run.tiny_trainer(run.settings.out, iterations=4)
    assert trainer.resume()
    trainer._keep_epoch = lambda: signal.raise_signal(signal.SIGTERM)  # called after each step
    trainer.run()
    assert main([str(run.settings.out), "--out", str(tmp_path / "demo.pt"), "--float32"]) == 0
    assert "averaged weights of demo after 3 iterations" in capsys.readouterr().out
    expected = trainer.average.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded(tmp_path / "demo.pt").state_dict().items())


def test_half_precision_is_half_the_size_and_close(run, tmp_path):
    assert main([str(run.settings.out), "--out", str(tmp_path / "full.pt"), "--float32"]) == 0
    assert main([str(run.settings.out), "--out", str(tmp_path / "half.pt")]) == 0
    content = torch.load(tmp_path / "half.pt", weights_only=True)["state_dict"]
    assert content["backbone.conv1.weight"].dtype == torch.float16
    assert content["decoder.anchor"].dtype == torch.float32
    full, half = loaded(tmp_path / "full.pt").state_dict(), loaded(tmp_path / "half.pt").state_dict()
    for name, value in full.items():
        assert half[name].dtype == value.dtype
        torch.testing.assert_close(half[name], value, rtol=2**-11, atol=2**-25)


def test_scores_and_a_command_without_folders_are_kept(run, tmp_path):
    scores = tmp_path / "metrics.json"
    scores.write_text('{"detection": {"nds": 0.5}}')
    assert main([str(run.settings.out), "--out", str(tmp_path / "demo.pt"), "--scores", str(scores)]) == 0
    sheet = json.loads((tmp_path / "demo.json").read_text())
    assert sheet["scores"] == {"detection": {"nds": 0.5}}
    assert sheet["command"] == "python -m sparse4d_core.training.train --model demo --dataroot world --lr 0.001"


def test_relative_paths_of_a_command_stay():
    assert portable_command(["x", "--out", "out/run"]).endswith("--out out/run")


def test_weights_beyond_half_precision_are_refused():
    with pytest.raises(CheckpointError, match="a.weight: holds a value that is not finite in torch.float16"):
        halved({"a.weight": torch.full((2, 2), 1e6)})


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "demo.pt")]) == 2
    assert "config.json is missing; expected the folder given to training as --out" in capsys.readouterr().err


def test_a_run_without_weights_is_named(run, tmp_path, capsys):
    (run.settings.out / "model.pt").unlink()
    for path in (run.settings.out / "checkpoints").glob("*.pt"):
        path.write_bytes(b"cut off")
    assert main([str(run.settings.out), "--out", str(tmp_path / "demo.pt")]) == 2
    assert "neither model.pt nor an intact checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "demo.pt").exists()
