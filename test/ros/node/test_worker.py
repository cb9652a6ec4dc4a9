"""The thread that runs the model: its priority, and what becomes of its errors."""

from __future__ import annotations

import os
import threading

import pytest
import rclpy
from node_driver import Driver
from rclpy.executors import SingleThreadedExecutor

from sparse4d_ros.online.health import Level

pytestmark = pytest.mark.ros


def niceness_of_the_worker(make_driver, start_at: int, **parameters) -> int:
    """Of a node that is started by a thread of this niceness, as `nice` or systemd would start it."""
    found = []

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), start_at)
        driver = make_driver(**parameters).start()
        assert driver.run(0) == "ok"
        (worker,) = (thread for thread in threading.enumerate() if thread.name == "worker")
        found.append(os.getpriority(os.PRIO_PROCESS, worker.native_id))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(("increment", "expected"), [(0, 5), (3, 8), (19, 19)])
def test_the_increment_is_added_to_the_niceness_that_the_process_was_started_with(make_driver, increment, expected):
    start_at = max(5, os.getpriority(os.PRIO_PROCESS, 0))
    found = niceness_of_the_worker(make_driver, start_at, worker_nice_increment=increment)
    assert found == min(expected + start_at - 5, 19)


def test_a_priority_that_is_refused_is_logged_and_the_worker_goes_on(make_driver, monkeypatch, capfd):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sparse4d_ros.online.worker.os.setpriority", refuse)
    driver = make_driver(worker_nice_increment=5).start()
    assert driver.run(0) == "ok"
    assert "worker_nice_increment: 5 had no effect: Permission denied" in capfd.readouterr().err


def break_publishing(driver: Driver, monkeypatch) -> None:
    def fail(*_):
        raise ZeroDivisionError("out of the blue")

    monkeypatch.setattr(driver.node.outputs, "publish", fail)


def test_the_row_of_internal_errors_ends_with_a_good_set(make_driver, monkeypatch):
    driver = make_driver(max_internal_errors=3).start()
    for k in (0, 3, 6):
        with monkeypatch.context() as patch:
            break_publishing(driver, patch)
            assert driver.run(k) == driver.run(k + 1) == "internal_error"
        assert driver.run(k + 2) == "ok"


def test_after_too_many_internal_errors_the_node_deactivates_and_says_so(make_driver, monkeypatch, capfd):
    driver = make_driver(max_internal_errors=3).start()
    executor = SingleThreadedExecutor(context=driver.node.context)
    executor.add_node(driver.node)
    with monkeypatch.context() as patch:
        break_publishing(driver, patch)
        for k in range(3):
            assert driver.run(k) == "internal_error"
        driver.until(lambda: executor.spin_once(timeout_sec=0.01) or driver.node.synchronizer is None)
    assert driver.node._state_machine.current_state[1] == "inactive"
    assert "deactivate: 3 internal errors in a row, the last: ZeroDivisionError" in capfd.readouterr().err
    inference = driver.node.health()[0]
    assert inference.level == Level.ERROR and "gave up: 3 internal errors in a row" in inference.message
    driver.activate()
    assert driver.run(10) == "ok" and driver.node.health()[0].level == Level.WARN  # untrained
    executor.shutdown()


def test_after_too_many_internal_errors_the_program_ends_with_status_1(make_driver, monkeypatch):
    driver = make_driver(max_internal_errors=1, after_internal_errors="exit").start()
    executor = SingleThreadedExecutor(context=driver.node.context)
    executor.add_node(driver.node)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    break_publishing(driver, monkeypatch)
    assert driver.run(0) == "internal_error"
    spinning.join(30)
    assert not spinning.is_alive() and driver.node.exit_status == 1


def test_a_shutdown_in_the_middle_of_a_set_is_quiet(ros_domain, small_model, capfd):
    """What Ctrl-C does: the context is gone while the model runs."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    driver = Driver(context=context).start()
    watched = driver.watch()
    watched.free.clear()
    driver.feed(0)
    driver.until(lambda: watched.frames)
    capfd.readouterr()
    rclpy.shutdown(context=context)
    watched.free.set()
    driver.wait(1)
    driver.node.close()
    log = capfd.readouterr().err
    assert driver.drops == {"shutdown": 1}
    assert all(word not in log for word in ("Traceback", "internal_error", "context is invalid"))


def test_a_drop_after_the_shutdown_is_counted_and_not_logged(ros_domain, small_model, capfd):
    """A set that waits for its pose until after the shutdown: /rosout is gone by then."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    driver = Driver(context=context, tf_timeout=0.3).start()
    driver.feed(0, poses=False)
    driver.until(lambda: driver.statistics.snapshot().busy_since is not None)
    capfd.readouterr()
    rclpy.shutdown(context=context)
    driver.wait(1)
    driver.node.close()
    assert driver.drops == {"tf_unknown_frame": 1}
    assert "set dropped" not in capfd.readouterr().err
