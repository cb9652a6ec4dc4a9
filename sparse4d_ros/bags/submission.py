"""A record of published boxes ► nuScenes submissions, with ego poses and sample tokens of the bag.

    python -m sparse4d_ros.bags.submission out/record.jsonl --bag bags/0061 --out results.json

Online and offline runs are scored through this one function, from the same kind of record.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.types import Detections

from ..messages.outgoing import insert_transforms
from ..perception.transforms import TransformBuffer
from .bag_io import BagError, read_messages
from .box_record import RecordError, SetRecord, read_record
from .nuscenes_messages import GLOBAL_FRAME, SAMPLE_TOPIC

ALL_TIME = 1e9  # s; keep every transform of the bag


@dataclass(frozen=True)
class Truth:
    """What a bag knows about its samples."""

    samples: dict[int, str]  # stamp of the set in nanoseconds -> sample token
    buffer: TransformBuffer  # all transforms of the bag


def read_truth(bag: str | Path) -> Truth:
    """Sample tokens and transforms of a bag that nuscenes_to_rosbag wrote.

    Raises:
        BagError: the bag has no samples.
    """
    samples: dict[int, str] = {}
    buffer = TransformBuffer(ALL_TIME)
    for topic, _, message in read_messages(bag, ("/tf", "/tf_static", SAMPLE_TOPIC)):
        if topic == SAMPLE_TOPIC:
            sample = json.loads(message.data)
            samples[sample["stamp_ns"]] = sample["token"]
        else:
            insert_transforms(buffer, message, static=topic == "/tf_static")
    if not samples:
        raise BagError(f"bag: {bag} has no {SAMPLE_TOPIC}; only bags of nuscenes_to_rosbag can be scored")
    return Truth(samples, buffer)


def submissions(
    records: Iterable[SetRecord], truth: Truth, global_frame: str = GLOBAL_FRAME
) -> tuple[ResultsWriter, int]:
    """Results of every sample, and how many samples have no record (they count as empty).

    Raises:
        TransformError: no pose at the stamp of a sample.
    """
    by_stamp = {record.stamp_ns: record for record in records if record.stamp_ns in truth.samples}
    writer, empty = ResultsWriter(), Detections([], [], [])
    for stamp_ns, token in truth.samples.items():
        record = by_stamp.get(stamp_ns)
        frame = "base_link" if record is None else record.frame_id
        pose = truth.buffer.lookup(global_frame, frame, stamp_ns).matrix
        if record is None:
            writer.add(token, empty, None, pose)
        else:
            writer.add(token, record.detections, record.tracks, pose)
    return writer, len(truth.samples) - len(by_stamp)


def write_results(
    records: Iterable[SetRecord],
    bag: str | Path,
    out: str | Path | None,
    tracking_out: str | Path | None,
    notes: dict[str, str] | None = None,
) -> str:
    """Write the submissions asked for; returns a sentence about what was scored.

    Args:
        notes: goes into the submissions' meta.

    Raises:
        RecordError: a tracking submission of a record without ids.
    """
    records = list(records)
    if tracking_out and records and all(_without_ids(record) for record in records):
        raise RecordError("tracking-out: the record has detections without ids (a model of v1 or v2): nothing to track")
    truth = read_truth(bag)
    writer, missing = submissions(records, truth)
    writer.notes = dict(notes or {})
    if out:
        writer.write_detection(out)
    if tracking_out:
        writer.write_tracking(tracking_out)
    return f"{len(truth.samples) - missing} of {len(truth.samples)} samples have results"


def _without_ids(record: SetRecord) -> bool:
    return record.detections.ids is None and len(record.tracks.scores) == 0


def _note(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise RecordError(f"note: expected NAME=TEXT, got {text!r}")
    return name, value


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.bags.submission",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("record", help="file that the recorder or the replay wrote")
    parser.add_argument("--bag", required=True, help="the bag that was played")
    parser.add_argument("--out", required=True, help="detection results to write (nuScenes format)")
    parser.add_argument("--tracking-out", help="tracking results to write (nuScenes format)")
    parser.add_argument(
        "--note", action="append", default=[], metavar="NAME=TEXT", help="kept in the results' meta; may be repeated"
    )
    arguments = parser.parse_args(argv)
    try:
        notes = dict(_note(text) for text in arguments.note)
        records = read_record(arguments.record)
        print(write_results(records, arguments.bag, arguments.out, arguments.tracking_out, notes))
    except (BagError, RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
