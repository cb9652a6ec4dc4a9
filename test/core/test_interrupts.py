"""Ctrl-C while a command is loading: one word, no traceback, the status of a process that SIGINT ended."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

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


def test_other_errors_and_other_programs_keep_their_traceback(tmp_path):
    done = run(tmp_path, "-c", "import sparse4d_core\nraise KeyboardInterrupt('of mine')")
    assert done.returncode == -signal.SIGINT and "Traceback" in done.stderr and "of mine" in done.stderr
    done = run(tmp_path, "-m", "sparse4d_core.no_such_module")
    assert done.returncode == 1 and "No module named" in done.stderr
