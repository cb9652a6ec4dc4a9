"""A record of published boxes ► nuScenes submissions, ready for the official scores.

    python -m sparse4d_ros.write_submission out/record.jsonl --bag bags/0061 --out results.json
    python -m sparse4d_core.evaluation.evaluate --dataroot data/nuscenes --results results.json --out scores

Ego poses and sample tokens come from the bag that was played.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .bags.bag_io import BagError
from .bags.box_record import BoxRecordError, read_box_record
from .bags.submission import write_results
from .perception.transforms import TransformError


def _note(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected NAME=TEXT, got {text!r}")
    return name, value


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.write_submission",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("record", help="file that box_recorder or replay wrote")
    parser.add_argument("--bag", required=True, help="the bag that was played")
    parser.add_argument("--out", required=True, help="detection results to write (nuScenes format)")
    parser.add_argument("--tracking-out", help="tracking results to write (nuScenes format)")
    parser.add_argument(
        "--note",
        action="append",
        type=_note,
        default=[],
        metavar="NAME=TEXT",
        help="kept in the results' meta; may be repeated",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used."""
    options = parse_arguments(arguments)
    try:
        records = read_box_record(options.record)
        print(write_results(records, options.bag, options.out, options.tracking_out, dict(options.note)))
    except (BagError, BoxRecordError, TransformError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
