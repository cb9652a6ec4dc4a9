"""Parameters on a command line: what a node gets is what was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy")
from sparse4d_ros.campaign import soak  # noqa: E402
from sparse4d_ros.ros_arguments import Yaml, parameter_words, split_ros_arguments  # noqa: E402

pytestmark = pytest.mark.ros

TEXTS = (
    "/data/run/x.pth",
    "/data/run #2/x.pth",
    "/data/a: b/x.pth",
    "2024",
    "1e3",
    "on",
    "~",
    "",
    "[1",
    "it's",
    'a "quoted" \\ word',
    "\u00e4 \u2603 \U0001f600",
)


@pytest.fixture(scope="module")
def context(module_domain) -> Iterator:
    """One with a node that stays: a participant for each value would come and go within milliseconds, and one that goes
    while it meets another of its process may wait for ever in Fast DDS 3.2, in DomainParticipant::set_listener."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=module_domain)
    stays = rclpy.create_node("stays", context=context)
    yield context
    stays.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def received(context) -> Callable[[object, object], object]:
    """What a node that declares a parameter with this default gets of the value."""

    def received(value: object, default: object) -> object:
        words = ["--ros-args", *parameter_words({"value": value})]
        node = rclpy.create_node("receiver", context=context, cli_args=words, start_parameter_services=False)
        try:
            return node.declare_parameter("value", default).value
        finally:
            node.destroy_node()

    return received


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_stays_what_it_is(received, text):
    assert received(text, "") == text


@pytest.mark.parametrize("value", [True, False, 7, 0.25, 1e-9, 1e20])
def test_numbers_and_truth_stay_what_they_are(received, value):
    assert received(value, type(value)()) == value


def test_a_path_is_a_text(received):
    assert received(Path("/data/run #2"), "") == "/data/run #2"


def test_yaml_goes_as_it_is(received):
    assert list(received(Yaml("[1.5, 1e3]"), [0.0])) == [1.5, 1000.0]


def test_an_unknown_argument_is_named_and_ends_the_program_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        split_ros_arguments(["--ros-args", "--param-file", "x.yaml"])
    assert ended.value.code == 2
    assert "error: these ROS arguments cannot be read: ['--param-file', 'x.yaml']" in capsys.readouterr().err


def test_a_soak_hands_on_what_was_written(monkeypatch, tmp_path):
    """There the shell's word is YAML, as behind `-p` of any node."""
    given = []
    passed = SimpleNamespace(problems=[])
    monkeypatch.setattr(soak, "soak", lambda kind, seconds, folder, parameters: given.append(parameters) or passed)
    monkeypatch.setattr(soak, "write", lambda runs, unfinished, folder: None)
    monkeypatch.setattr(soak, "sentence", lambda run: "")
    options = ["--parameter", "decode_threads:=2", "--parameter", "checkpoint:='a: b'"]
    assert soak.main([*options, "--images", "raw", "--out", str(tmp_path)]) == 0
    words = parameter_words(given[0])
    assert "decode_threads:=2" in words and "checkpoint:='a: b'" in words
    assert 'model:="demo"' in words
