"""What the plots show."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")

from sparse4d_ros.live_view.browser.charts import RATE_SECONDS, drop_lines, latency_lines, rates
from sparse4d_ros.live_view.health_sample import Component, HealthSample, Verdict


def sample(**values: str) -> HealthSample:
    return HealthSample({"inference": Component(Verdict.OK, "", values)})


def test_the_rate_of_even_sets_is_theirs_and_a_pause_is_seen():
    times = np.concatenate([np.arange(0, 5, 0.1), np.arange(8, 12, 0.2)])
    rate = rates(times)
    assert rate[0] == 0
    np.testing.assert_allclose(rate[10:50], 10.0)
    assert rate[50] == 0, "the first after a pause"
    np.testing.assert_allclose(rate[times > 8 + RATE_SECONDS], 5.0)
    assert len(rates(np.zeros(0))) == 0 and np.isfinite(rates(np.zeros(5))).all()


def test_latencies_are_those_of_the_slowest_stages_and_stamps_of_another_day_are_none():
    early = sample(decode_p50="3.0", decode_p99="4.0")
    both = sample(decode_p50="5.0", decode_p99="9.0", model_p50="80", model_p99="90", age_p50="9e12", age_p99="9e12")
    times, lines = latency_lines([(-2.0, early), (-1.0, both), (0.0, both)])
    assert list(lines) == ["model", "decode"] and times.tolist() == [-1.0, 0.0]
    assert lines["decode"].tolist() == [5.0, 5.0]
    assert list(latency_lines([(0.0, both)], most=1)[1]) == ["model"]
    assert latency_lines([])[1] == {}


def test_drops_by_cause():
    images = Component(Verdict.OK, "", {"images_dropped.late": "4"})
    later = HealthSample({"inference": Component(Verdict.OK, "", {"sets_dropped.tf": "2"}), "synchronization": images})
    _, lines = drop_lines([(-1.0, sample()), (0.0, later)])
    assert {name: line.tolist() for name, line in lines.items()} == {"images late": [0, 4], "sets tf": [0, 2]}
