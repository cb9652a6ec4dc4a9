"""A process on a host of a cluster: it loads the job once, looks whether it is the same program, and runs tasks.

Hosts that differ from the one that collects the results would give other boxes, and nobody would notice: another
revision of this package, other versions of what computes, on a CPU other kernels of the operator.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from cuda_ops import cpu_kernels

from .task_run import Failure, Job, Worker, run_task

PACKAGES = ("sparse4d_core", "sparse4d_ros", "cuda_ops")
_ROOT = pathlib.Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Setup:
    """What a process needs before its first task."""

    name: str  # of this run and no other
    job: Job
    device: str
    folder: str  # from which relative paths count
    program: dict[str, str]  # of the process that collects the results


@dataclass(frozen=True)
class CannotStart:
    """A host that is not set up for this work."""

    host: str
    reason: str


def program(device: str) -> dict[str, str]:
    """What must be the same on all hosts: versions, a digest of this package's modules, kernels that run on a CPU."""
    found = {
        "Python": ".".join(map(str, sys.version_info[:2])),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "OpenCV": cv2.__version__,
        "revision of this package": sources_digest(_ROOT),
    }
    return found | ({"kernels of the operator": cpu_kernels.in_use()} if device == "cpu" else {})


def sources_digest(root: pathlib.Path) -> str:
    """Of all modules of the packages below this folder; equal for equal content, wherever it is installed."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


_worker: Worker | None = None
_worker_of: str | None = None  # the run that it was loaded for


def run_on_host(name: str, setup: Callable[[], Setup], task: Any) -> Any:
    """A task's result, its Failure with the name of this host, or why this host cannot do such work.

    Args:
        name: of the run.
        setup: fetches what its first task here needs.
    """
    global _worker, _worker_of
    if _worker_of != name:
        _worker = None  # frees the model of another run first
        try:
            _worker, _worker_of = _started(setup()), name
        except Exception as error:
            return CannotStart(socket.gethostname(), f"{type(error).__name__}: {error}")
    result = run_task(_worker, task)
    return Failure(f"{result.reason} (on host {socket.gethostname()})") if isinstance(result, Failure) else result


def _started(setup: Setup) -> Worker:
    if os.path.isdir(setup.folder):
        os.chdir(setup.folder)
    mine = program(setup.device)
    theirs = setup.program
    if apart := [f"{key}: {mine[key]} and not {theirs[key]}" for key in mine if mine[key] != theirs[key]]:
        raise ValueError(f"its results would not be those of the host that collects them: {'; '.join(apart)}")
    cv2.setNumThreads(1)
    return setup.job.start(setup.device)
