"""The node with an exported step in the place of the network: over DDS what the replay gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
import rclpy
from exported_steps import SMALL, exported
from node_driver import Driver
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from sparse4d_core.config import PRESETS
from sparse4d_ros.assembly import load_pipeline
from sparse4d_ros.bags.box_record import differences
from sparse4d_ros.box_recorder import BoxRecorder
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.rig import load_rig
from sparse4d_ros.replay import Replay, main

pytestmark = pytest.mark.ros
FORMATS = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime (cpu)"), "aoti": ("aoti", "torch", "aoti")}


@pytest.fixture(params=FORMATS)
def parameters(request, tmp_path_factory, monkeypatch) -> NodeParameters:
    """Of a node that runs the small model's step."""
    form, package, _ = FORMATS[request.param]
    pytest.importorskip(package, reason=f"{package} is not installed (requirements/export.txt)")
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    folder = exported(tmp_path_factory, form)
    return NodeParameters(model="demo", backend=request.param, artefact=str(folder), first_id=0)


@pytest.fixture
def context(module_domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=module_domain)
    yield context
    rclpy.shutdown(context=context)


def test_node_over_dds_equals_replay(parameters, context, module_domain, tiny_bag):
    records = []
    driver = Driver(
        context=context, **{n: getattr(parameters, n) for n in ("model", "backend", "artefact", "first_id")}
    )
    recorder = BoxRecorder("/sparse4d", records.append, context=context)
    executor = SingleThreadedExecutor(context=context)
    try:
        assert driver.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert driver.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        executor.add_node(driver.node)
        executor.add_node(recorder)
        player = subprocess.Popen(
            [sys.executable, "-m", "sparse4d_ros.bag_player", str(tiny_bag), "--wait", "60"],
            env={**os.environ, "ROS_DOMAIN_ID": str(module_domain)},
        )
        spin_until(executor, lambda: player.poll() is not None and len(records) == driver.statistics.processed > 0)
        assert player.returncode == 0
        (inference, *_) = driver.node.health()
        assert inference.values["backend"] == FORMATS[parameters.backend][2]
        assert inference.values["weights"] == "untrained"
    finally:
        driver.node.close()
        recorder.destroy_node()
        executor.shutdown()
    rig = load_rig()
    offline = Replay(tiny_bag, rig, load_pipeline(parameters, rig), parameters)
    assert differences(records, offline.run({record.stamp_ns for record in records})) == []
    assert any(len(record.detections.scores) for record in records)


def spin_until(executor, condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "still waiting"
        executor.spin_once(timeout_sec=0.05)


def test_results_name_the_backend(tmp_path_factory, monkeypatch, tiny_bag, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    folder, out = exported(tmp_path_factory, "onnx"), tmp_path / "results.json"
    arguments = [str(tiny_bag), "--model", "demo", "--backend", "onnxruntime", "--artefact", str(folder)]
    assert main([*arguments, "--out", str(out)]) == 0
    assert json.loads(out.read_text())["meta"]["backend"] == "onnxruntime (cpu)"
    assert main([*arguments, "--providers", "cuda", "--out", str(out)]) == 2
    assert "providers: this onnxruntime has no provider 'cuda', but cpu" in capsys.readouterr().err


def test_an_artefact_for_another_rig_is_refused_before_the_first_frame(tmp_path_factory, monkeypatch):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    monkeypatch.setitem(PRESETS, "demo", SMALL)
    rig = load_rig()
    parameters = NodeParameters(model="demo", backend="onnxruntime", artefact=str(exported(tmp_path_factory, "onnx")))
    with pytest.raises(ValueError, match="made for 6 cameras, got 5"):
        load_pipeline(parameters, replace(rig, cameras=rig.cameras[:5]))
