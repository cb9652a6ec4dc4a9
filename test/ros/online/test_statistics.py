"""Counters and measurements by a clock of our own."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest
from hand_clock import Time

from sparse4d_ros.online.statistics import RATE_SECONDS, WINDOW, Statistics


@pytest.fixture
def time() -> Time:
    return Time(100.0)


@pytest.fixture
def statistics(time) -> Statistics:
    return Statistics(clock=time)


def test_the_rate_is_that_of_the_last_seconds(statistics, time):
    for _ in range(100):
        time.now += 0.1
        statistics.count_processed({})
    assert statistics.snapshot().rate_hz == pytest.approx(10, rel=0.05)
    for _ in range(20):
        time.now += 0.5
        statistics.count_processed({})
    assert statistics.snapshot().rate_hz == pytest.approx(2, rel=0.15)
    time.now += RATE_SECONDS + 0.1
    assert statistics.snapshot().rate_hz == 0
    assert statistics.snapshot().processed == 120


def test_the_set_in_work_is_over_with_its_outcome(statistics, time):
    assert statistics.snapshot().busy_since is None
    processed = partial(statistics.count_processed, {"decode": 1.0})
    for finish in (processed, partial(statistics.count_drop, "encoding")):
        begun = statistics.begin_set()
        assert statistics.snapshot().busy_since == time.now
        finish(begun)
        assert statistics.snapshot().busy_since is None
    assert statistics.snapshot().dropped == {"encoding": 1}


def test_of_sets_that_overlap_the_oldest_counts(statistics, time):
    """The second one ends first."""
    first, time.now = statistics.begin_set(), 101.0
    second = statistics.begin_set()
    assert statistics.snapshot().busy_since == first == 100.0
    statistics.count_drop("encoding", second)
    assert statistics.snapshot().busy_since == first
    statistics.count_processed({}, first)
    assert statistics.snapshot().busy_since is None


def test_percentiles_are_of_the_newest_measurements(statistics):
    for value in range(WINDOW * 2):
        statistics.measure("decode", float(value))
    median, p99 = statistics.snapshot().percentiles["decode"]
    assert WINDOW < median < p99 < 2 * WINDOW
    everything = Statistics(window=None)
    for value in range(WINDOW * 2):
        everything.measure("decode", float(value))
    assert len(everything.measured("decode")) == WINDOW * 2 and len(statistics.measured("decode")) == WINDOW


def test_a_snapshot_without_percentiles_has_everything_else(statistics):
    statistics.count_processed({"decode": 1.0})
    whole, without = statistics.snapshot(), statistics.snapshot(percentiles=False)
    assert whole.percentiles and without == replace(whole, percentiles={})


def test_reasons_that_differ_in_their_numbers_alone_are_one(statistics):
    for reason in (
        "time gap of 3.100 s is above the limit of 2 s",
        "time gap of 2.700 s is above the limit of 2 s",
        "time went back by 0.300 s",
        "the network's output was not finite",
    ):
        statistics.count_reset(reason)
    assert statistics.resets == {"time gap": 2, "time went back": 1, "the network's output was not finite": 1}


def test_a_snapshot_stays_as_it_is_and_can_be_taken_while_others_count(statistics):
    """A thousand new causes beside a thousand snapshots: none is changed, none is refused."""
    first = statistics.snapshot()

    def count() -> None:
        for k in range(1000):
            statistics.count_drop(f"cause {k}")
            statistics.count_rejected(f"cause {k}")

    counting = threading.Thread(target=count)
    counting.start()
    sizes = [len(statistics.snapshot().dropped) for _ in range(1000)]
    counting.join()
    assert first.dropped == {} and sizes == sorted(sizes)
    assert len(statistics.snapshot().dropped) == 1000
