"""Checks a rig file against a recording of the rig, before anything is trained or driven with it.

    python -m sparse4d_ros.check_rig my_rig.yaml --bag recording --out rig_check

Finds missing topics and transforms, frames that are no optical frames, degrees taken for radians, millimetres, swapped
cameras, stamps that disagree, and images that do not move as the camera's pose says (the vehicle must drive for that).
Writes each camera's image with the ground grid (5 m) and the horizon, and a plan of the cameras, to look at.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2

from ..bags.bag_io import BagError
from ..parameters import add_sync_slop
from ..perception.rig import RigError, load_rig
from .ground_grid import draw_checks, draw_plan
from .inspection import Inspection, inspect
from .motion import MIN_MOTION, MIN_PAIRS, MIN_POINTS

NOT_MEASURED = (
    f"not measured: fewer than {MIN_PAIRS} pairs of images with {MIN_MOTION:g} m of motion and {MIN_POINTS} points; "
    "more --sets, or a longer drive"
)


def table(inspection: Inspection) -> str:
    """A line a camera: where it is, where it looks, how well its images move."""
    motions = {motion.camera: motion for motion in inspection.motions}
    lines = [f"{'camera':<18}{'x':>7}{'y':>7}{'z':>7}{'yaw':>8}{'pitch':>7}{'roll':>7}{'view':>7}  motion"]
    for one in inspection.mountings:
        motion = motions.get(one.camera)
        measured = motion is not None and motion.pairs >= MIN_PAIRS
        fit = f"{motion.median(one.camera):.2f} px off" if measured else NOT_MEASURED
        x, y, z = one.position
        angles = f"{one.yaw:>7.1f}°{one.pitch:>6.1f}°{one.roll:>6.1f}°{one.field_of_view:>6.0f}°"
        lines.append(f"{one.camera:<18}{x:>7.2f}{y:>7.2f}{z:>7.2f}{angles}  {fit}")
    return "\n".join(lines)


def write(inspection: Inspection, out: Path, ground: float) -> None:
    """The pictures, and everything as JSON."""
    out.mkdir(parents=True, exist_ok=True)
    if inspection.views:
        draw_checks(inspection.views, ground, out)
        cv2.imwrite(str(out / "plan.png"), draw_plan(inspection.mountings))
    content = {
        "sets": inspection.sets,
        "unusable": inspection.unusable,
        "mountings": [asdict(one) for one in inspection.mountings],
        "motion_px": {m.camera: {name: m.median(name) for name in m.distances} for m in inspection.motions},
        "findings": [asdict(finding) for finding in inspection.findings],
    }
    (out / "rig.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 for a rig without a finding, 1 for one with, 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.check_rig", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rig", help="rig file, such as config/four_camera_rig.yaml")
    parser.add_argument(
        "--bag", required=True, help="recording: images, CameraInfo, /tf, /tf_static; some metres of driving"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("rig_check"), help="folder of the pictures (default: %(default)s)"
    )
    parser.add_argument("--sets", type=int, default=20, metavar="N", help="sets to look at (default: %(default)s)")
    parser.add_argument(
        "--apart", type=float, default=0.2, metavar="S", help="seconds between two (default: %(default)s)"
    )
    parser.add_argument(
        "--ground", type=float, default=0.0, metavar="Z", help="height of the ground in the base frame, m"
    )
    add_sync_slop(parser)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    if options.sets < 1:
        parser.error(f"--sets: expected at least 1, got {options.sets}")
    try:
        inspection = inspect(options.bag, load_rig(options.rig), options.sets, options.apart, options.sync_slop)
        write(inspection, options.out, options.ground)
    except (BagError, RigError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(inspection))
    for cause, count in inspection.unusable.items():
        print(f"sets passed over: {count} ({cause})")
    for finding in inspection.findings:
        print(f"! {finding}")
    verdict = f"{len(inspection.findings)} finding(s)" if inspection.findings else "nothing wrong was found"
    print(f"{inspection.sets} sets: {verdict}; look at the pictures in {options.out}")
    return 1 if inspection.findings else 0


if __name__ == "__main__":
    sys.exit(main())
