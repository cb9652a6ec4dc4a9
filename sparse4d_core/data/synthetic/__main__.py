"""Render driving scenes and write them as a nuScenes data set.

Each scene is a function of (seed, scene index): the same arguments give the same bytes, whatever the number of workers.
The tables are complete and load with the official devkit; lidar records carry pose and calibration but no file.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from ...command_line import OK, refuse
from .annotations import KEYFRAME_RATE
from .cameras import NUSCENES_RIG
from .dataset_renderer import render_dataset


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.data.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m sparse4d_core.data.synthetic --out world --scenes 2 --seed 7 --image-size 704 396",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the new data set")
    parser.add_argument("--scenes", type=int, default=2, help="number of scenes (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="0 to 9999 for training, 100000 and up for scoring (default %(default)s)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=NUSCENES_RIG.image_wh,
        metavar=("W", "H"),
        help="pixels (default 1600 900)",
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=10,
        help="camera sets per second, a multiple of the keyframes' rate (default 10)",
    )
    parser.add_argument(
        "--keyframe-rate",
        type=int,
        default=KEYFRAME_RATE,
        help="of them with annotations; nuScenes has %(default)s (default)",
    )
    parser.add_argument("--duration", type=float, default=8.0, help="seconds per scene (default %(default)s)")
    parser.add_argument(
        "--ego-body", action="store_true", help="the own vehicle is in the pictures; its masks go to OUT/ego_masks"
    )
    parser.add_argument("--version", default="v1.0-mini", help="name of the tables' folder (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    args = parser.parse_args(arguments)
    try:
        render_dataset(
            args.out, args.scenes, args.seed, version=args.version, duration=args.duration, rate=args.rate,
            rig=NUSCENES_RIG.resized(*args.image_size), workers=args.workers, progress=True, ego_body=args.ego_body,
            keyframe_rate=args.keyframe_rate,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    return OK


if __name__ == "__main__":
    sys.exit(main())
