"""Figures of the report, drawn by matplotlib, as SVG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ...types import CLASS_NAMES
from ...visualization import CLASS_COLORS_RGB
from .breakdown import Calibration, Group
from .confidence import ClassMatches, curve
from .detection_matches import THRESHOLDS

_RECALLS = np.linspace(0, 1, 101)
_SETTINGS = {"svg.hashsalt": "report", "svg.fonttype": "path", "font.size": 9, "axes.grid": True, "grid.alpha": 0.25}


def picture_of(figure: Figure, title: str) -> str:
    """The figure as an <img> that needs no other file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="figure" alt="{title}" src="data:image/svg+xml;base64,{data}">'


def figure(width: float = 5.0, height: float = 3.4) -> tuple[Figure, object]:
    """A figure of one plot, without any window or global state."""
    with matplotlib.rc_context(_SETTINGS):
        drawn = Figure(figsize=(width, height))
        return drawn, drawn.add_subplot()


def colour(name: str) -> tuple[float, float, float]:
    red, green, blue = CLASS_COLORS_RGB.get(name, (90, 90, 90))
    return red / 255, green / 255, blue / 255


def precision_recall(classes: Sequence[ClassMatches], scenes: int) -> str:
    """Each class, at 2 m as a line and at 0.5 m dotted."""
    drawn, axes = figure(6.4, 4.0)
    once = np.ones(scenes)
    for name, matches in zip(CLASS_NAMES, classes, strict=True):
        if not len(matches.object_scene):
            continue
        for threshold, style in ((2.0, "-"), (0.5, ":")):
            precision, _ = curve(matches, THRESHOLDS.index(threshold), once)
            label = name if style == "-" else None
            axes.plot(_RECALLS, precision, style, color=colour(name), linewidth=1.4, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return picture_of(drawn, "precision over recall of each class, within 2 m (lines) and 0.5 m (dotted)")


def reliability(found: Calibration) -> str:
    """Precision over score, with the diagonal of an honest model."""
    drawn, axes = figure(4.2, 3.6)
    axes.plot([0, 1], [0, 1], "--", color="0.6", linewidth=1)
    sizes = 20 + 120 * found.count / found.count.max() if len(found.count) else 20
    axes.scatter(found.score, found.precision, s=sizes, color=colour("pedestrian"), alpha=0.85)
    axes.plot(found.score, found.precision, color=colour("pedestrian"), linewidth=1)
    axes.set(xlabel="score", ylabel="right within 2 m", xlim=(0, 1), ylim=(0, 1.02))
    return picture_of(drawn, "how often boxes of a score are right")


def tracking_over_recall(details: Mapping[str, Mapping[str, Sequence[float]]], name: str = "motar") -> str:
    """A metric of the tracking evaluation at each recall, by class; its mean over recalls is AMOTA for `motar`."""
    drawn, axes = figure(6.4, 3.6)
    for kind, data in details.items():
        recall, value = np.array(data["recall_hypo"], float), np.array(data[name], float)
        known = ~np.isnan(recall) & ~np.isnan(value)
        if known.any():
            axes.plot(recall[known], value[known], color=colour(kind), linewidth=1.4, label=kind)
    axes.set(xlabel="recall", ylabel=name.upper(), xlim=(0, 1), ylim=(0, 1.02))
    if axes.lines:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return picture_of(drawn, f"{name.upper()} over recall of each class")


def recall_bars(groups: Sequence[Group], title: str) -> str:
    """Recall of each group: any score, and confident ones."""
    drawn, axes = figure(4.8, 0.7 + 0.34 * max(len(groups), 1))
    places = np.arange(len(groups))[::-1]
    total = [max(one.objects, 1) for one in groups]
    found = [one.found / count for one, count in zip(groups, total, strict=True)]
    confident = [one.confident / count for one, count in zip(groups, total, strict=True)]
    axes.barh(places, found, color=colour("pedestrian"), alpha=0.35, height=0.7, label="any score")
    axes.barh(places, confident, color=colour("pedestrian"), height=0.7, label="score of 0.3 and more")
    axes.set_yticks(places, [f"{one.name}  ({one.objects})" for one in groups])
    axes.set(xlabel="found within 2 m", xlim=(0, 1))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return picture_of(drawn, f"recall {title}")


def interval_bars(rows: Sequence[tuple[str, float, float, float]], reference: float | None, label: str) -> str:
    """(name, value, low, high) as points with their intervals."""
    drawn, axes = figure(5.0, 0.7 + 0.3 * max(len(rows), 1))
    places = np.arange(len(rows))[::-1]
    values = np.array([row[1] for row in rows])
    spread = np.abs(np.array([[value - low, high - value] for _, value, low, high in rows]).T)
    axes.errorbar(values, places, xerr=spread, fmt="o", color=colour("truck"), capsize=3, markersize=4)
    if reference is not None:
        axes.axvline(reference, color="0.5", linestyle="--", linewidth=1)
    axes.set_yticks(places, [row[0] for row in rows])
    axes.set(xlabel=label)
    return picture_of(drawn, label)
