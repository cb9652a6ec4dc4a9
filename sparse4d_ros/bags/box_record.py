"""What was published for every set, in a file that loses no digit: JSON lines, one set a line.

The recorder writes it from the topics, the replay from the same messages before they would be sent, so two runs are
equal exactly if their records are. Boxes are in the messages' frame (`frame_id`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from sparse4d_core.types import CLASS_NAMES, Detections, Tracks

from ..perception.synced_set import Missing, SetStatus


class BoxRecordError(ValueError):
    """A record file that cannot be read."""


@dataclass(frozen=True)
class SetRecord:
    """The output for one set of images."""

    stamp_ns: int
    frame_id: str
    detections: Detections  # boxes [M, 10] float64 in `frame_id`
    tracks: Tracks
    received_ns: int = 0  # wall clock when it was complete; 0 = not received but computed
    status: SetStatus | None = None  # which cameras the set saw; None: an old record has none


def _columns(detections: Detections) -> dict[str, Any]:
    return {
        "boxes": np.asarray(detections.boxes, np.float64).tolist(),
        "scores": np.asarray(detections.scores, np.float64).tolist(),
        "labels": np.asarray(detections.labels).tolist(),
        "ids": None if detections.ids is None else np.asarray(detections.ids).tolist(),
    } | ({} if detections.class_names == CLASS_NAMES else {"class_names": detections.class_names})


def _rows(kind: type[Detections], columns: dict[str, Any]) -> Detections:
    return kind(
        np.array(columns["boxes"], np.float64).reshape(-1, 10),
        np.array(columns["scores"], np.float64),
        np.array(columns["labels"], np.int64),
        ids=None if columns["ids"] is None else np.array(columns["ids"], np.int64),
        class_names=tuple(columns.get("class_names", CLASS_NAMES)),
    )


def _fields(status: SetStatus | None) -> dict[str, Any] | None:
    if status is None:
        return None
    missing = {camera: {"reason": why.reason, "offset_ns": why.offset_ns} for camera, why in status.missing.items()}
    return {"spread_ns": status.spread_ns, "ages_ns": dict(status.ages_ns), "missing": missing}


def _status(stamp_ns: int, content: dict[str, Any] | None) -> SetStatus | None:
    if content is None:
        return None
    missing = {camera: Missing(**why) for camera, why in content["missing"].items()}
    return SetStatus(stamp_ns, content["ages_ns"], missing)


def to_line(record: SetRecord) -> str:
    """One line of JSON; Python prints the shortest decimal that gives back the same double."""
    content = {
        "stamp_ns": record.stamp_ns,
        "frame_id": record.frame_id,
        "received_ns": record.received_ns,
        "status": _fields(record.status),
        "detections": _columns(record.detections),
        "tracks": _columns(record.tracks),
    }
    return json.dumps(content, allow_nan=False)


def from_line(line: str) -> SetRecord:
    """The inverse of `to_line`."""
    content = json.loads(line)
    return SetRecord(
        content["stamp_ns"],
        content["frame_id"],
        _rows(Detections, content["detections"]),
        _rows(Tracks, content["tracks"]),
        content["received_ns"],
        _status(content["stamp_ns"], content.get("status")),
    )


class BoxRecordWriter:
    """Appends records to a file as they come."""

    def __init__(self, path: str | Path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = open(path, "w", encoding="utf-8")
        self.count = 0

    def write(self, record: SetRecord) -> None:
        self._file.write(to_line(record) + "\n")
        self._file.flush()  # a recorder that is killed loses at most the line it was writing
        self.count += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> BoxRecordWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_box_record(path: str | Path) -> Iterator[SetRecord]:
    """The records of a file, in the order in which they were written.

    Raises:
        BoxRecordError: a line is not a record; names it.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield from_line(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BoxRecordError(f"{path}, line {number}: not a record ({error}); is the file complete?") from error


def differences(first: Iterable[SetRecord], second: Iterable[SetRecord]) -> list[str]:
    """What two runs do not agree on, to the last digit; empty = identical.

    Arrival times do not count, nor why a camera is missing: images that are late in one run may be there in another.
    """
    a, b = ({record.stamp_ns: record for record in records} for records in (first, second))
    found = [f"set {stamp}: only in the first" for stamp in sorted(a.keys() - b.keys())]
    found += [f"set {stamp}: only in the second" for stamp in sorted(b.keys() - a.keys())]
    for stamp in sorted(a.keys() & b.keys()):
        if a[stamp].frame_id != b[stamp].frame_id:
            found.append(f"set {stamp}: frame {a[stamp].frame_id} and {b[stamp].frame_id}")
        if a[stamp].status and b[stamp].status and a[stamp].status.ages_ns != b[stamp].status.ages_ns:
            found.append(f"set {stamp}: of other images, {a[stamp].status.ages_ns} and {b[stamp].status.ages_ns}")
        for name in ("detections", "tracks"):
            for column in ("boxes", "scores", "labels", "ids"):
                left, right = (getattr(getattr(record, name), column) for record in (a[stamp], b[stamp]))
                if not _same(left, right):
                    found.append(f"set {stamp}: {name}.{column} differ{_largest(left, right)}")
            if getattr(a[stamp], name).names() != getattr(b[stamp], name).names():
                found.append(f"set {stamp}: {name} differ in their classes")
    return found


def _same(left: np.ndarray | None, right: np.ndarray | None) -> bool:
    return left is right if left is None or right is None else np.array_equal(left, right)


def _largest(left: np.ndarray | None, right: np.ndarray | None) -> str:
    if left is None or right is None:
        return ""
    if left.shape != right.shape:
        return f": {len(left)} and {len(right)} rows"
    return f" by up to {np.abs(left - right).max():.3g}"
