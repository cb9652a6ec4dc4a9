"""What the plots show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")

from sparse4d_ros.live_view.browser import web_server
from sparse4d_ros.live_view.browser.charts import RATE_SECONDS, Chart, drop_lines, latency_lines, rates
from sparse4d_ros.live_view.health_sample import Component, HealthSample, Verdict
from sparse4d_ros.live_view.scene import Scene


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


def test_a_new_object_or_none_takes_the_place_of_the_one_before():
    handle = SimpleNamespace()
    chart = Chart(SimpleNamespace(add_uplot=lambda data, series, **_: handle), "distance m")
    chart.draw(np.array([-1.0, 0.0]), {"distance": np.array([30.0, 31.0])})
    for times, values in (([0.0], [7.0]), ([], [])):
        chart.draw(np.array(times), {"distance": np.array(values)})
        assert [each.tolist() for each in handle.data] == [times, values]
    chart.draw(np.array([-1.0, 0.0]), {})
    assert [len(each) for each in handle.data] == [0, 0] and len(handle.series) == 2


def test_the_page_of_a_browser_that_left_while_it_was_made_is_closed(monkeypatch):
    """Its departure was told before there was a page."""
    closed = []
    monkeypatch.setattr(web_server, "Page", lambda client, scene: SimpleNamespace(close=lambda: closed.append(client)))
    with web_server.WebServer(Scene(()), "127.0.0.1", 0) as server:
        client = SimpleNamespace(client_id=7)
        server._on_disconnect(client)
        server._on_connect(client)
        assert server.pages == () and closed == [client]
