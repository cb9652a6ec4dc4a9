"""Scores of a run against the annotations of its bag: the bag becomes a data set, the record a submission."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparse4d_core.evaluation.devkit_scores import evaluate
from sparse4d_core.types import Detections, Tracks

from ..perception.rig import Rig
from ..units import MICROSECOND
from .box_record import SetRecord
from .submission import have_ids, sets_of_samples, submissions
from .truth import Truth

VERSION = "v1.0-mini"


def score(records: Sequence[SetRecord], truth: Truth, rig: Rig, dataset: Path, out: Path) -> dict[str, Any]:
    """NDS, AMOTA (of a record with ids) and the rest, as `evaluate` has them; writes submissions and the devkit's
    summaries to `out`.

    Args:
        truth: of the bag.
        dataset: the bag as a data set, from `rosbag_to_nuscenes`.

    Raises:
        TransformError: see `submissions`.
        DatasetError, ValueError: see `evaluate`.
    """
    known = replace(truth, samples=_samples(truth, dataset))
    missing = known.samples.keys() - sets_of_samples(records, known.samples.keys()).keys()
    empty = [_empty(stamp, rig.frames.base_frame) for stamp in missing]
    writer, _ = submissions([*records, *empty], known, rig.frames.global_frame)
    has_ids = have_ids(records)
    files = out / "results.json", out / "tracking.json"
    writer.write_detection(files[0])
    if has_ids:
        writer.write_tracking(files[1])
    scores = evaluate(dataset, VERSION, files[0], files[1] if has_ids else None, out, processes=1)
    names = ("detection", "tracking") if has_ids else ("detection",)
    return {name: part for name, part in asdict(scores).items() if name in names}


def _samples(truth: Truth, dataset: Path) -> dict[int, dict[str, Any]]:
    """Stamp -> sample of every annotated set that the data set has; a bag from a vehicle names none itself."""
    table = json.loads((dataset / VERSION / "sample.json").read_text())
    tokens = {sample["timestamp"]: sample["token"] for sample in table}
    found = {}
    for stamp in truth.annotations:
        named = truth.samples.get(stamp, {"timestamp": stamp // MICROSECOND})
        if named["timestamp"] in tokens:
            found[stamp] = {"token": tokens[named["timestamp"]]}
    return found


def _empty(stamp_ns: int, frame: str) -> SetRecord:
    """What a set that gave nothing counts as."""
    columns = np.empty((0, 10)), np.empty(0), np.empty(0, np.int64)
    return SetRecord(stamp_ns, frame, Detections(*columns), Tracks(*columns, ids=np.empty(0, np.int64)))
