"""Plots of a page: rate, latencies and drops of the node, and the history of one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import viser
from viser import uplot

from ..health_sample import HealthSample
from ..scene import KEPT_SECONDS

HEIGHT = 120  # pixels
PALETTE = ("#4fb3ff", "#ffb14f", "#7ddc7a", "#ff6f6f", "#c58cff", "#f0e36a", "#6ee0d8", "#ff9ad0", "#b0b7bf", "#d2a679")
AXIS = {"stroke": "#c8ccd0", "grid": {"stroke": "#34383c", "width": 1}, "size": 38}
LONGEST_MS = 60_000.0  # what is later is no latency: the stamps of a bag are of another day
RATE_SECONDS = 2.0  # over which sets are counted
History = Sequence[tuple[float, HealthSample]]  # s before now, oldest first


class Chart:
    """Lines over the last minute, in a panel of one browser. Its lines may change their names.

    Args:
        gui: of the browser.
        title: with the unit.
    """

    def __init__(self, gui: viser.GuiApi, title: str):
        empty = np.array([-KEPT_SECONDS, 0.0])
        self._handle = gui.add_uplot(
            (empty, np.zeros(2)),
            ({}, uplot.Series(label="", show=False)),
            title=title,
            height=HEIGHT,
            scales={"x": {"time": False, "range": (-KEPT_SECONDS, 0.0)}},
            axes=({**AXIS, "size": 26}, AXIS),
            legend={"show": True},
            padding=(4, 8, 0, 0),
        )
        self._names: list[str] = []

    def draw(self, times: np.ndarray, lines: Mapping[str, np.ndarray]) -> None:
        """Shows lines by name, values [K] over times [K] (s, not above 0). Without any the plot is empty."""
        if not lines:
            times, lines = np.zeros(0), {"": np.zeros(0)}
        if list(lines) != self._names:
            self._names = list(lines)
            colors = [PALETTE[i % len(PALETTE)] for i in range(len(lines))]
            pairs = zip(lines, colors, strict=True)
            self._handle.series = ({}, *(uplot.Series(label=name, stroke=color, width=2) for name, color in pairs))
        self._handle.data = (np.asarray(times, np.float64), *(np.asarray(line, np.float64) for line in lines.values()))


def rates(times: np.ndarray) -> np.ndarray:
    """Sets per second [K] at each time of arrival [K] (s, increasing), over the RATE_SECONDS before it; 0 at first."""
    if not len(times):
        return np.zeros(0)
    first = np.searchsorted(times, times - RATE_SECONDS, side="left")
    spans = times - times[first]
    return np.divide(np.arange(len(times)) - first, spans, out=np.zeros(len(times)), where=spans > RATE_SECONDS / 4)


def latency_lines(history: History, most: int = 6) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times (s), and the median latency (ms) of the slowest stages, where the node measured all of them."""
    newest = history[-1][1].latencies_ms if history else {}
    slowest_first = sorted(newest, key=lambda stage: -newest[stage][0])
    stages = [stage for stage in slowest_first if newest[stage][0] < LONGEST_MS][:most]
    rows = [(time, sample.latencies_ms) for time, sample in history]
    rows = [(time, latencies) for time, latencies in rows if latencies.keys() >= set(stages)]
    lines = {stage: np.array([latencies[stage][0] for _, latencies in rows]) for stage in stages}
    return np.array([time for time, _ in rows]), lines


def drop_lines(history: History) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Times (s), and by cause how many sets and images were dropped since the node started."""
    counts = [
        {f"{kind} {cause}": n for kind, dropped in _dropped(sample).items() for cause, n in dropped.items()}
        for _, sample in history
    ]
    causes = sorted({cause for count in counts for cause in count})
    lines = {cause: np.array([float(count.get(cause, 0)) for count in counts]) for cause in causes}
    return np.array([time for time, _ in history]), lines or {"none": np.zeros(len(history))}


def _dropped(sample: HealthSample) -> dict[str, dict[str, int]]:
    return {"sets": sample.dropped_sets, "images": sample.dropped_images}
