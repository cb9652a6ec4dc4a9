"""Diagnostics as the node sends them, read for the page; plots and texts made of them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")
from live_scenes import objects

from sparse4d_ros.live_view.browser import texts
from sparse4d_ros.live_view.health_sample import Component, HealthSample, Verdict, health_from_message
from sparse4d_ros.live_view.scene import Moment
from sparse4d_ros.messages.stamps import make_header
from sparse4d_ros.online.diagnostics import to_diagnostics
from sparse4d_ros.online.health import Moment as NodeMoment
from sparse4d_ros.online.health import SetCounts, assess
from sparse4d_ros.online.statistics import Statistics
from sparse4d_ros.perception.camera_statistics import CameraStatus


@pytest.fixture
def message():
    """What the node makes of real counters: one camera is well, the other has sent nothing for 5 s."""
    statistics = Statistics(clock=iter(np.arange(100.0, 200.0)).__next__)
    for value in (10.0, 20.0, 30.0):
        statistics.count_processed({"processing": value})
    statistics.count_drop("tf_unknown_frame")
    sets = SetCounts(received=5, delivered=3, pending=0, drops={"superseded": 2}, sets={}, missing={})
    well = CameraStatus(
        state="healthy", since_ns=0, reason="", offset_ns=0, rate_hz=10.0, silent_ns=0, age_ns=0, received=500,
        recent_received=100, drops={}, recent_drops={}, missed=0, recent_missed=0,
    )  # fmt: skip
    cameras = {"cam_front": well, "cam_back": replace(well, silent_ns=5_000_000_000)}
    now = NodeMoment(statistics.snapshot(), 50.0, sets, cameras)
    before = NodeMoment(Statistics(clock=lambda: 100.0).snapshot(), 50.0, sets, cameras)
    components = assess(now, before, list(cameras), {"track_ids": "no (a model of v1 or v2)"})
    return to_diagnostics(components, "robot/sparse4d", "cpu", make_header("", 0))


def test_what_the_node_sends_is_read(message):
    sample = health_from_message(message, "/robot/sparse4d")
    assert sample.rate_hz > 0
    assert sample.latencies_ms["processing"] == (20.0, pytest.approx(29.8))
    assert sample.dropped_sets == {"tf_unknown_frame": 1} and sample.dropped_images == {"superseded": 2}
    assert not sample.gives_track_ids
    assert sample.camera("cam_front").verdict == Verdict.OK
    assert sample.camera("cam_back").verdict == Verdict.WARN


def test_diagnostics_of_others_are_not_the_detectors(message):
    assert health_from_message(message, "/sparse4d") is None
    for status in message.status:
        status.name = "battery: voltage"
    assert health_from_message(message, "/robot/sparse4d") is None


def test_names_and_messages_of_others_cannot_write_the_page():
    sample = HealthSample({"inference": Component(Verdict.OK, "<script>alert(1)</script>")})
    page = texts.health(Moment(0.0, health=sample), ("<b>cam",))
    assert "<script>" not in page and "<b>cam" not in page and "&lt;script&gt;" in page
    assert "<i>" not in texts.track(3, "<i>car", np.zeros((1, 5)))


def test_a_silent_camera_is_red_although_the_node_has_not_noticed():
    sample = HealthSample({"camera front": Component(Verdict.OK, "10 images per second")})
    moment = Moment(9.0, None, {}, {"front": 7.0}, sample)
    assert texts.COLORS[Verdict.ERROR] in texts.health(moment, ("front",))
    assert "no image for 7 s" in texts.health(moment, ("front",))


def test_last_words_of_a_silent_node_do_not_count():
    told = {"inference": Component(Verdict.OK, "10.0 sets per second"), "camera front": Component(Verdict.WARN, "slow")}
    moment = Moment(9.0, None, {}, {"front": 0.1}, HealthSample(told))
    assert "10.0 sets per second" in texts.health(moment, ("front",)) and "slow" in texts.health(moment, ("front",))
    page = texts.health(replace(moment, silent_for=7.2), ("front",))
    assert "no diagnostics for 7 s" in page and texts.COLORS[Verdict.STALE] in page
    assert "sets per second" not in page and "slow" not in page and "images come" in page


def test_the_line_at_the_top():
    moment = Moment(1.0, objects(1.0, (4, "car", 0.9, (1, 1)), (5, "car", 0.1, (1, 1))))
    assert {"LIVE", "10.0 sets/s"} <= set(re.findall(r"LIVE|[\d.]+ sets/s", texts.status(moment, False, 0.0, 1, 9.96)))
    assert "1 of 2 objects" in texts.status(moment, False, 0.0, 1, None)
    assert "PAUSED, 3.5 s back" in texts.status(moment, True, 3.5, 1, None)
