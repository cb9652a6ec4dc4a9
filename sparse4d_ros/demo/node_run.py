"""A bag through the node, as processes over DDS: the node, who records what it publishes, and the player."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ..middleware import variables
from .listener import DiagnosticsListener
from .programs import DemoError, Processes

READY_SECONDS = 300.0  # the first start compiles Python and loads torch; on a GPU a minute goes into torch.compile
DRAIN_SECONDS = 300.0  # after the last image, while sets are in work: the largest models take a minute a frame
REFUSAL = re.compile(r"(configure|activate) failed: .*")  # as the node logs it; its process lives on

Started = Mapping[str, tuple[subprocess.Popen, Path]]  # node and recorder -> the process, the file that has its output


def play_to_node(
    processes: Processes, node: Sequence[object], bag: Path, record: Path, player: Sequence[object] = ()
) -> dict[str, dict[str, str]]:
    """Plays the bag once; returns the node's last diagnostics.

    Args:
        processes: their environment and logs: node, recorder, player.
        node: the node's arguments.
        bag: what is played.
        record: file for what was published.
        player: the player's options.

    Raises:
        DemoError: a process failed.
    """
    with recorded_node(processes, node, record) as (started, listener):
        processes.run("player", "sparse4d_ros.bag_player", bag, *player)
        wait_until_idle(listener, started)
        return listener.last()


@contextlib.contextmanager
def recorded_node(
    processes: Processes, node: Sequence[object], record: Path
) -> Iterator[tuple[Started, DiagnosticsListener]]:
    """A node that is ready for images with a recorder of what it publishes, and what listens to its diagnostics.

    Args:
        processes: their environment and logs: node, recorder.
        node: the node's arguments.
        record: file for what is published.

    Raises:
        DemoError: a process failed.
    """
    with (
        variables(processes.middleware),
        DiagnosticsListener() as listener,
        processes.background("recorder", "sparse4d_ros.box_recorder", "--out", record) as recorder,
        processes.background("node", "sparse4d_ros.node", *node) as process,
    ):
        started = {name: (one, processes.log_of(name)) for name, one in (("recorder", recorder), ("node", process))}
        wait_until_ready(listener, started)
        yield started, listener


def wait_until_ready(listener: DiagnosticsListener, started: Started) -> None:
    """Until the node is configured and knows the recorder; the player waits for the node's subscriptions itself.

    Raises:
        DemoError: one of them ended, the node refuses its parameters, or time is up.
    """
    deadline = time.monotonic() + READY_SECONDS
    _, log = started["node"]
    while not listener.wait_until_recorded(1.0):
        check_running(started)
        if refusal := REFUSAL.search(log.read_text(encoding="utf-8", errors="replace")):
            raise DemoError(f"the node: {refusal[0]}; its output is in {log}")
        if time.monotonic() > deadline:
            logs = ", ".join(str(log) for _, log in started.values())
            raise DemoError(f"the node did not get ready, or did not find its recorder; their output is in {logs}")


def wait_until_idle(listener: DiagnosticsListener, started: Started) -> None:
    """After the last image: until the node has no set in work any more, or time is up.

    Raises:
        DemoError: one of them ended, now or while the bag was played.
    """
    listener.wait_until_idle(DRAIN_SECONDS, partial(check_running, started))


def check_running(started: Started) -> None:
    """
    Raises:
        DemoError: one of them ended.
    """
    for name, (process, log) in started.items():
        if process.poll() is not None:
            raise DemoError(f"the {name} ended with status {process.returncode}; its output is in {log}")
