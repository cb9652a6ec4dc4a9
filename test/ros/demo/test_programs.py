"""What the demo starts ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")

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
