"""The threads that sets go through: that they overlap, their priority, and what becomes of their errors."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
import rclpy
from node_driver import Driver
from patience import PATIENCE
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rig_messages import compressed, image_stamps, set_stamp

from sparse4d_ros.assembly import load_pipeline
from sparse4d_ros.online import lookahead, worker
from sparse4d_ros.online.health import Level
from sparse4d_ros.online.outputs import Outputs

pytestmark = pytest.mark.ros


def held(monkeypatch, owner, name: str, wait) -> None:
    """Lets a stage wait each time before it does its work."""
    stage = getattr(owner, name)

    def call(*arguments):
        wait()
        return stage(*arguments)

    monkeypatch.setattr(owner, name, call)


def test_three_neighbouring_sets_are_in_work_at_once(driver, monkeypatch):
    """Each of the three stages goes on only when the two others are at work as well."""
    assert driver.run(0) == "ok"
    meeting, met = threading.Barrier(3), threading.Event()

    def meet() -> None:
        if not met.is_set():
            meeting.wait(PATIENCE)
            met.set()

    held(monkeypatch, driver.node.outputs, "publish", meet)
    driver.feed(1)
    driver.until(lambda: meeting.n_waiting == 1)
    held(monkeypatch, driver.node.processor, "run", meet)
    driver.feed(2)
    driver.until(lambda: meeting.n_waiting == 2)
    held(monkeypatch, driver.node.processor, "prepare", meet)
    driver.feed(3)
    driver.wait(4)
    assert met.is_set() and driver.statistics.processed == 4 and not driver.drops


def test_without_looking_ahead_a_set_is_begun_when_the_one_before_is_published(make_driver, monkeypatch):
    driver = make_driver(look_ahead="never").start()
    publishing, free, prepared = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        publishing.set()
        assert free.wait(PATIENCE)

    held(monkeypatch, driver.node.outputs, "publish", hold)
    driver.feed(0)
    assert publishing.wait(PATIENCE)
    held(monkeypatch, driver.node.processor, "prepare", prepared.set)
    driver.feed(1)
    assert not prepared.wait(0.3), "it would hold up the publishing"
    free.set()
    driver.wait(2)
    assert prepared.is_set() and driver.statistics.processed == 2


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_step_on_a_gpu_leaves_the_processors_to_decoding_though_its_device_is_the_cpu(
    make_driver, monkeypatch, on_gpu
):
    """An engine of TensorRT, say, on a machine whose processors torch would all take."""
    monkeypatch.setattr(lookahead, "spare_processors", lambda threads: 0)
    driver = make_driver(look_ahead="auto")
    assert driver.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    driver.node.processor.pipeline.artefact = SimpleNamespace(runs_on="tensorrt", on_gpu=on_gpu)
    driver.activate(infos=False)
    assert driver.node._worker._ahead == on_gpu


def test_unused_memory_is_released_now_and_then_once_a_set_is_published(make_driver, monkeypatch):
    released = []
    monkeypatch.setattr(worker, "release_unused_memory", lambda: released.append(driver.statistics.processed))
    driver = make_driver(look_ahead="never").start()
    assert driver.run(0) == "ok" and driver.run(1) == "ok" and released == []
    monkeypatch.setattr(worker, "RELEASE_SECONDS", 0.0)
    driver.feed(2)
    driver.until(lambda: released)
    assert released == [3]


def test_a_set_that_is_being_prepared_waits_for_the_network_and_keeps_its_order(driver):
    watched = driver.occupied()
    assert len(watched.frames) == 2 and driver.statistics.processed == 1
    watched.free.set()
    driver.wait(3)
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(k) for k in range(3)] and not driver.drops


def test_sets_that_may_wait_all_reach_the_network(make_driver):
    driver = make_driver(look_ahead="never", waiting_sets=4).start()
    watched = driver.busy()
    for k in range(2, 5):
        driver.feed(k)
    watched.free.set()
    driver.wait(5)
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(k) for k in range(5)] and not driver.drops


def test_a_prepared_set_that_may_wait_makes_way_for_nobody(make_driver):
    driver = make_driver(look_ahead="always", waiting_sets=4).start()
    watched = driver.occupied()
    driver.feed(3)
    assert driver.node._worker._lookahead.seconds_left() is None, "the next is prepared once this one is taken"
    watched.free.set()
    driver.wait(4)
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(k) for k in range(4)] and not driver.drops


def test_a_set_that_fails_while_the_network_is_at_work_costs_itself_alone(driver):
    watched = driver.busy()
    driver.feed(2, {"cam_back": compressed("cam_back", image_stamps(2)["cam_back"], data=b"no JPEG")})
    driver.until(lambda: driver.drops)
    driver.feed(3)
    watched.free.set()
    driver.wait(4)
    assert driver.drops == {"encoding": 1} and driver.statistics.processed == 3


def test_the_worker_stops_with_the_set_that_the_network_has(driver):
    """The one behind it is given up, and counted."""
    watched = driver.occupied()
    stopping = threading.Thread(target=driver.node.trigger_deactivate)
    stopping.start()
    driver.until(lambda: driver.drops)
    watched.free.set()
    stopping.join(PATIENCE)
    assert not stopping.is_alive() and driver.statistics.snapshot().busy_since is None
    assert driver.drops == {"stopped": 1} and driver.statistics.processed == 2


def test_a_slow_overlay_holds_up_nobody_and_the_newest_set_is_next(make_driver, monkeypatch):
    drawn, free = [], threading.Event()

    def draw(outputs, processed) -> float:
        drawn.append(processed.frame.stamp_ns)
        assert free.wait(PATIENCE)
        return 1.0

    monkeypatch.setattr(Outputs, "publish_overlay", draw)
    driver = make_driver().start()
    assert driver.run(0) == "ok"
    driver.until(lambda: drawn)
    assert driver.run(1) == driver.run(2) == driver.run(3) == "ok"
    free.set()
    driver.until(lambda: len(drawn) == 2)
    assert drawn == [set_stamp(0), set_stamp(3)] and not driver.drops


def test_an_overlay_that_fails_costs_no_set(make_driver, monkeypatch, capfd):
    monkeypatch.setattr(Outputs, "publish_overlay", fail)
    driver, log = make_driver(max_internal_errors=1).start(), ""
    assert driver.run(0) == driver.run(1) == "ok"
    while "no overlay for a set, internal error" not in log:
        log += capfd.readouterr().err
    assert "ZeroDivisionError: out of the blue" in log and not driver.drops


THREADS = ("prepare", "network", "publish", "overlay")


def niceness_of_the_worker(make_driver, monkeypatch, start_at: int, **parameters) -> dict[str, int]:
    """Of each of its threads as it sets to work, in a node that a thread of this niceness starts, as `nice` would.

    No set is run: on a busy machine threads of niceness 19 may not come to it for minutes.
    """
    found = {}

    def note(_: int) -> None:
        found[threading.current_thread().name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), start_at)
        driver = make_driver(**parameters).start()
        driver.until(lambda: len(found) == len(THREADS))

    monkeypatch.setattr("sparse4d_ros.online.worker.limit_threads", note)  # what each thread calls last before its work
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


@pytest.mark.parametrize(("increment", "expected"), [(0, 5), (3, 8), (19, 19)])
def test_the_increment_is_added_to_the_niceness_that_the_process_was_started_with(
    make_driver, monkeypatch, increment, expected
):
    start_at = max(5, os.getpriority(os.PRIO_PROCESS, 0))
    found = niceness_of_the_worker(make_driver, monkeypatch, start_at, worker_nice_increment=increment)
    assert found == dict.fromkeys(THREADS, min(expected + start_at - 5, 19))


def test_threads_that_loading_starts_are_nice_too(make_driver, monkeypatch):
    """As onnxruntime does, whose threads are to run the model; the executor's thread stays as it is."""
    free = threading.Event()
    thread = threading.Thread(target=free.wait, args=(PATIENCE,))

    def load(*arguments):
        thread.start()
        return load_pipeline(*arguments)

    monkeypatch.setattr("sparse4d_ros.node.load_pipeline", load)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    driver = make_driver(worker_nice_increment=3)
    assert driver.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    niceness = [os.getpriority(os.PRIO_PROCESS, number) for number in (thread.native_id, 0)]
    free.set()
    thread.join()
    assert niceness == [min(before + 3, 19), before]


def test_a_priority_that_is_refused_is_logged_and_the_worker_goes_on(make_driver, monkeypatch, capfd):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("sparse4d_ros.online.niceness.os.setpriority", refuse)
    driver = make_driver(worker_nice_increment=5).start()
    assert driver.run(0) == "ok"
    assert "worker_nice_increment: 5 had no effect: Permission denied" in capfd.readouterr().err


def fail(*_):
    raise ZeroDivisionError("out of the blue")


def break_publishing(driver: Driver, monkeypatch) -> None:
    monkeypatch.setattr(driver.node.outputs, "publish", fail)


STAGES = {
    "prepare": lambda node: (node.processor.pipeline, "prepare"),
    "network": lambda node: (node.processor.pipeline, "run"),
    "publish": lambda node: (node.outputs, "publish"),
}


def test_the_row_of_internal_errors_ends_with_a_good_set(make_driver, monkeypatch):
    driver = make_driver(max_internal_errors=3).start()
    for k in (0, 3, 6):
        with monkeypatch.context() as patch:
            break_publishing(driver, patch)
            assert driver.run(k) == driver.run(k + 1) == "internal_error"
        assert driver.run(k + 2) == "ok"


@pytest.mark.parametrize("stage", STAGES)
def test_after_too_many_internal_errors_the_node_deactivates_and_says_so(make_driver, monkeypatch, capfd, stage):
    driver = make_driver(max_internal_errors=3).start()
    executor = SingleThreadedExecutor(context=driver.node.context)
    executor.add_node(driver.node)
    with monkeypatch.context() as patch:
        patch.setattr(*STAGES[stage](driver.node), fail)
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
    spinning.join(PATIENCE)
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
