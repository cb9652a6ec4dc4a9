"""A soak as a picture: memory, files, threads, latency and drops over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .resources import Sample

PANELS = (
    ("resident memory [MiB]", ("memory_mib",)),
    ("file descriptors, threads", ("files", "threads")),
    ("latency [ms]: median, 99th percentile", ("latency_p50_ms", "latency_p99_ms")),
)


def draw(runs: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """One column for each run.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # slow to import, and no part of what the node needs

    figure = Figure(figsize=(6 * len(runs), 10), layout="constrained")
    axes = figure.subplots(len(PANELS) + 1, len(runs), sharex="col", squeeze=False)
    for column, (name, samples) in zip(axes.T, runs.items(), strict=True):
        minutes = [sample.seconds / 60 for sample in samples]
        column[0].set_title(name)
        for panel, (label, fields) in zip(column, PANELS, strict=False):
            for field in fields:
                panel.plot(minutes, [getattr(sample, field) for sample in samples], label=field)
            panel.set_ylabel(label)
            panel.legend(loc="best", fontsize="small")
        _draw_drops(column[-1], minutes, samples)
        column[-1].set_xlabel("minutes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _draw_drops(panel, minutes: Sequence[float], samples: Sequence[Sample]) -> None:
    causes = sorted({cause for sample in samples for cause in sample.drops})
    for cause in causes:
        panel.plot(minutes, [sample.drops.get(cause, 0) for sample in samples], label=cause)
    panel.set_ylabel("dropped so far, by cause")
    if causes:
        panel.legend(loc="best", fontsize="small")
