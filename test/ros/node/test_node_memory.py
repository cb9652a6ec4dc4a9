"""When the node forgets, and when not: no id from before a reset is ever seen again."""

from __future__ import annotations

import pytest
from rig_messages import set_stamp
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros


def forgot(before: list[set[int]], after: list[set[int]]) -> bool:
    """Whether the results of one side share no id with those of the other; within a side, neighbours do."""
    for side in (before, after):
        assert all(first & second for first, second in zip(side, side[1:], strict=False)), "or nothing is remembered"
    return not set().union(*before) & set().union(*after)


def test_a_bag_that_starts_again_clears_the_memory_and_says_so(driver, capfd):
    watched = driver.watch()
    for k in range(12):
        assert driver.run(k) == "ok"
    assert not driver.statistics.resets
    for k in range(3):
        assert driver.run(k) == "ok"
    assert driver.statistics.resets == {"time jumped back": 1, "transforms jumped back in time": 1}
    assert forgot(watched.ids[:12], watched.ids[12:])
    assert "memory cleared: time jumped back" in capfd.readouterr().err


def test_a_gap_longer_than_the_limit_of_the_model_clears_the_memory_and_says_so(driver, capfd):
    watched = driver.watch()
    for k in (0, 1, 40, 41):
        assert driver.run(k) == "ok"
    assert driver.statistics.resets == {"time gap": 1}
    assert forgot(watched.ids[:2], watched.ids[2:])
    assert "memory cleared: time gap of 3.900 s is above the limit of 2 s" in capfd.readouterr().err


def test_nan_in_the_output_of_the_network_is_counted_and_the_memory_cleared(driver):
    watched = driver.watch()
    assert driver.run(0) == "ok"
    network = watched.model
    parameters = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    assert driver.run(1) == "non_finite_output"
    network.load_state_dict(parameters)
    assert driver.run(2) == "ok"
    assert driver.statistics.resets == {"the network's output was not finite": 1}
    assert forgot(watched.ids[:1], watched.ids[1:])


def test_reset_forgets_the_instances(driver):
    watched = driver.watch()
    assert driver.run(0) == driver.run(1) == "ok"
    assert driver.node._on_reset(Trigger.Request(), Trigger.Response()).success
    assert driver.run(2) == driver.run(3) == "ok"
    assert driver.statistics.resets == {"asked for": 1}
    assert forgot(watched.ids[:2], watched.ids[2:])


def test_a_reset_holds_for_a_set_that_was_prepared_before_it(driver):
    """The network has one set and the next one waits for it: that is the first one after the reset."""
    watched = driver.watch()
    assert driver.run(0) == "ok"
    watched.free.clear()
    driver.feed(1)
    driver.until(lambda: len(watched.frames) == 2)
    driver.feed(2)
    driver.until(lambda: driver.waiting_stamp_ns == set_stamp(2))
    assert driver.node._on_reset(Trigger.Request(), Trigger.Response()).success
    watched.free.set()
    driver.wait(3)
    assert driver.run(3) == "ok"
    assert driver.statistics.resets == {"asked for": 1}
    assert forgot(watched.ids[:2], watched.ids[2:])


def test_a_reset_is_told_although_the_first_set_after_it_is_lost(driver):
    watched = driver.watch()
    assert driver.run(0) == "ok"
    assert driver.node._on_reset(Trigger.Request(), Trigger.Response()).success
    assert driver.run(1, poses=False) == "tf_extrapolation_future"
    assert driver.run(2) == "ok"
    assert driver.statistics.resets == {"asked for": 1}
    assert forgot(watched.ids[:1], watched.ids[1:])
