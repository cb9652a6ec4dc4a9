"""Ctrl-C and SIGTERM: before a command has begun to run, as loading its modules, torch above all, takes seconds; and in
one that ends between two steps of its work, never in the middle of one."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

PACKAGES = ("sparse4d_ros", "sparse4d_core", "cuda_ops")
LOOKS_UP_EVERY = 0.05  # s; sleep goes on after a signal


def end_quietly() -> None:
    """From now on an interrupt while modules of ours are loaded, or run as programs (by `python -m`, or by an installed
    one, which calls their `main`), ends the process without a traceback. The exit status stays Python's: that of a
    process that SIGINT has ended, 130 in a shell."""
    otherwise = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt) and _in_program(trace):
            print("interrupted", file=sys.stderr)
        else:
            otherwise(kind, error, trace)

    sys.excepthook = hook


def _in_program(trace: TracebackType | None) -> bool:
    """Whether the interrupt came to the top level of one of our modules, or to its `main`."""
    while trace is not None:
        package = (trace.tb_frame.f_globals.get("__package__") or "").partition(".")[0]
        if trace.tb_frame.f_code.co_name in ("<module>", "main") and package in PACKAGES:
            return True
        trace = trace.tb_next
    return False


class StopRequest:
    """Whether a program, or a thread of it, is asked to end.

    A plain flag, because signals set it: their handler comes between any two instructions of the main thread, which may
    hold the lock of a `threading.Event` at that moment, and then neither goes on.
    """

    def __init__(self) -> None:
        self.requested = False

    def wait(self, seconds: float = math.inf) -> bool:
        """True as soon as it is asked to end, False after that time."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, LOOKS_UP_EVERY))
        return self.requested


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM and SIGINT become a request; the handlers of before come back at the end."""
    request = StopRequest()

    def note(*_: object) -> None:
        request.requested = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
