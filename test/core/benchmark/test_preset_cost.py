"""Time and memory of a preset, measured over a rendered frame."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from sparse4d_core.benchmark import preset_cost
from sparse4d_core.benchmark.preset_cost import Measurement, main, markdown, measure
from sparse4d_core.config import preset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.inference.pipeline import Pipeline


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("measure") / "world"
    render_dataset(out, 1, 123_002, duration=0.5, rate=2, rig=NUSCENES_RIG.resized(176, 99))
    return out


@pytest.fixture
def fake_meters(monkeypatch):
    """The process has used a multiple of 3 s of processor time at every look, and 700 KiB at most."""
    looks = itertools.count(0.0, 3.0)
    monkeypatch.setattr(preset_cost.time, "process_time", lambda: next(looks))
    monkeypatch.setattr(preset_cost.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=700))
    monkeypatch.setattr(preset_cost.sys, "platform", "linux")


def test_the_measured_frame_is_one_with_a_past(world, monkeypatch, fake_meters):
    """What is measured is the step of a frame whose memory is full, and nothing but that step."""
    steps = []
    original = Pipeline.step

    def step(self, frame, state=None):
        steps.append((frame, state, original(self, frame, state)))
        return steps[-1][2]

    monkeypatch.setattr(Pipeline, "step", step)
    measured = measure("demo", world, "v1.0-mini")
    ((frame, state, result),) = steps
    assert float(state.instances.timestamp) == pytest.approx(frame.stamp_ns * 1e-9 - 0.5)
    assert state.instances.anchor.shape[1] == preset("demo").temporal.num_instances
    assert result.reset is None and measured.stages_ms == result.timings_ms
    assert measured.processor_seconds == 3.0 and measured.peak_memory == 700 * 1024
    assert measured.detections == len(result.detections.scores) > 0


def test_command_line_runs_presets_in_processes_of_their_own(world, capfd):
    assert main(["--dataroot", str(world), "--models", "demo"]) == 0
    assert "| `demo` | 128×352 |" in capfd.readouterr().out


def test_a_data_set_that_is_not_there_ends_with_2(tmp_path, capfd):
    assert main(["--dataroot", str(tmp_path), "--models", "demo"]) == 2
    assert f"no folder {tmp_path}" in capfd.readouterr().err


def test_table():
    stages = {"preprocess": 0.0, "backbone": 750.0, "decoder": 250.0, "decode": 0.0}
    row = markdown([Measurement("v3_r50", True, 2, stages, 1.9, 3 * 2**30, 300)]).splitlines()[-1]
    assert row == "| `v3_r50` | 256×704 | 1.9 s | 75% / 25% | 1.0 s, 2 threads | 3.0 GiB |"
