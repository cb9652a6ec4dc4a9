"""The machine and the versions behind a measured figure."""

from __future__ import annotations

import os
import pathlib
import platform


def describe() -> dict[str, str | int]:
    """What a report says beside its figures: processor, usable cores, GPU, operating system, versions."""
    import torch  # here, because a process that only names the processor should start fast

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


def processor_name() -> str:
    """The processor's marketing name, else its architecture."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
