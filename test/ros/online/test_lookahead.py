"""When the next set is prepared, and which one the network gets: by a clock of our own, without threads."""

from __future__ import annotations

import pytest
from hand_clock import Time

from sparse4d_ros.online import lookahead as module
from sparse4d_ros.online.lookahead import REMEMBERED, Lookahead, looks_ahead


@pytest.fixture
def time() -> Time:
    return Time(100.0)


@pytest.fixture
def lookahead(time) -> Lookahead[str]:
    return Lookahead(clock=time)


def run(lookahead: Lookahead[str], time: Time, preparing: float, network: float) -> None:
    """One set through an idle network, which has another one afterwards."""
    lookahead.put("one", preparing)
    assert lookahead.take() == "one"
    time.now += network
    lookahead.put("next", preparing)
    assert lookahead.take() == "next"


def test_an_idle_network_gets_its_set_at_once(lookahead):
    assert lookahead.seconds_left() == 0 and lookahead.wait_until_due()


def test_nothing_is_prepared_ahead_before_anybody_knows_how_long_the_network_takes(lookahead, time):
    """The first set may take a minute; the one behind it would be that old."""
    lookahead.put("first", 0.025)
    assert lookahead.take() == "first"
    time.now += 60.0
    assert lookahead.seconds_left() is None


def test_the_next_set_is_begun_so_that_it_is_ready_when_the_network_is(lookahead, time):
    run(lookahead, time, preparing=0.025, network=0.9)
    assert lookahead.seconds_left() == pytest.approx(0.9 - 0.025)
    time.now += 0.875
    assert lookahead.seconds_left() == pytest.approx(0) or lookahead.wait_until_due()


def test_a_network_faster_than_the_preparation_never_holds_it_up(lookahead, time):
    run(lookahead, time, preparing=0.060, network=0.030)
    assert lookahead.seconds_left() < 0 and lookahead.wait_until_due()


def test_of_times_that_change_the_shortest_in_the_network_and_the_longest_preparation_count(lookahead, time):
    """Rather a little too early than an idle network; what is long ago does not count."""
    for preparing, network in [(9.0, 0.1)] + [(0.02, 0.5), (0.03, 0.4)] * REMEMBERED:
        lookahead.put("set", preparing)
        lookahead.take()
        time.now += network
    lookahead.put("set", 0.02)
    lookahead.take()
    assert lookahead.seconds_left() == pytest.approx(0.4 - 0.03)


def test_a_set_that_waits_makes_way_once_another_could_have_been_prepared(lookahead, time):
    run(lookahead, time, preparing=0.025, network=0.9)
    time.now += 0.875
    assert lookahead.put("waits", 0.025) is None
    assert lookahead.waiting == "waits" and lookahead.seconds_left() == pytest.approx(0.025)
    time.now += 0.03
    assert lookahead.wait_until_due()
    assert lookahead.put("newer", 0.025) == "waits"
    assert lookahead.take() == "newer" and lookahead.waiting is None


def test_where_the_network_needs_all_processors_sets_are_begun_while_it_is_idle(time):
    lookahead = Lookahead(ahead=False, clock=time)
    assert lookahead.wait_until_due()
    lookahead.put("one", 0.025)
    assert lookahead.seconds_left() is None
    for following in ("two", "three"):
        lookahead.take()
        time.now += 0.9
        assert lookahead.seconds_left() is None
        lookahead.put(following, 0.025)


def test_a_set_that_may_wait_makes_way_for_nobody(time):
    lookahead = Lookahead(replace=False, clock=time)
    run(lookahead, time, preparing=0.025, network=0.9)
    time.now += 0.875
    assert lookahead.wait_until_due()
    lookahead.put("waits", 0.025)
    time.now += 60.0
    assert lookahead.seconds_left() is None
    assert lookahead.take() == "waits" and lookahead.seconds_left() is not None


@pytest.mark.parametrize(
    ("choice", "on_gpu", "torch_threads", "decode_threads", "expected"),
    [
        ("auto", True, 0, 2, True),
        ("auto", False, 4, 2, False),
        ("auto", False, 3, 2, False),
        ("auto", False, 2, 2, True),
        ("always", False, 4, 2, True),
        ("never", True, 1, 1, False),
    ],
)
def test_sets_are_prepared_beside_a_network_that_leaves_processors_idle(
    monkeypatch, choice, on_gpu, torch_threads, decode_threads, expected
):
    monkeypatch.setattr(module, "spare_processors", lambda threads: 4 - threads)
    assert looks_ahead(choice, on_gpu, torch_threads, decode_threads) is expected


def test_after_the_end_nothing_waits_and_nothing_is_lost(lookahead):
    lookahead.put("waits", 0.025)
    assert lookahead.close() == "waits" and lookahead.close() is None
    assert lookahead.put("too late", 0.025) == "too late"
    assert lookahead.take() is None and not lookahead.wait_until_due()
