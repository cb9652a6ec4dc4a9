"""Tracks: detections that are confident enough, under the id that their instance keeps over time.

There is no association step and no life-cycle rule: an instance is a track as long as the temporal memory carries it.

Source: Sparse4D v3, section 3.4 (extend to tracking).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..types import Detections, Tracks


def track(detections: Detections, threshold: float = 0.2) -> Tracks:
    """The rows above the tracking threshold; none for a model without instance ids.

    The threshold is put to `class_scores` where there are any, row by row as they stand, which is what published
    results are made with: `class_scores` come in their own order, so the *number* of rows follows the class scores and
    the rows kept are the first ones, those of the best fused scores.
    """
    if detections.ids is None:
        columns = (column[:0] for column in (detections.boxes, detections.scores, detections.labels))
        return Tracks(*columns, ids=np.empty(0, np.int64), class_names=detections.class_names)
    rows = tracked_rows(detections, threshold)
    return Tracks(
        detections.boxes[rows],
        detections.scores[rows],
        detections.labels[rows],
        None if detections.class_scores is None else detections.class_scores[rows],
        detections.ids[rows],
        detections.class_names,
    )


def tracked_rows(detections: Detections, threshold: float) -> np.ndarray:
    """[M] bool: the boxes that are tracks."""
    return confident_rows(detections, threshold) & (detections.ids >= 0)


def confident_rows(detections: Detections, threshold: float) -> np.ndarray:
    """[M] bool: the boxes above the tracking threshold, with an id or not; see `track` for the scores that count."""
    confident = detections.class_scores if detections.class_scores is not None else detections.scores
    return confident >= threshold


def worth_showing(detections: Detections, tracks: Tracks, threshold: float = 0.2) -> Detections:
    """What a picture shows: the tracks; of a model without instance ids the detections with at least that score."""
    if detections.ids is not None or len(tracks.scores):
        return tracks
    return filter_by_score(detections, threshold)


def filter_by_score(detections: Detections, min_score: float) -> Detections:
    """The detections with at least this score."""
    if min_score <= 0:
        return detections
    keep = np.asarray(detections.scores) >= min_score
    ids = None if detections.ids is None else detections.ids[keep]
    return replace(
        detections,
        boxes=detections.boxes[keep],
        scores=detections.scores[keep],
        labels=detections.labels[keep],
        class_scores=None,
        ids=ids,
    )
