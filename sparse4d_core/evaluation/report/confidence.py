"""Detection scores from matches, for any weights of the scenes, and how sure they are: a bootstrap over scenes.

Scenes are drawn with replacement, as often as there are, and everything is scored anew with each scene counted as often
as it was drawn. With each scene counted once the numbers are the devkit's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...types import CLASS_NAMES
from .detection_matches import ERRORS, THRESHOLDS, TP_THRESHOLD, Matches

_RECALLS = np.linspace(0, 1, 101)
_MIN_RECALL, _MIN_PRECISION = 0.1, 0.1
_FIRST = round(100 * _MIN_RECALL) + 1
_NO_ERROR = {"traffic_cone": ("mAAE", "mAVE", "mAOE"), "barrier": ("mAAE", "mAVE")}  # not defined for these classes
_MAP_WEIGHT = 5


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in the order of choice, what of them was found, and the objects by scene."""

    scene: np.ndarray  # [D]
    score: np.ndarray  # [D]
    found: np.ndarray  # [D, 4] bool
    errors: np.ndarray  # [D, 5]
    object_scene: np.ndarray  # [T]


@dataclass(frozen=True)
class Interval:
    value: float  # with every scene counted once
    low: float
    high: float


def by_class(matches: Matches) -> list[ClassMatches]:
    """In the order of CLASS_NAMES."""
    boxes, objects = matches.boxes, matches.objects
    return [
        ClassMatches(
            *(column[boxes.label == label] for column in (boxes.scene, boxes.score, boxes.found, boxes.errors)),
            objects.scene[objects.label == label],
        )
        for label in range(len(CLASS_NAMES))
    ]


def scores(classes: Sequence[ClassMatches], weights: np.ndarray) -> dict[str, float]:
    """NDS, mAP, the five errors and the AP of each class (`AP car` ...); weights [S], how often each scene counts."""
    found: dict[str, float] = {}
    errors = np.full((len(CLASS_NAMES), len(ERRORS)), np.nan)
    for label, (name, matches) in enumerate(zip(CLASS_NAMES, classes, strict=True)):
        curves = [curve(matches, column, weights) for column in range(len(THRESHOLDS))]
        found[f"AP {name}"] = float(np.mean([average_precision(precision) for precision, _ in curves]))
        errors[label] = true_positive_errors(matches, curves[TP_THRESHOLD][1], weights)
        errors[label, [ERRORS.index(error) for error in _NO_ERROR.get(name, ())]] = np.nan
    mean = {name: float(value) for name, value in zip(ERRORS, np.nanmean(errors, axis=0), strict=True)}
    mean_ap = float(np.mean(list(found.values())))
    good = [max(1 - value, 0.0) for value in mean.values()]
    nds = (_MAP_WEIGHT * mean_ap + sum(good)) / (_MAP_WEIGHT + len(good))
    return {"NDS": nds, "mAP": mean_ap, **mean, **found}


def curve(matches: ClassMatches, column: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and score [101] at recalls of 0 to 1, for one distance threshold; zeros where nothing was found."""
    counted = weights[matches.scene]
    objects = weights[matches.object_scene].sum()
    kept = counted > 0
    found = matches.found[kept, column]
    if not objects or not found.any():
        return np.zeros(101), np.zeros(101)
    hits = np.cumsum(counted[kept] * found)
    recall, precision = hits / objects, hits / np.cumsum(counted[kept])
    return (
        np.interp(_RECALLS, recall, precision, right=0),
        np.interp(_RECALLS, recall, matches.score[kept], right=0),
    )


def average_precision(precision: np.ndarray) -> float:
    """Of a precision curve [101]: recalls and precisions up to 0.1 do not count."""
    above = np.maximum(precision[_FIRST:] - _MIN_PRECISION, 0)
    return float(above.mean()) / (1 - _MIN_PRECISION)


def true_positive_errors(matches: ClassMatches, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[5] mean errors over the recalls that were reached; 1 where recall stays below 0.1.

    Args:
        score: [101] at each recall, for the threshold of true positives.
    """
    reached = np.nonzero(score)[0]
    last = reached[-1] if len(reached) else 0
    if last < _FIRST:
        return np.ones(len(ERRORS))
    counted = weights[matches.scene]
    rows = matches.found[:, TP_THRESHOLD] & (counted > 0)
    errors, weight, confidence = matches.errors[rows], counted[rows][:, None], matches.score[rows]
    known = ~np.isnan(errors)
    total = np.cumsum(known * weight, axis=0)
    sums = np.cumsum(np.where(known, errors, 0.0) * weight, axis=0)
    means = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    means[:, ~known.any(axis=0)] = 1.0  # the devkit's value where an error is unknown throughout
    resampled = [np.interp(score[::-1], confidence[::-1], column[::-1])[::-1] for column in means.T]
    return np.array([column[_FIRST : last + 1].mean() for column in resampled])


def draws(scenes: int, count: int, seed: int = 0) -> np.ndarray:
    """[count, scenes] how often each scene was drawn."""
    return np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), size=count)


def intervals(matches: Matches, count: int = 200, other: Matches | None = None) -> dict[str, Interval]:
    """95 % intervals of every score; with `other`, of its difference to the other run (this one minus that one).

    Both runs are drawn alike, so that a scene that is hard for both does not count as a difference.

    Raises:
        ValueError: the other run is of other scenes.
    """
    if other is not None and other.scenes != matches.scenes:
        raise ValueError(
            f"against: the runs are of different scenes ({len(matches.scenes)} and {len(other.scenes)}); "
            "compare runs of one split"
        )
    sides = [by_class(matches)] + ([by_class(other)] if other is not None else [])

    def difference(weights: np.ndarray) -> dict[str, float]:
        values = [scores(side, weights) for side in sides]
        return values[0] if len(values) == 1 else {name: values[0][name] - values[1][name] for name in values[0]}

    once = difference(np.ones(len(matches.scenes)))
    drawn = [difference(weights) for weights in draws(len(matches.scenes), count)]
    return {
        name: Interval(value, *np.nanpercentile([one[name] for one in drawn], (2.5, 97.5)).tolist())
        for name, value in once.items()
    }
