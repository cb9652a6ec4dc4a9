"""Configuring the node: what is wrong is named, and the node lives on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import rclpy
import torch
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from ops.pretended_machine import Machine
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from cuda_ops import library
from sparse4d_core.config import preset
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_ros import node

pytestmark = pytest.mark.ros


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Without the compiled operator, and with a C++ compiler that pretends."""
    yield Machine(tmp_path, monkeypatch)
    library.forget_library()  # what was found there


def configure(driver) -> list[tuple[str, str]]:
    """Configures the node; name and message of every status that it publishes on the way, before its executor runs."""
    published = []
    driver.node._diagnostics.publish = published.append
    assert driver.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    return [(status.name, status.message) for message in published for status in message.status]


def test_a_missing_operator_is_built_and_told_on_the_way(make_driver, machine, capfd):
    statuses = configure(make_driver())
    assert {name for name, _ in statuses} == {"sparse4d: operator"}
    assert any(message.endswith("(5 of 5)") for _, message in statuses)
    assert library.find_library() is not None
    log = capfd.readouterr().err
    assert all(f"operator: {message}" in log for _, message in statuses)


def test_without_a_compiler_the_node_runs_and_says_what_it_lacks(make_driver, machine):
    (machine.bin / "c++").unlink()
    driver = make_driver()
    assert configure(driver)[-1][1].startswith("the kernels cannot be built, the slower PyTorch path is taken: no C++")
    driver.node.trigger_cleanup()
    driver.start()
    assert driver.run(0) == "ok"


def test_the_operator_is_not_built_where_that_is_not_wanted(make_driver, machine):
    assert configure(make_driver(build_operator=False)) == [] and not machine.calls("c++")


@pytest.mark.parametrize(("backend", "built"), [("aoti", True), ("onnxruntime", False), ("tensorrt", False)])
def test_the_operator_is_not_built_for_a_step_that_does_not_call_it(make_driver, machine, tmp_path, backend, built):
    """There is no step in the folder: what comes after the operator does not matter."""
    driver = make_driver(backend=backend, artefact=str(tmp_path))
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert bool(machine.calls("c++")) == built


def test_an_exported_step_has_no_status_of_the_operator(make_driver, machine):
    """A missing one would be a warning for ever, of a PyTorch path that nothing takes."""
    driver = make_driver(build_operator=False).start()
    assert [component.name for component in driver.node.health()][-1] == "operator"
    driver.node.processor.pipeline.artefact = SimpleNamespace(runs_on="tensorrt")
    assert "operator" not in [component.name for component in driver.node.health()]


def checkpoint_of_another_model(folder):
    path = folder / "other.pt"
    torch.save(Sparse4D(replace(preset("demo"), num_anchors=64)).state_dict(), path)
    return path


def truncated_checkpoint(folder):
    path = checkpoint_of_another_model(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    "checkpoint",
    [lambda folder: folder / "missing.pt", truncated_checkpoint, checkpoint_of_another_model],
    ids=["missing", "truncated", "other_model"],
)
def test_a_checkpoint_that_does_not_fit_leaves_the_node_unconfigured(make_driver, tmp_path, capfd, checkpoint):
    path = checkpoint(tmp_path)
    driver = make_driver(checkpoint=str(path))
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert driver.node._state_machine.current_state[1] == "unconfigured"
    assert "configure failed" in (log := capfd.readouterr().err) and path.name in log
    driver.node.set_parameters([Parameter("checkpoint", value="")])
    driver.start()
    assert driver.run(0) == "ok"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rig": "/no/such/file.yaml"}, "rig: cannot read /no/such/file.yaml"),
        ({"sync_slop": 0.5}, "sync_timeout: expected at least sync_slop"),
        ({"device": "cuda:99"}, "configure failed: device: cuda:99 cannot be used: "),
    ],
)
def test_configure_says_what_is_wrong(make_driver, capfd, parameters, message):
    driver = make_driver(**parameters)
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("device", "tpu", "device: expected cpu, cuda or cuda:N, got 'tpu'"),
        ("model", "v9", "model: expected one of v1_r101_t1"),
        ("score_threshold", "high", "expecting type 'DOUBLE'"),
        ("decode_threads", 0, "out of range"),
    ],
)
def test_a_parameter_that_can_not_be_is_refused_with_the_reason(make_driver, name, value, reason):
    with pytest.raises((InvalidParameterTypeException, InvalidParameterValueException), match=reason):
        make_driver(**{name: value})


def test_parameters_of_configure_are_refused_while_configured(driver):
    (result,) = driver.node.set_parameters([Parameter("sync_slop", value=0.05)])
    assert not result.successful and "clean up the node first" in result.reason
    (result,) = driver.node.set_parameters([Parameter("score_threshold", value=0.5)])
    assert result.successful


def test_the_node_can_be_stopped_cleaned_up_and_started_again(driver):
    node = driver.node
    assert driver.run(0) == "ok"
    for transition in (node.trigger_deactivate, node.trigger_activate, node.trigger_deactivate, node.trigger_cleanup):
        assert transition() == TransitionCallbackReturn.SUCCESS
    assert not node._on_reset(Trigger.Request(), Trigger.Response()).success
    driver.start()
    assert driver.run(5) == "ok"


@pytest.fixture
def program(monkeypatch, ros_domain):
    """The program's main(), without what it does to the whole process; signal handlers are put back."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_domain))
    for name in ("keep_freed_memory", "sys.setswitchinterval"):
        monkeypatch.setattr(f"sparse4d_ros.node.{name}", lambda *_: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield node.main
    for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def asked_to_configure(domain: int) -> Iterator[None]:
    """By a node elsewhere, again and again."""
    context, done = rclpy.Context(), threading.Event()
    rclpy.init(context=context, domain_id=domain)
    other = rclpy.create_node("other", context=context)
    client = other.create_client(ChangeState, "/sparse4d/change_state")
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))

    def ask() -> None:
        while not done.wait(0.2):
            if client.service_is_ready():
                client.call_async(request)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    done.set()
    thread.join()
    other.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asked", [False, True], ids=["autostart", "service"])
def test_a_signal_ends_the_loading_of_a_model_at_once(monkeypatch, program, ros_domain, number, asked):
    loaded = []

    def load(*_):
        signal.raise_signal(number)
        loaded.append(True)

    monkeypatch.setattr(node, "load_pipeline", load)
    with asked_to_configure(ros_domain) if asked else contextlib.nullcontext():
        assert program(["--ros-args", "-p", "model:=demo", "-p", f"autostart:={not asked}"]) == 0
    assert not loaded


def test_an_error_out_of_the_executor_is_no_end_of_the_program(monkeypatch, program):
    def spin_once(executor, timeout_sec):
        raise RuntimeError("out of rclpy")

    monkeypatch.setattr(node.SingleThreadedExecutor, "spin_once", spin_once)
    with pytest.raises(RuntimeError, match="out of rclpy"):
        program([])
