"""Exported steps of a small model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from exported_steps import SMALL, exported, small_pipeline

from sparse4d_core.config import PRESETS
from sparse4d_core.export.manifest import NAME
from sparse4d_core.inference.pipeline import Pipeline


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    return small_pipeline()


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory) -> Path:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    return exported(tmp_path_factory, "onnx")


@pytest.fixture
def small_preset(monkeypatch) -> None:
    """The preset `demo` is the small model."""
    monkeypatch.setitem(PRESETS, "demo", SMALL)


@pytest.fixture
def changed(onnx_folder, tmp_path) -> Callable[..., Path]:
    """A copy of the folder whose manifest has other values."""

    def change(**values: object) -> Path:
        folder = Path(shutil.copytree(onnx_folder, tmp_path / "changed"))
        manifest = json.loads((folder / NAME).read_text())
        (folder / NAME).write_text(json.dumps(manifest | values))
        return folder

    return change
