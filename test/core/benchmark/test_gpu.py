"""`make gpu` rehearsed from end to end with the CPU in the device's place, and with none of our own environment."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from cuda_ops.build import find_nvcc
from sparse4d_core.benchmark import gpu
from sparse4d_core.benchmark.gpu_library import compile_apart
from sparse4d_core.benchmark.published_kernel import PUBLISHED_KERNEL
from sparse4d_core.benchmark.read_ceilings import READ_KERNEL

ROOT = pathlib.Path(__file__).resolve().parents[3]
# What a host with torch, nvcc, NumPy, OpenCV, Pillow, SciPy and pytest need not have.
MISSING = ("hypothesis", "tqdm", "rclpy", "rosbags", "nuscenes", "tensorboard", "matplotlib", "pandas", "psutil")
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}} on this host", name=name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(REFUSE)
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "sparse4d_core.benchmark.gpu", "--device", "cpu", "--quick"]
    command += ["--out", str(folder / "<hardware>-gpu.json")]
    missing = subprocess.run([sys.executable, "-c", "import tqdm"], env=environment, capture_output=True, text=True)
    assert "on this host" in missing.stderr, "the rehearsal would have what a GPU host lacks"
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*-gpu.json")
    return SimpleNamespace(path=path, result=json.loads(path.read_text()), text=done.stdout)


def test_the_file_has_the_hardwares_name(rehearsal):
    name = rehearsal.result["hardware"]
    words = re.findall("[a-z0-9]+", name.lower())  # of "Intel(R) Xeon(R) Processor" as well
    assert words and rehearsal.path.name == "-".join([*words, "gpu.json"])
    assert rehearsal.result["device"] == "cpu" and rehearsal.result["quick"] is True
    assert rehearsal.result["facts"]["torch"] == torch.__version__


def test_every_part_ran_or_says_why_not(rehearsal):
    parts = rehearsal.result["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "build": "done",
        "tests": "done",
        "compute_sanitizer": "not run",
        "ceilings": "not run",
        "operator": "done",
        "frames": "done",
    }
    assert parts["compute_sanitizer"]["reason"] == parts["ceilings"]["reason"] == "needs a GPU"
    assert parts["tests"]["passed"] >= 14 and parts["tests"]["failed"] == {}
    reasons = list(parts["tests"]["not_run"].values())
    part_of_golden = "of this folder has no case"  # where the repository's part of the recordings is all there is
    assert {reason for reason in reasons if part_of_golden not in reason} == {
        "needs a GPU: streams and graphs",
        "the CPU kernels have no float16",
        "no GPU on this machine",
        "needs hypothesis: pip install hypothesis",
    }
    # Beside test/gpu the tests are marked one by one: those files start, and want the GPU itself.
    assert reasons.count("no GPU on this machine") >= 6


def test_what_is_timed_and_what_is_not(rehearsal):
    rows = rehearsal.result["parts"]["operator"]["rows"]
    timed = {(row["operation"], row["dtype"]) for row in rows if row.get("warm_ms", 0) > 0}
    assert {name for name, _ in timed} == {
        "forward", "fused forward", "backward", "PyTorch forward, cameras in one batch", "layout",
    }  # fmt: skip
    assert {dtype for _, dtype in timed} == {"float32", "bfloat16"}
    read = {row["operation"] for row in rows if row.get("read_gb_per_s", 0) > 0}
    assert read == {"forward", "fused forward"}
    not_run = {row["operation"]: row["not_run"] for row in rows if "not_run" in row}
    assert not_run["forward, published design with atomic additions"] == "needs a GPU"
    frames = rehearsal.result["parts"]["frames"]["rows"]
    eager = [row for row in frames if row["step"] in ("PyTorch path", "eager")]
    assert len(eager) == 2 and all(row["total_ms"] >= row["decoder_ms"] > 0 for row in eager)
    assert all(row["ahead_ms"] > 0 for row in eager)
    assert all(row["not_run"] == "needs a GPU: a CUDA graph" for row in frames if row not in eager)
    assert "forward, published design" in rehearsal.text


def test_a_part_that_fails_leaves_the_others_and_is_said(monkeypatch, capsys):
    def broken(device, quick):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "build_part", lambda device: {})
    monkeypatch.setattr(gpu, "run_tests", lambda device, tests: {"passed": 1, "failed": {}, "not_run": {}})
    monkeypatch.setattr(gpu, "operator_rows", broken)
    monkeypatch.setattr(gpu, "frame_rows", lambda device, quick: [{"model": "demo", "total_ms": 1.0}])
    assert gpu.main(["--device", "cpu", "--quick"]) == 1
    text = capsys.readouterr().out
    assert "operator: failed (RuntimeError: an illegal memory access was encountered)" in text and "demo | 1" in text


def test_what_was_measured_before_an_interruption_is_kept(monkeypatch, tmp_path):
    def interrupted(device, quick):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "build_part", lambda device: {})
    monkeypatch.setattr(gpu, "run_tests", lambda device, tests: {"passed": 1, "failed": {}, "not_run": {}})
    monkeypatch.setattr(gpu, "operator_rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "gpu.json")])
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["build", "tests", "ceilings"]


@pytest.mark.parametrize("device", ["cuda:99", "tpu"])
def test_a_device_that_is_not_there_is_refused(device, capsys):
    assert gpu.main(["--device", device]) == 2
    assert "--device: " in capsys.readouterr().err


def test_failures_and_reasons_of_a_report(tmp_path):
    cases = '<testcase name="a"/><testcase name="b"><failure message="1 != 2"/></testcase>'
    cases += (
        '<testcase name="c"><skipped message="needs it"/></testcase><testcase name="d"><error message="no"/></testcase>'
    )
    (tmp_path / "r.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    part = gpu.read_report(tmp_path / "r.xml")
    assert part["passed"] == 1 and part["failed"] == {"b": "1 != 2", "d": "no"} and part["not_run"] == {"c": "needs it"}
    assert part["status"] == "failed" and part["reason"] == "2 tests failed: b, d"


def test_tests_that_none_ran_are_a_failure(tmp_path):
    (tmp_path / "r.xml").write_text('<testsuite><testcase name="a"><skipped message="no"/></testcase></testsuite>')
    assert gpu.read_report(tmp_path / "r.xml")["status"] == "failed"


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("name", [PUBLISHED_KERNEL, READ_KERNEL])
def test_a_kernel_of_the_benchmark_compiles_apart_and_loads(name, tmp_path):
    assert getattr(compile_apart(name, tmp_path, "90"), name)
