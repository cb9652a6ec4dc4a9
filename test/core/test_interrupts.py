"""Ctrl-C while a command is loading: one word, no traceback, the status of a process that SIGINT ended. Later on: a
request, whatever the program does at that moment."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from sparse4d_core.checkpoint.__main__ import main
from sparse4d_core.checkpoint.published import fetch
from sparse4d_core.interrupts import end_quietly, stop_requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Stands in for a module that takes seconds to load: the interrupt comes at that moment.
INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


def run(tmp_path: pathlib.Path, *words: str) -> subprocess.CompletedProcess:
    (tmp_path / "torch.py").write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs: none
    )


@pytest.mark.parametrize("module", ["sparse4d_core.checkpoint", "sparse4d_ros.replay"])
def test_a_command_that_is_still_loading(tmp_path, module):
    done = run(tmp_path, "-m", module, "--help")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")


def test_a_command_that_runs_as_an_installed_program(monkeypatch, capsys):
    """Its file, which is none of ours, calls `main`; other functions of ours belong to whoever calls them."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "excepthook", lambda *_: print("a traceback", file=sys.stderr))
    monkeypatch.setattr("sparse4d_core.checkpoint.published.public_file", interrupt)
    end_quietly()
    for call in (lambda: main(["fetch", "v3_r50"]), lambda: fetch("v3_r50")):
        with pytest.raises(KeyboardInterrupt) as end:
            call()
        sys.excepthook(end.type, end.value, end.tb)
    assert capsys.readouterr().err == "interrupted\na traceback\n"


def test_other_errors_and_other_programs_keep_their_traceback(tmp_path):
    done = run(tmp_path, "-c", "import sparse4d_core\nraise KeyboardInterrupt('of mine')")
    assert done.returncode == -signal.SIGINT and "Traceback" in done.stderr and "of mine" in done.stderr
    done = run(tmp_path, "-m", "sparse4d_core.no_such_module")
    assert done.returncode == 1 and "No module named" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request_wherever_the_program_is(number):
    """At every line that a wait runs through, those of the library among them, a second signal right behind it."""
    before = signal.getsignal(number)
    place = 0
    with stop_requests() as stop:
        while _signals_at_line(number, place, lambda: stop.wait(0.0)):
            assert stop.requested and stop.wait(60.0), "the wait is over at once"
            stop.requested = False
            place += 1
    assert place >= 3, "lines of the wait"
    assert signal.getsignal(number) is before


def _signals_at_line(number: int, place: int, run: Callable[[], object]) -> bool:
    """Whether `run` had that many lines."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object):
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == place + 1:
                signal.raise_signal(number)
                signal.raise_signal(number)
        return trace

    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(None)
    return lines > place
