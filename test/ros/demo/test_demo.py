"""`make demo` in small: every process, file and figure of it."""

from __future__ import annotations

import json

import cv2
import pytest

from sparse4d_ros.demo.__main__ import main


@pytest.mark.ros
@pytest.mark.slow
def test_demo(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--scenes", "1", "--duration", "2"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    sets = report["sets"]
    assert sets["expected"] == 20
    assert 0 < sets["processed"] == report["messages"]["recorded_sets"]
    assert sets["dropped"] == sets["expected"] - sets["processed"]
    assert report["online_equals_offline"], report["differences"]
    assert report["scene_reset"] == "clean"
    assert 0 < report["latency_ms"]["stamp_to_publish"]["p50"] <= report["latency_ms"]["stamp_to_publish"]["p99"]
    assert {"preprocess", "backbone", "decoder", "publish"} <= report["latency_ms"].keys()
    assert 0 <= report["scores"]["NDS"] <= 1
    meta = json.loads((tmp_path / "results.json").read_text())["meta"]
    assert (meta["model"], meta["scene_reset"]) == ("demo", "clean")
    assert cv2.imread(str(tmp_path / "bev.png")).shape == (1000, 1000, 3)
    video = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == sets["processed"]
    assert "online equals offline: yes" in capsys.readouterr().out


def test_steps_that_fail_are_named(tmp_path, capsys):
    """A seed that the renderer refuses: the step and the place of its output are told, nothing else is started."""
    assert main(["--out", str(tmp_path), "--seed", "-1"]) == 1
    assert "render failed" in capsys.readouterr().err
    assert not (tmp_path / "report.json").exists()
