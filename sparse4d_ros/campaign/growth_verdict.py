"""Does it grow? A line through figures over time that neither steps nor outliers bend, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .resources import Sample

SETTLING_SECONDS = 300.0  # caches fill, pools reach their size
LIMIT_MIB = 1.0  # of resident memory in TEN_MINUTES
TEN_MINUTES = 600.0  # s
SHORTEST = 300.0  # s after settling; of less, growth is not judged


@dataclass(frozen=True)
class Growth:
    """In ten minutes, after the time of settling; None: the run was too short to tell."""

    memory_mib: float | None = None
    files: float | None = None
    threads: float | None = None

    @property
    def problems(self) -> list[str]:
        found = []
        if self.memory_mib is not None and self.memory_mib >= LIMIT_MIB:
            found.append(f"memory grows by {self.memory_mib:.2f} MiB in ten minutes; allowed: {LIMIT_MIB:g}")
        for name, slope in (("file descriptors", self.files), ("threads", self.threads)):
            if slope is not None and slope >= 1.0:
                found.append(f"{name} grow by {slope:.1f} in ten minutes")
        return found


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points, a second (Theil 1950, Sen 1968)."""
    t, y = np.asarray(seconds, float), np.asarray(values, float)
    first, second = np.triu_indices(len(t), 1)
    apart = t[second] - t[first]
    return float(np.median((y[second] - y[first])[apart > 0] / apart[apart > 0]))


def growth(samples: Sequence[Sample]) -> Growth:
    """Of what the samples show after the time of settling."""
    settled = [sample for sample in samples if sample.seconds >= SETTLING_SECONDS]
    if len(settled) < 3 or settled[-1].seconds - settled[0].seconds < SHORTEST:
        return Growth()
    seconds = [sample.seconds for sample in settled]
    slopes = {
        name: round(TEN_MINUTES * slope(seconds, [getattr(sample, name) for sample in settled]), 3)
        for name in ("memory_mib", "files", "threads")
    }
    return Growth(**slopes)
