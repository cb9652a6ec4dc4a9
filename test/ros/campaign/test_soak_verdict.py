"""What a soak concludes from its figures."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
from sparse4d_ros.campaign import soak
from sparse4d_ros.campaign.growth_verdict import Growth, growth, slope
from sparse4d_ros.campaign.resources import Sample, unexplained
from sparse4d_ros.campaign.running_system import CampaignError
from sparse4d_ros.campaign.soak import Run, parse_arguments, sentence
from sparse4d_ros.campaign.soak_picture import draw
from sparse4d_ros.perception.rig import load_rig


def samples(minutes: float, memory, files=lambda t: 20) -> list[Sample]:
    """One every five seconds."""
    times = np.arange(0, 60 * minutes, 5.0)
    return [
        Sample(t, memory(t), files(t), 26, int(10 * t), 10.0, 80.0, 120.0, {"images_dropped.superseded": 1})
        for t in times
    ]


def test_a_line_that_outliers_and_steps_do_not_bend():
    t = np.arange(100.0)
    values = 3.0 * t + 7
    values[::7] += 1000
    assert slope(t, values) == pytest.approx(3.0, abs=0.1)
    assert slope(t, np.where(t < 50, 500.0, 503.0)) < 0.06


def test_what_the_first_five_minutes_take_does_not_count():
    found = growth(samples(30, lambda t: 500 + 200 * min(t / 280, 1.0)))
    assert found == Growth(0.0, 0.0, 0.0) and found.problems == []


def test_a_leak_is_found():
    noise = np.random.default_rng(0)
    found = growth(samples(30, lambda t: 600 + 1.5 * t / 600 + noise.normal(0, 3.0)))
    assert found.memory_mib == pytest.approx(1.5, abs=0.6)
    assert "memory grows by" in growth(samples(30, lambda t: 600 + 2.0 * t / 600)).problems[0]
    (problem,) = growth(samples(30, lambda t: 600.0, files=lambda t: 20 + t // 60)).problems
    assert problem == "file descriptors grow by 10.0 in ten minutes"


def test_of_a_short_run_growth_is_not_judged():
    assert growth(samples(9, lambda t: 600 + t)) == Growth() and Growth().problems == []


class Diagnostics:
    """Stands in for the observer."""

    def __init__(self, **changes: int):
        self._values = {
            "images_received": 60, "images_in_sets": 42, "images_pending": 6, "images_dropped.late": 12,
            "sets.complete": 9, "sets.superseded": 1, "sets_processed": 6, "sets_dropped.image_data": 2,
        } | changes  # fmt: skip

    def values(self, component: str) -> dict[str, str]:
        return {key: str(value) for key, value in self._values.items()}


def test_nothing_may_be_lost_without_a_cause():
    assert unexplained(Diagnostics()) == (0, 0)
    assert unexplained(Diagnostics(images_received=63, sets_processed=5)) == (3, 1)


def test_images_are_counted_while_the_streams_pause(monkeypatch):
    """Diagnostics, as old as they are before the streams pause, know of fewer images than the node has received."""
    received, told = 654, {"images_received": "600"}
    streams = SimpleNamespace(sets=109, paused=threading.Event())

    def watch(*_):
        nonlocal received
        assert not streams.paused.is_set()
        streams.sets += 100
        received += 600 - 40
        return samples(1, lambda t: 600.0)

    def drain(_):
        assert streams.paused.is_set()
        told["images_received"] = str(received)

    monkeypatch.setattr(soak, "_watch", watch)
    monkeypatch.setattr(soak, "_drain", drain)
    monkeypatch.setattr(soak, "unexplained", lambda observer: (0, 0))
    observer = SimpleNamespace(values=lambda component: told)
    run = soak.measure(SimpleNamespace(streams=streams, observer=observer, rig=load_rig()), "raw", 10.0)
    assert (run.published, run.lost_in_transport) == (600, 40)


def test_what_was_measured_is_kept_when_the_next_part_fails(tmp_path, monkeypatch, capsys):
    def fake(kind, seconds, folder, parameters):
        if kind == "jpeg":
            raise CampaignError("no output")
        return Run(kind, 600, 0, 0, 0, Growth(0.2, 0.0, 0.0), tuple(samples(1, lambda t: 600.0)))

    monkeypatch.setattr(soak, "soak", fake)
    assert soak.main(["--minutes", "2", "--out", str(tmp_path)]) == 1
    content = json.loads((tmp_path / "soak.json").read_text())
    assert not content["passed"] and content["unfinished"] == ["jpeg"]
    (run,) = content["runs"]
    assert run["images"] == "raw" and len(run["samples"]) == 12
    assert "no output" in capsys.readouterr().err


def test_nothing_is_passed_before_all_is_done(tmp_path, monkeypatch):
    def fake(kind, seconds, folder, parameters):
        assert not json.loads((tmp_path / "soak.json").read_text())["passed"], "also of an earlier run in this folder"
        return Run(kind, 600, 0, 0, 0, Growth(0.2, 0.0, 0.0), tuple(samples(1, lambda t: 600.0)))

    monkeypatch.setattr(soak, "soak", fake)
    for _ in range(2):
        assert soak.main(["--minutes", "2", "--out", str(tmp_path)]) == 0
        content = json.loads((tmp_path / "soak.json").read_text())
        assert content["passed"] and content["unfinished"] == [] and len(content["runs"]) == 2


def test_the_verdict_names_what_is_wrong(tmp_path):
    good = Run("raw", 600, 0, 0, 0, Growth(0.2, 0.0, 0.0), tuple(samples(1, lambda t: 600.0)))
    assert good.problems == [] and "memory grows by 0.20 MiB in ten minutes" in sentence(good)
    bad = replace(good, unexplained_images=3, unexplained_sets=1)
    assert "NOT PASSED: lost without a cause: 3 images, 1 sets" in sentence(bad)
    assert "too short to judge growth" in sentence(replace(good, growth=Growth()))
    assert replace(good, samples=()).problems == ["no set was processed"]
    pytest.importorskip("matplotlib")
    draw({"raw": good.samples, "jpeg": good.samples}, tmp_path / "deep" / "soak.png")
    assert (tmp_path / "deep" / "soak.png").read_bytes()[1:4] == b"PNG"


def test_the_command_line():
    options = parse_arguments(["--minutes", "2", "--images", "raw", "--parameter", "device:=cuda"])
    assert (options.minutes, options.images, options.parameter) == (2.0, ["raw"], ["device:=cuda"])
    for words in (["--minutes", "0"], ["--parameter", "device=cuda"]):
        with pytest.raises(SystemExit):
            parse_arguments(words)
