"""Faults of the machine under the node: no processor, no disk, no shared memory, no more files."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from ...bags.box_record import read_box_record
from ..running_system import RunningSystem
from .fault import Fault, NotPossible, NotSurvived

SHARED_MEMORY = Path("/dev/shm")
SMALL = 2**28  # bytes; a larger shared memory may be others' as well, and is not filled
WAIT_SECONDS = 60.0
RECORD_BYTES = 100_000


@contextlib.contextmanager
def busy_processors(system: RunningSystem) -> Iterator[None]:
    """Three busy processes for each core."""
    with contextlib.ExitStack() as stack:
        for _ in range(3 * len(os.sched_getaffinity(0))):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@contextlib.contextmanager
def frozen(system: RunningSystem) -> Iterator[None]:
    """The node does not run at all."""
    system.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        system.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def limited(pid: int, kind: int, value: int) -> Iterator[None]:
    """A lower limit of a running process."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def no_more_bytes(system: RunningSystem) -> contextlib.AbstractContextManager[None]:
    """No file of the node's may grow: its log, its middleware's shared memory."""
    return limited(system.process.pid, resource.RLIMIT_FSIZE, 0)


@contextlib.contextmanager
def no_more_files(system: RunningSystem) -> Iterator[None]:
    """The node can open nothing, and somebody comes who makes its middleware want to."""
    pid = system.process.pid
    with limited(pid, resource.RLIMIT_NOFILE, psutil.Process(pid).num_fds()):
        with subscriber(system):
            yield


@contextlib.contextmanager
def subscriber(system: RunningSystem) -> Iterator[None]:
    """A recorder, which subscribes to all boxes."""
    with system.processes.background("visitor", "sparse4d_ros.box_recorder", "--out", system.folder / "visitor.jsonl"):
        yield


@contextlib.contextmanager
def no_shared_memory(system: RunningSystem) -> Iterator[None]:
    """Its file system is full, and a process comes that would need some."""
    state = os.statvfs(SHARED_MEMORY)
    if state.f_frsize * state.f_blocks > SMALL:
        raise NotPossible(
            f"{SHARED_MEMORY} is not this campaign's own: run as root, where `unshare` and `mount` may be used"
        )
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
                file.flush()
        with subscriber(system):
            yield


@contextlib.contextmanager
def recorder_without_disk(system: RunningSystem) -> Iterator[None]:
    """The recorder's file may not grow beyond 100 kB: it must end with a reason, and what it wrote must be readable."""
    path = system.folder / "full_disk.jsonl"
    name = "recorder_without_disk"
    with system.processes.background(name, "sparse4d_ros.box_recorder", "--out", path) as recorder:
        resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (RECORD_BYTES, RECORD_BYTES))
        yield
        try:
            status = recorder.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotSurvived("the recorder goes on without writing") from None
    log = system.processes.log_of(name).read_text()
    if status != 2 or "Traceback" in log or "File too large" not in log:
        raise NotSurvived(f"the recorder ended with status {status}: {log.strip()[-300:]}")
    check_record(path)


def check_record(path: Path) -> None:
    """
    Raises:
        NotSurvived: no set can be read, or more than the last line is not whole.
    """
    lines = path.read_text().splitlines(keepends=True)
    whole = path.with_suffix(".whole.jsonl")
    whole.write_text("".join(line for line in lines if line.endswith("\n")))
    if not lines or not sum(1 for _ in read_box_record(whole)):
        raise NotSurvived(f"{path.name} holds no set")


MACHINE_FAULTS = (
    Fault("processor starved", "three busy processes for each core", busy_processors, seconds=4.0),
    Fault("node frozen", "stopped for 3 s", frozen, seconds=3.0),
    Fault("node's disk full", "no file of the node's may grow", no_more_bytes, seconds=3.0),
    Fault("node's files used up", "the node can open nothing, and a subscriber comes", no_more_files, seconds=12.0),
    Fault("shared memory full", "/dev/shm is full, and a subscriber comes", no_shared_memory, seconds=12.0),
    Fault("recorder's disk full", "the record may not grow beyond 100 kB", recorder_without_disk),
)
