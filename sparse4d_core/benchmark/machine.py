"""The machine and the versions behind a measured figure."""

from __future__ import annotations

import os
import platform

import torch

from cuda_ops.measurement import processor_name


def describe() -> dict[str, str | int]:
    """What stands beside the figures of a report: processor, usable cores, GPU, operating system, versions."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def summary() -> str:
    """One line of it: `2 cores of AMD EPYC, no GPU`."""
    facts = describe()
    gpu = "no GPU" if facts["gpu"] == "none" else facts["gpu"]
    return f"{facts['cores']} cores of {facts['processor']}, {gpu}"
