"""`make demo` in small, from an installation: every process, file and figure of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from sparse4d_core.inference.image_encoder import fast_precision
from sparse4d_ros.demo.__main__ import main
from sparse4d_ros.demo.integer_step import what_is_missing
from sparse4d_ros.demo.report import print_report

ROOT = Path(__file__).resolve().parents[3]
CAMERAS = 6


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """Environment of a copy laid out as colcon installs it: code in site-packages, config in share."""
    prefix = tmp_path / "prefix"
    packages = prefix / "lib" / "site-packages"
    for name in ("sparse4d_ros", "sparse4d_core", "cuda_ops"):
        shutil.copytree(ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "config", prefix / "share" / "sparse4d_ros" / "config")
    return {**os.environ, "PYTHONPATH": str(packages), "AMENT_PREFIX_PATH": str(prefix)}


@pytest.mark.ros
@pytest.mark.slow
def test_demo(installed, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "sparse4d_ros.demo", "--out", out, "--scenes", "1", "--duration", "1"]
    done = subprocess.run(list(map(str, command)), cwd=elsewhere, env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "online equals offline: yes" in done.stdout
    assert list(elsewhere.iterdir()) == []
    report = json.loads((out / "report.json").read_text())
    assert report["online_equals_offline"], report["differences"]
    if what_is_missing() is None:  # for 8-bit integers
        assert (report["precision"], report["backend"]) == ("int8", "onnxruntime (cpu)"), done.stdout
        stages = {"preprocess", "network", "publish"}
    else:
        assert (report["precision"], report["backend"]) == (fast_precision("cpu"), "torch"), done.stdout
        stages = {"preprocess", "backbone", "decoder", "publish"}
    assert report["scene_reset"] == "clean"
    check_counts(report)
    check_scores(report["scores"])
    latency = report["latency_ms"]
    assert 0 < latency["stamp_to_publish"]["p50"] <= latency["stamp_to_publish"]["p99"]
    assert stages <= latency.keys()
    meta = json.loads((out / "results.json").read_text())["meta"]
    assert (meta["model"], meta["scene_reset"]) == ("demo", "clean")
    assert cv2.imread(str(out / "bev.png")).shape == (1000, 1000, 3)
    video = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == report["sets"]["processed"]


def check_counts(report: dict) -> None:
    """What the bag holds, what the node counted and what the recorder got agree, however busy the machine was."""
    sets = report["sets"]
    assert sets["expected"] == 10
    assert sets["processed"] == report["messages"]["recorded_sets"] > 0
    causes = dict(sets["dropped_by_cause"])
    images = sum(causes.pop(cause) for cause in list(causes) if cause.startswith("images: "))
    assert sets["processed"] + sum(causes.values()) + images / CAMERAS == sets["expected"]


def check_scores(scores: dict) -> None:
    """NDS is made of mAP and the five errors (nuScenes detection challenge)."""
    errors = scores["errors"]
    assert len(errors) == 5 and len(scores["class_ap"]) == 10
    expected = (5 * scores["mAP"] + sum(1 - min(1, error) for error in errors.values())) / 10
    assert scores["NDS"] == pytest.approx(expected, abs=1e-6)
    assert scores["mAP"] == pytest.approx(sum(scores["class_ap"].values()) / 10, abs=1e-6)


def test_steps_that_fail_are_named(tmp_path, capsys):
    """A seed that the renderer refuses: the step and the place of its output are told, nothing else is started."""
    assert main(["--out", str(tmp_path), "--seed", "-1"]) == 1
    assert "render failed" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--out", str(tmp_path / "file" / "demo")]) == 2
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("video", [True, False])
def test_the_first_screen_names_the_pictures_of_this_run(capsys, video):
    report = {
        **dict.fromkeys(("model", "precision", "backend"), "any"),
        "weights": "trained",
        "sets": {"processed": 1, "expected": 1, "dropped": 0, "dropped_by_cause": {}},
        "rate_hz": 10.0,
        "latency_ms": {"stamp_to_publish": {}},
        "scores": {"NDS": 0.5, "mAP": 0.5, "AMOTA": None},
        "online_equals_offline": True,
    }
    print_report(report, Path("out"), video)
    shown = capsys.readouterr().out.partition("look at")[2].split()
    assert shown == [*(["out/overlay.mp4"] if video else []), "out/bev.png", "out/report.json"]
