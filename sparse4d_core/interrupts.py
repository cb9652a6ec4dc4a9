"""Ctrl-C before a command has begun to run: loading its modules, torch above all, takes seconds."""

from __future__ import annotations

import sys
from types import TracebackType

PACKAGES = ("sparse4d_ros", "sparse4d_core", "cuda_ops")


def end_quietly() -> None:
    """From now on an interrupt while modules of ours are loaded, or run as programs, ends the process without a
    traceback. The exit status stays Python's: that of a process that SIGINT has ended, 130 in a shell."""
    otherwise = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt) and _in_module_body(trace):
            print("interrupted", file=sys.stderr)
        else:
            otherwise(kind, error, trace)

    sys.excepthook = hook


def _in_module_body(trace: TracebackType | None) -> bool:
    """Whether the interrupt came to the top level of one of our modules."""
    while trace is not None:
        package = (trace.tb_frame.f_globals.get("__package__") or "").partition(".")[0]
        if trace.tb_frame.f_code.co_name == "<module>" and package in PACKAGES:
            return True
        trace = trace.tb_next
    return False
