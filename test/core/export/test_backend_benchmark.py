"""The benchmark of backends: which folders it takes, and that it runs what they hold."""

from __future__ import annotations

import pytest

from sparse4d_core.benchmark.__main__ import main
from sparse4d_core.benchmark.frame_timing import PathRunner, artefact_paths, fastest

pytestmark = pytest.mark.usefixtures("small_preset")


def test_it_runs_the_exported_step(onnx_folder):
    path = artefact_paths("demo", [str(onnx_folder)])[-1]
    assert path.name.startswith("onnxruntime float32 ")
    PathRunner.start(path, 2)
    times = PathRunner.step(0)
    assert set(times) == {"total", "processor", "preprocess", "network", "decode"} and times["network"] > 0
    assert PathRunner.current.pipeline.backend == "onnxruntime (cpu)"


def test_the_fastest_is_named():
    assert fastest([{"path": "float32", "total_ms": 2.0}, {"path": "aoti", "total_ms": 1.0}]) == "aoti"


def test_what_is_no_artefact_of_the_model_is_refused(onnx_folder, tmp_path, capsys):
    assert main(["--model", "demo", "--backends", str(tmp_path)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err
    assert main(["--model", "v3_r50", "--backends", str(onnx_folder)]) == 2
    assert "a step of demo, but model is v3_r50" in capsys.readouterr().err
