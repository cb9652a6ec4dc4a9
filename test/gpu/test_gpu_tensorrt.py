"""Engines of TensorRT, where it is installed: built of both forms of the graph, and proved against PyTorch."""

from __future__ import annotations

import pytest
from exported_steps import exported, small_pipeline

from cuda_ops.plugins import ONNXRUNTIME, TENSORRT, build_command, plugin_library
from sparse4d_core.export.manifest import read_manifest
from sparse4d_core.export.tensorrt_engine import write_engine

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("operator", ["portable", "native"])
def test_an_engine_is_the_model(gpu, operator, tmp_path_factory, tmp_path):
    """Eight recurrent frames; `write_engine` refuses an engine that differs."""
    for package in ("tensorrt", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    for plugin in (ONNXRUNTIME, TENSORRT) if operator == "native" else ():
        if plugin_library(plugin) is None:
            pytest.skip(f"needs our operator for it: {build_command(plugin)}")
    source = exported(tmp_path_factory, "onnx", **({} if operator == "portable" else {"operator": operator}))
    write_engine(small_pipeline(), source, tmp_path / "engine", timing_cache=tmp_path / "timing.cache")
    (proof,) = read_manifest(tmp_path / "engine").accuracy
    assert proof["frames"] == 8 and proof["runs_on"] == "tensorrt"
