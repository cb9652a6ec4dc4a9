"""What can be told of a run without any truth: boxes and tracks a set, how long ids live, what was dropped, how long it
took. Plain numbers by name, as files of statistics and criteria have them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparse4d_core.types import CLASS_NAMES

from ..perception import set_processor, synchronizer
from .box_record import SetRecord

_CAUSES = (*synchronizer.CAUSES, *set_processor.CAUSES)
_NANOSECONDS = 1e9


def statistics(
    records: Sequence[SetRecord],
    drops: Mapping[str, int],
    step_ms: Sequence[float],
    class_names: Sequence[str] = CLASS_NAMES,
    min_score: float = 0.2,
) -> dict[str, Any]:
    """Numbers about the sets of one run, None where there is nothing to count.

    Causes and classes that did not occur are there, with 0: a bound on one of them holds, or fails.

    Args:
        records: in order of time.
        drops: cause -> images and sets that gave nothing.
        step_ms: how long each set took.
        class_names: of the model.
        min_score: boxes below do not count.
    """
    stamps = np.array([record.stamp_ns for record in records], np.int64)
    gaps = np.diff(np.sort(stamps)) / _NANOSECONDS
    dropped = {**dict.fromkeys(_CAUSES, 0), **drops}
    boxes = [int((np.asarray(record.detections.scores) >= min_score).sum()) for record in records]
    return {
        "sets": len(records),
        "seconds": float((stamps.max() - stamps.min()) / _NANOSECONDS) if len(stamps) else 0.0,
        "largest_gap_s": float(gaps.max()) if len(gaps) else None,
        "dropped": {"total": int(sum(drops.values())), **{cause: int(n) for cause, n in sorted(dropped.items())}},
        "boxes_per_set": spread(boxes),
        "boxes_by_class": _by_class(records, class_names, min_score),
        "tracks_per_set": spread([len(record.tracks.scores) for record in records]),
        "tracks": track_statistics(records),
        "step_ms": spread(step_ms),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """min, mean, median, p90, p99 and max."""
    if not len(values):
        return dict.fromkeys(("min", "mean", "median", "p90", "p99", "max"))
    array = np.asarray(values, np.float64)
    found = {"min": array.min(), "mean": array.mean(), "median": np.median(array)}
    found |= {"p90": np.percentile(array, 90), "p99": np.percentile(array, 99), "max": array.max()}
    return {name: float(value) for name, value in found.items()}


def track_statistics(records: Sequence[SetRecord]) -> dict[str, Any]:
    """How ids live: how many, how long in seconds and sets, and in how many sets they were missing in between."""
    rows = defaultdict(list)
    for position, record in enumerate(records):
        for number in [] if record.tracks.ids is None else np.asarray(record.tracks.ids).tolist():
            rows[number].append(position)
    stamps = [record.stamp_ns for record in records]
    lengths = [(stamps[seen[-1]] - stamps[seen[0]]) / _NANOSECONDS for seen in rows.values()]
    missing = [seen[-1] - seen[0] + 1 - len(seen) for seen in rows.values()]
    return {
        "count": len(rows),
        "seconds": spread(lengths),
        "sets": spread([len(seen) for seen in rows.values()]),
        "of_one_set": sum(len(seen) == 1 for seen in rows.values()),
        "interruptions": sum(missing),
    }


def _by_class(records: Sequence[SetRecord], class_names: Sequence[str], min_score: float) -> dict[str, float | None]:
    """Mean number of boxes a set."""
    counts = defaultdict(int, dict.fromkeys(class_names, 0))
    for record in records:
        found = record.detections
        for label, score in zip(np.asarray(found.labels).tolist(), np.asarray(found.scores).tolist(), strict=True):
            counts[found.class_names[label]] += score >= min_score
    return {name: count / len(records) if records else None for name, count in sorted(counts.items())}
