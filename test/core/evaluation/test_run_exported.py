"""A data set through an exported step: its results beside those of the network, and its name in them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from exported_steps import SMALL, exported, small_pipeline

from sparse4d_core.checkpoint.weights import save_checkpoint
from sparse4d_core.config import PRESETS
from sparse4d_core.evaluation import run as command
from sparse4d_core.export.manifest import read_manifest, write_manifest
from sparse4d_core.network.sparse4d import Sparse4D


def test_an_exported_step_gives_the_results_of_the_network(three_scenes, tmp_path_factory, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    monkeypatch.setattr(command, "evaluate", lambda *_, **__: pytest.fail("scored"))
    monkeypatch.setattr(command, "image_sizes", lambda data: pytest.fail("scored"))
    folder = exported(tmp_path_factory, "onnx")
    save_checkpoint(tmp_path / "small.pt", small_pipeline().model)
    arguments = ["--model", "demo", "--dataroot", str(three_scenes), "--workers", "0", "--scene-reset", "clean"]
    runs = {
        "torch": ["--checkpoint", str(tmp_path / "small.pt")],
        "onnxruntime": ["--backend", "onnxruntime", "--artefact", str(folder)],
    }
    for name, more in runs.items():
        options = command.parse_arguments([*arguments, *more, "--out", str(tmp_path / name)])
        with pytest.raises(pytest.fail.Exception, match="scored"):
            command.run(options)
    theirs, ours = (json.loads((tmp_path / name / "results.json").read_text()) for name in runs)
    assert (theirs["meta"]["backend"], ours["meta"]["backend"]) == ("torch", "onnxruntime")
    assert theirs["results"].keys() == ours["results"].keys()
    for token, boxes in theirs["results"].items():
        expected, found = (np.array([box["translation"] for box in b]) for b in (boxes, ours["results"][token]))
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_classes_of_an_exported_step_that_the_devkit_does_not_score(
    three_scenes, tmp_path_factory, tmp_path, monkeypatch, capsys
):
    """Said once the submissions are written, as of a checkpoint."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    folder = tmp_path / "step"
    shutil.copytree(exported(tmp_path_factory, "onnx"), folder)
    manifest = read_manifest(folder)
    classes = ["robot.small", *manifest.config["class_names"][1:]]
    write_manifest(folder, replace(manifest, config=manifest.config | {"class_names": classes}))
    monkeypatch.setattr(command, "run_streams", lambda *_: None)
    monkeypatch.setattr(command.RunFolder, "assemble", lambda *_: (None, None))
    arguments = ["--model", "demo", "--dataroot", str(three_scenes), "--scene-reset", "clean", "--backend"]
    more = ["onnxruntime", "--artefact", str(folder), "--out", str(tmp_path / "out")]
    assert command.run(command.parse_arguments([*arguments, *more])) is None
    assert "the model has classes that nuScenes does not score: robot.small" in capsys.readouterr().out


def test_a_step_that_does_not_fit_leaves_no_folder(three_scenes, tmp_path_factory, tmp_path, monkeypatch, capsys):
    """In which the corrected command would find a run of other settings."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    folder = exported(tmp_path_factory, "onnx")
    save_checkpoint(tmp_path / "other.pt", Sparse4D(SMALL))

    def refused(backend: str, *more: str) -> str:
        arguments = ["--model", "demo", "--dataroot", str(three_scenes), "--out", str(tmp_path / "out")]
        assert command.main([*arguments, "--backend", backend, "--artefact", str(folder), *more]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "exported with scene_reset clean, asked for reference; set scene_reset to clean" in refused("onnxruntime")
    assert "backend aoti runs the format aoti, this is onnx" in refused("aoti", "--scene-reset", "clean")
    more = ["--scene-reset", "clean", "--checkpoint", str(tmp_path / "other.pt")]
    assert "exported with other weights than those of checkpoint" in refused("onnxruntime", *more)


def test_a_backend_without_a_folder_is_refused(tmp_path, capsys):
    arguments = ["--model", "demo", "--dataroot", str(tmp_path), "--out", str(tmp_path / "out"), "--backend", "aoti"]
    assert command.main(arguments) == 2
    assert "artefact: backend aoti runs an exported step; name its folder" in capsys.readouterr().err
