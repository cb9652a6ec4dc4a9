"""The thread that runs the model: its priority, and what becomes of its errors."""

from __future__ import annotations

import os
import threading

import pytest

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
