"""When the node forgets, and when not: no id from before a reset is ever seen again."""

from __future__ import annotations

import pytest
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


def test_a_jump_of_time_is_told_once_and_not_again_at_the_next_activation(driver):
    driver.watch()
    for k in (10, 11, 0, 1):
        assert driver.run(k) == "ok"
    assert driver.statistics.resets["time jumped back"] == 1
    driver.node.trigger_deactivate()
    driver.activate()
    assert driver.run(2) == driver.run(3) == "ok"
    assert driver.statistics.resets["time jumped back"] == 1
    assert driver.run(10) == driver.run(0) == "ok"
    assert driver.statistics.resets["time jumped back"] == 2


class Heard:
    """In the place of a publisher: somebody listens."""

    def __init__(self):
        self.messages = []
        self.publish = self.messages.append

    def get_subscription_count(self) -> int:
        return 1


def published_ids(driver, k: int) -> list[int]:
    """Of the detections of one more set."""
    heard = Heard()
    driver.node.outputs._publishers["detections"] = heard
    assert driver.run(k) == "ok"
    return [int(detection.id) for detection in heard.messages[0].detections]


def test_no_id_comes_again_after_a_cleanup_or_a_restart_of_the_node(make_driver):
    driver = make_driver().start()
    before = published_ids(driver, 0)
    restarted = make_driver().start()
    driver.node.trigger_deactivate()
    driver.node.trigger_cleanup()
    driver.start()
    assert before and max(before) < min(published_ids(restarted, 0)) and max(before) < min(published_ids(driver, 0))


def test_ids_count_from_where_they_are_told_to(make_driver):
    for first in (0, 2**40):
        assert all(first <= number < first + 32 for number in published_ids(make_driver(first_id=first).start(), 0))


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
    watched = driver.occupied()
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
