"""What the demo starts ends with it, and is missed where it ends before."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
from sparse4d_ros.demo import listener, node_run
from sparse4d_ros.demo.listener import DiagnosticsListener
from sparse4d_ros.demo.node_run import play_to_node, wait_until_ready
from sparse4d_ros.demo.programs import DemoError

ROOT = Path(__file__).resolve().parents[3]
SLEEPER = "import time\nprint('up', flush=True)\ntime.sleep(3600)\n"
MAIN = """
import sys, time
from pathlib import Path
from sparse4d_ros.demo.programs import Processes

processes = Processes(Path(sys.argv[1]), 20)
with processes.background("sleeper", "sleeper") as process:
    while not processes.log_of("sleeper").read_text():
        time.sleep(0.05)
    print(process.pid, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_who_is_ended_ends_what_it_started(tmp_path, how):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", MAIN, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs: none
    ) as parent:  # fmt: skip
        child = psutil.Process(int(parent.stdout.readline()))
        try:
            parent.send_signal(how)
            assert parent.wait(PATIENCE) == -signal.SIGINT, "as Ctrl-C ends it"
            assert not child.is_running()
        finally:
            parent.kill()
            if child.is_running():
                child.kill()


def test_a_handler_that_is_there_stays(tmp_path):
    """The live view's, which takes the signal for a request."""
    from sparse4d_core.interrupts import stop_requests
    from sparse4d_ros.demo.programs import Processes

    with stop_requests() as stop:
        Processes(tmp_path, 20)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested


def test_a_signal_while_the_live_view_prepares_the_demo_ends_it_there(tmp_path, monkeypatch, capsys):
    """Not after all that is rendered and exported."""
    pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")
    from sparse4d_ros.live_view import __main__ as live_view
    from sparse4d_ros.live_view import demo_drive

    def render(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_drive, "prepare_input", render)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process of its own
    try:
        assert live_view.main(["--demo"]) == 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(demo_drive, "prepare_input", lambda *_: pytest.fail("prepared"))
    assert live_view.main(["--demo", "--rig", "none.yaml"]) == 2


@pytest.mark.ros
def test_a_recorder_that_ends_is_named_at_once(tmp_path, ros_domain):
    """Not after the minutes in which a node may get ready."""
    from sparse4d_ros.demo.node_run import recorded_node
    from sparse4d_ros.demo.programs import DemoError, Processes

    (tmp_path / "file").touch()
    node = ["--ros-args", "-p", "model:=demo"]  # unconfigured, as nobody asks it to be more
    with pytest.raises(DemoError, match=r"the recorder ended with status \d+; its output is in .*recorder\.log"):
        with recorded_node(Processes(tmp_path, ros_domain), node, tmp_path / "file" / "record.jsonl"):
            pass


class Pretended:
    """Takes the place of Processes; one of its programs has ended when it was looked at so many times."""

    middleware: dict[str, str] = {}

    def __init__(self, logs: Path, ending: str, looks: int):
        self._logs, self._ending, self._looks = logs, ending, looks

    def log_of(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def run(self, *_: object) -> None:
        pass

    @contextlib.contextmanager
    def background(self, name: str, *_: object) -> Iterator[SimpleNamespace]:
        polls = chain(repeat(None, self._looks), repeat(-9)) if name == self._ending else repeat(None)
        yield SimpleNamespace(poll=lambda: next(polls), returncode=-9)


class ReadyThenSilent(DiagnosticsListener):
    """Nothing comes from the node any more."""

    def __enter__(self) -> ReadyThenSilent:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_until_recorded(self, seconds: float) -> bool:
        return True


@pytest.mark.parametrize("name", ["node", "recorder"])
@pytest.mark.parametrize("looks", [0, 1], ids=["while the bag is played", "while sets are in work"])
def test_what_ends_during_the_run_is_named_at_once(tmp_path, monkeypatch, name, looks):
    monkeypatch.setattr(node_run, "DiagnosticsListener", ReadyThenSilent)
    monkeypatch.setattr(node_run, "DRAIN_SECONDS", PATIENCE)
    monkeypatch.setattr(listener, "LOOKS_EVERY", 0.01, raising=False)
    with pytest.raises(DemoError, match=rf"the {name} ended with status -9; its output is in .*{name}\.log"):
        play_to_node(Pretended(tmp_path, name, looks), [], tmp_path / "bag", tmp_path / "record.jsonl")


@pytest.mark.parametrize("reason", ["configure failed: checkpoint: no file typo.pt", "activate failed: Unexpected QoS"])
def test_why_a_node_does_not_get_ready_is_passed_on_at_once(tmp_path, monkeypatch, reason):
    """Its process lives on."""
    monkeypatch.setattr(node_run, "READY_SECONDS", 0.0)
    log = tmp_path / "node.log"
    log.write_text(f"[INFO] [1.5] [sparse4d]: scene reset: clean\n[ERROR] [1.5] [sparse4d]: {reason}\nmore\n")
    started = {"recorder": (SimpleNamespace(poll=lambda: None), tmp_path / "recorder.log")}
    started["node"] = SimpleNamespace(poll=lambda: None), log
    unready = SimpleNamespace(wait_until_recorded=lambda seconds: False)
    with pytest.raises(DemoError, match=re.escape(f"the node: {reason}; its output is in {log}")):
        wait_until_ready(unready, started)
