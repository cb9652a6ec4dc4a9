"""Score nuScenes submissions with the official devkit: detection (NDS, mAP) and tracking (AMOTA, AMOTP, IDS).

Any scenes of any data set in nuScenes format can be scored, whole splits and single scenes alike. Neither lidar files
nor maps need be there. Samples of these scenes for which the submission holds nothing count as samples without
detections; how many there were is part of the scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command_line import OK, refuse
from ..data.nuscenes.dataset import split_scenes
from .devkit_scores import Scores, evaluate


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.evaluation.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m sparse4d_core.evaluation.evaluate --dataroot data/nuscenes --version v1.0-mini "
        "--results out/results.json --tracking out/tracking.json --out out/scores",
    )
    parser.add_argument("--dataroot", type=Path, required=True, help="data set in nuScenes format")
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default %(default)s)")
    parser.add_argument("--results", type=Path, required=True, help="detection submission (JSON)")
    parser.add_argument("--tracking", type=Path, help="tracking submission (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics.json and the devkit's summaries")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="of the tracking evaluation, a class each (default: one a core)"
    )
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a report to read in a browser")
    parser.add_argument(
        "--against", type=Path, metavar="RESULTS.json", help="another run to compare with in the report"
    )
    parser.add_argument("--measured", type=Path, metavar="FILE.json", help="drops and times of a bag, for the report")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--scenes", nargs="+", help="scene names or tokens (default: the scenes that the results hold)")
    chosen.add_argument("--split", help="an official split, or one of the data set's splits.json")
    args = parser.parse_args(arguments)
    if (args.against or args.measured) and not args.report:
        parser.error("--against and --measured are for the report: add --report FILE.html")
    try:
        scenes = split_scenes(args.dataroot, args.version, args.split) if args.split else args.scenes
        scores = evaluate(
            args.dataroot, args.version, args.results, args.tracking, args.out, scenes, args.processes, progress=True
        )
        if args.report:
            _write_report(args, scores)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    print(scores.table())
    return OK


def _write_report(args: argparse.Namespace, scores: Scores) -> None:
    from .report.written_report import write_report  # loads matplotlib

    measured = json.loads(args.measured.read_text()) if args.measured else None
    details = args.out / "tracking" / "metrics_details.json" if args.tracking else None
    write_report(
        args.report, args.dataroot, args.version, args.results, scores, details, args.against, measured=measured
    )


if __name__ == "__main__":
    sys.exit(main())
