"""Boxes of a run ► nuScenes submissions, with ego poses and sample tokens of the bag.

Online and offline runs are scored through this, from the same kind of record.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.types import Detections

from ..perception.synced_set import SyncedSet
from ..perception.transforms import ExtrapolationFailed
from .bag_io import BagError
from .box_record import BoxRecordError, SetRecord
from .nuscenes_messages import GLOBAL_FRAME, SAMPLE_TOPIC
from .truth import Truth, read_truth

STAGGER_NS = 60_000_000  # between the cameras of a set, at most: the synchronizer's default

log = logging.getLogger(__name__)


Stamped = TypeVar("Stamped", SetRecord, SyncedSet)


def submissions(
    records: Iterable[SetRecord], truth: Truth, global_frame: str = GLOBAL_FRAME
) -> tuple[ResultsWriter, int]:
    """Results of every sample, and how many samples have no record or no pose (they count as empty).

    Raises:
        TransformError: the bag has no poses in the record's frame at all.
    """
    found = sets_of_samples(records, truth.samples.keys())
    writer, missing = ResultsWriter(), 0
    for stamp_ns, sample in truth.samples.items():
        detections, tracks, pose = Detections([], [], []), None, np.eye(4)
        record = found.get(stamp_ns)
        if record is None:
            missing += 1
        else:
            try:
                pose = truth.buffer.lookup(global_frame, record.frame_id, record.stamp_ns).matrix
                detections, tracks = record.detections, record.tracks
            except ExtrapolationFailed as error:
                missing += 1
                log.warning("sample %s counts as empty: %s", sample["token"], error)
        writer.add(sample["token"], detections, tracks, pose)
    return writer, missing


def sets_of_samples(sets: Iterable[Stamped], samples: Collection[int]) -> dict[int, Stamped]:
    """Stamp of a sample -> its set, or the record of it. A sample has the stamp of its newest image, and so has its
    set, or an older one where the cameras that fire last were missing."""
    found: dict[int, Stamped] = {}
    older: dict[int, Stamped] = {}
    for one in sets:
        if one.stamp_ns in samples:
            found[one.stamp_ns] = one
        elif one.status is not None and one.status.missing:
            older[one.stamp_ns] = one
    stamps = sorted(older)
    for stamp_ns in set(samples) - found.keys():
        before = bisect.bisect(stamps, stamp_ns) - 1
        if before >= 0 and stamp_ns - stamps[before] <= STAGGER_NS:
            found[stamp_ns] = older[stamps[before]]
    return found


def write_results(
    records: Iterable[SetRecord],
    bag: str | Path,
    out: str | Path | None,
    tracking_out: str | Path | None,
    notes: dict[str, str] | None = None,
) -> str:
    """Writes the submissions asked for; returns a sentence about how many samples have results.

    Args:
        records: boxes by set; those that are of no sample are not kept.
        bag: as nuscenes_to_rosbag wrote it.
        out: detection results to write; None writes none.
        tracking_out: tracking results to write; None writes none.
        notes: go into the submissions' meta.

    Raises:
        BagError: the bag has no samples.
        BoxRecordError: a tracking submission of a record without ids.
        TransformError: see `submissions`.
    """
    truth = read_truth(bag, annotation_topic=None)
    if not truth.samples:
        raise BagError(f"bag: {bag} has no {SAMPLE_TOPIC}; only bags of nuscenes_to_rosbag can be scored")
    scored = list(sets_of_samples(records, truth.samples.keys()).values())
    if tracking_out and scored and not have_ids(scored):
        raise BoxRecordError(
            "tracking-out: the record has detections without ids (a model of v1 or v2): nothing to track"
        )
    writer, missing = submissions(scored, truth)
    writer.notes = dict(notes or {})
    if out:
        writer.write_detection(out)
    if tracking_out:
        writer.write_tracking(tracking_out)
    return f"{len(truth.samples) - missing} of {len(truth.samples)} samples have results"


def have_ids(records: Sequence[SetRecord]) -> bool:
    """Whether the model gives ids. A set without boxes looks as if it did, so it counts only where all are such."""
    told = [record for record in records if len(record.detections.scores)] or records
    return any(record.detections.ids is not None or len(record.tracks.scores) > 0 for record in told)
