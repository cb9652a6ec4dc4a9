"""Time and memory of a preset, measured over a rendered frame."""

from __future__ import annotations

import pytest

from sparse4d_core.benchmark.preset_cost import Measurement, main, markdown, measure
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("measure") / "world"
    render_dataset(out, 1, 123_002, duration=0.5, rate=2, rig=NUSCENES_RIG.resized(176, 99))
    return out


def test_demo_is_measured(world):
    result = measure("demo", world, "v1.0-mini")
    assert set(result.stages_ms) == {"preprocess", "backbone", "decoder", "decode"}
    assert result.processor_seconds > 0
    assert result.seconds > 0
    assert 100 * 2**20 < result.peak_memory < 64 * 2**30
    assert result.detections > 0


def test_command_line_runs_presets_in_processes_of_their_own(world, capfd):
    assert main(["--dataroot", str(world), "--models", "demo"]) == 0
    assert "| `demo` | 128×352 |" in capfd.readouterr().out


def test_table():
    stages = {"preprocess": 0.0, "backbone": 750.0, "decoder": 250.0, "decode": 0.0}
    row = markdown([Measurement("v3_r50", True, 2, stages, 1.9, 3 * 2**30, 300)]).splitlines()[-1]
    assert row == "| `v3_r50` | 256×704 | 1.9 s | 75% / 25% | 1.0 s, 2 threads | 3.0 GiB |"
