"""Arrival times: steady, whatever ROS time does."""

from __future__ import annotations

from sparse4d_ros.online.arrival_clock import ArrivalClock

EPOCH = 1_700_000_000 * 10**9
MS = 10**6


class Times:
    """ROS time and a steady clock, moved by hand."""

    def __init__(self, ros_ns: int):
        self.ros_ns, self.seconds = ros_ns, 5000.0  # since the machine was booted

    def clock(self) -> ArrivalClock:
        return ArrivalClock(lambda: self.ros_ns, lambda: self.seconds)


def test_it_begins_at_ros_time_and_goes_on_steadily_when_that_is_set():
    times = Times(EPOCH)
    clock = times.clock()
    assert clock.now_ns() == EPOCH
    times.ros_ns += 37 * 10**9  # a time server comes back
    times.seconds += 0.25
    assert clock.now_ns() == EPOCH + 250 * MS
    times.ros_ns = 0
    times.seconds += 0.25
    assert clock.now_ns() == EPOCH + 500 * MS


def test_simulated_time_is_waited_for_and_its_pauses_and_steps_do_not_count():
    times = Times(0)
    clock = times.clock()
    before = clock.now_ns()
    times.seconds += 1.0
    assert clock.now_ns() == before + 10**9, "steady also before /clock comes"
    times.ros_ns = EPOCH
    assert clock.now_ns() == EPOCH
    times.seconds += 2.0  # the simulation stands still
    assert clock.now_ns() == EPOCH + 2 * 10**9


def test_simulated_time_that_began_after_the_machine_did_sets_back_no_clock_that_was_read():
    """Whoever read it would wait until it has come to that time again: for images, or for their silence."""
    times = Times(12 * 10**9)
    assert times.clock().now_ns() == 12 * 10**9, "nobody has read it"
    times = Times(0)
    clock = times.clock()
    before = clock.now_ns()
    times.seconds += 1.0
    times.ros_ns = 12 * 10**9
    assert clock.now_ns() == before + 10**9
    times.seconds += 1.0
    assert clock.now_ns() == before + 2 * 10**9
