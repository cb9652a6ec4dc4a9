"""What the rows gave, side by side: a table, plots, and the two figures that sum it up.

    mCE  mean over corruptions of  sum over severities (1 - NDS)  /  the same of a baseline model
    mRR  mean over corruptions of  sum over severities NDS  /  (severities x NDS of the clean row)

Source: RoboBEV (arXiv 2405.17426), whose baseline is DETR3D; its NDS here are those that the benchmark's authors list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..report import curves
from ..report.confidence import by_class, scores
from ..report.detection_matches import Boxes, Matches, Objects
from ..report.page import Page, figures, note, number, table
from .rows import CLEAN, Row

DETR3D = {
    "camera_crash": (0.3284, 0.2594, 0.2700), "frame_lost": (0.3437, 0.2514, 0.1860),
    "color_quant": (0.3990, 0.3255, 0.2287), "motion_blur": (0.3721, 0.2343, 0.1918),
    "brightness": (0.4225, 0.4012, 0.3769), "low_light": (0.3334, 0.2832, 0.2192),
    "fog": (0.4047, 0.3922, 0.3767), "snow": (0.2432, 0.1692, 0.1616),
}  # fmt: skip
"""NDS on nuScenes val at the severities easy, moderate, hard."""


@dataclass(frozen=True)
class Measured:
    """A row's scores."""

    nds: float
    map: float
    amota: float | None = None
    ids: int | None = None
    seen_nds: float | None = None  # of the objects that remaining cameras see, where cameras are gone
    seen_map: float | None = None

    def line(self) -> str:
        """The scores of all objects as text."""
        tracking = "" if self.amota is None else f"  AMOTA {self.amota:.4f}  IDS {self.ids}"
        return f"NDS {self.nds:.4f}  mAP {self.map:.4f}{tracking}"


def seen_scores(
    matches: Matches, object_views: Sequence[Sequence[str]], box_views: Sequence[Sequence[str]], gone: Mapping[str, set]
) -> tuple[float, float]:
    """(NDS, mAP) of the objects that a remaining camera sees. Boxes count that found one of them, and wrong ones that
    lie where a remaining camera looks or none did.

    Args:
        gone: scene -> names of the cameras that are gone there.
    """
    lost = [gone.get(scene, set()) for scene in matches.scenes]
    objects, boxes = matches.objects, matches.boxes

    def in_view(views: Sequence[Sequence[str]], scene: np.ndarray, unseen: bool) -> np.ndarray:
        left = [set(seen) - lost[number] for seen, number in zip(views, scene.tolist(), strict=True)]
        return np.array([bool(rest) or (unseen and not seen) for rest, seen in zip(left, views, strict=True)], bool)

    kept = in_view(object_views, objects.scene, unseen=False)
    counted = np.where(boxes.object >= 0, kept[boxes.object], in_view(box_views, boxes.scene, unseen=True))
    part = Matches(matches.scenes, select(objects, kept), select(boxes, counted))
    found = scores(by_class(part), np.ones(len(matches.scenes)))
    return found["NDS"], found["mAP"]


def select(side: Objects | Boxes, rows: np.ndarray) -> Any:
    """The same columns at these rows (mask)."""
    return type(side)(**{name: column[rows] for name, column in vars(side).items()})


def mean_corruption_error(rows: Sequence[Row], found: Mapping[str, Measured], baseline=DETR3D) -> float | None:
    """None unless every corruption was measured at all severities."""
    groups = _benchmark(rows, found)
    if groups is None or groups.keys() != baseline.keys():
        return None
    errors = [(np.subtract(1, values).sum(), np.subtract(1, baseline[name]).sum()) for name, values in groups.items()]
    return float(np.mean([ours / theirs for ours, theirs in errors]))


def mean_resilience_rate(rows: Sequence[Row], found: Mapping[str, Measured]) -> float | None:
    """None unless every corruption was measured at all severities, and the clean row scores above 0."""
    groups = _benchmark(rows, found)
    if groups is None or CLEAN not in found or not found[CLEAN].nds:
        return None
    return float(np.mean([np.mean(values) / found[CLEAN].nds for values in groups.values()]))


def _benchmark(rows: Sequence[Row], found: Mapping[str, Measured]) -> dict[str, list[float]] | None:
    """NDS by corruption, in the order of severities."""
    asked = [row for row in rows if row.benchmark]
    if any(row.name not in found for row in asked):
        return None
    groups: dict[str, list[float]] = {}
    for row in asked:
        groups.setdefault(row.group, []).append(found[row.name].nds)
    return groups


HEADER = ("row", "NDS", "of clean", "mAP", "AMOTA", "IDS", "NDS, seen", "mAP, seen")


def cells(rows: Sequence[Row], found: Mapping[str, Measured]) -> list[list[str]]:
    clean = found[CLEAN].nds
    lines = []
    for row in rows:
        one = found[row.name]
        share = f"{100 * one.nds / clean:.0f} %" if clean else "-"
        ids = "-" if one.ids is None else str(one.ids)
        lines.append(
            [row.name, number(one.nds, 4), share, number(one.map, 4), number(one.amota, 4), ids,
             number(one.seen_nds, 4), number(one.seen_map, 4)]
        )  # fmt: skip
    return lines


def summary(every: Sequence[Row], found: Mapping[str, Measured]) -> str:
    """mCE and mRR in a sentence."""
    error, rate = mean_corruption_error(every, found), mean_resilience_rate(every, found)
    if error is None or rate is None:
        return "mCE and mRR: need the eight corruptions at all severities (--rows '*_easy' '*_moderate' '*_hard')"
    return f"mCE {100 * error:.1f} % (against DETR3D on nuScenes val), mRR {100 * rate:.1f} %"


def markdown(rows: Sequence[Row], every: Sequence[Row], found: Mapping[str, Measured]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in [list(HEADER), ["---"] * len(HEADER), *cells(rows, found)]]
    return "\n".join([*lines, "", summary(every, found), ""])


def page(title: str, rows: Sequence[Row], every: Sequence[Row], found: Mapping[str, Measured]) -> str:
    """The sheet as HTML."""
    made = Page(title, summary(every, found))
    explained = "Seen: objects that a remaining camera sees, where cameras are gone. RoboBEV's types, own strengths."
    made.add("Rows", table(HEADER, cells(rows, found), strong=1), note(explained))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    plots = [_plot(name, group, found) for name, group in groups.items() if name != CLEAN]
    made.add("By fault", figures(*plots))
    return made.text()


def _plot(name: str, rows: Sequence[Row], found: Mapping[str, Measured]) -> str:
    """NDS, mAP and, where it was measured, AMOTA of a group over its levels, the clean row as broken lines."""
    drawn, axes = curves.figure(4.2, 2.8)
    places = np.arange(len(rows))
    for label, colour, of in (("NDS", "C0", "nds"), ("mAP", "C1", "map"), ("AMOTA", "C2", "amota")):
        values = [getattr(found[row.name], of) for row in rows]
        if None not in values:
            axes.plot(places, values, "o-", color=colour, label=label)
            axes.axhline(getattr(found[CLEAN], of), linestyle="--", linewidth=1, color=colour, alpha=0.6)
    axes.set_xticks(places, [row.level.replace("_", " ") for row in rows], rotation=20, ha="right")
    axes.set(title=name.replace("_", " "), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower left")
    return curves.picture_of(drawn, f"Scores under {name}")
