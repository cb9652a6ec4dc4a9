"""Niceness of the threads that work on sets, so that others go first, such as the drivers of the cameras."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .log_throttle import LogThrottle


def be_nice(increment: int, log: LogThrottle, thread: int | None = None) -> None:
    """Raises a thread's niceness, and with it that of the threads that it will start.

    Args:
        increment: 0: whatever the process was started with, by `nice` or systemd, stays.
        log: where the system refuses it.
        thread: its number by the system; None: the calling one.
    """
    if increment == 0:
        return
    thread = threading.get_native_id() if thread is None else thread
    try:
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + increment)
    except ProcessLookupError:
        pass  # it has ended
    except OSError as error:
        log.warning("nice", f"worker_nice_increment: {increment} had no effect: {error.strerror}")


@contextmanager
def started_threads_are_nice(increment: int, log: LogThrottle) -> Iterator[None]:
    """Raises the niceness of the threads that are started meanwhile, also by libraries, which let nobody choose it.

    The calling thread stays as it is: it has other work to do, and without a privilege nobody takes niceness back.
    """
    if increment == 0:
        yield
        return
    before = _threads()
    yield
    for thread in _threads() - before:
        be_nice(increment, log, thread)


def _threads() -> set[int]:
    """Those of this process, by the system's numbers."""
    return set(map(int, os.listdir("/proc/self/task")))
