"""A bag with annotations ► a dataset in nuScenes format, for training and scoring on one's own rig.

    python -m sparse4d_ros.rosbag_to_nuscenes bags/campus --rig config/my_rig.yaml --out data/campus

The bag holds the rig's images, CameraInfo and TF, and annotations as vision_msgs/Detection3DArray: one message for each
annotated instant, stamped like the newest image of its set, in any frame of TF. Class hypotheses name one of
the ten detection classes or a nuScenes category; the id stays with an object over time, and no other one of its class
has it (without ids every box is an object of its own). JPEG and PNG data are copied; raw images, and compressed ones
whose `format` decides the colours (`bgr8; jpeg compressed rgb8`), are written as JPEG. Sets between annotated ones
become sweeps.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sparse4d_core.command_line import interrupted

from .bags.bag_io import BagError
from .bags.dataset_exporter import DatasetExporter
from .bags.nuscenes_messages import ANNOTATION_TOPIC
from .bags.sets import SETS_AT_ONCE
from .bags.truth import read_truth
from .perception.camera_model import DistortionPolicy
from .perception.rig import Rig, load_rig
from .perception.synchronizer import Synchronizer
from .perception.transforms import TransformError
from .units import NANOSECONDS, nanoseconds


def write_dataset(
    bag: str | Path,
    rig: Rig,
    out: Path,
    version: str,
    synchronizer: Synchronizer,
    topic: str = ANNOTATION_TOPIC,
    max_gap: float = 2.0,
    distortion: DistortionPolicy = "refuse",
) -> DatasetExporter:
    """Writes the dataset; its folder appears when it is complete. Returns the exporter with its counts.

    Args:
        synchronizer: new. One that masks keeps sets that lack cameras, to be scored: trained on is what has an image
            of each.
        topic: of the annotations.
        max_gap: seconds of silence that end a scene.
        distortion: of raw images with a lens; see `DatasetExporter`.

    Raises:
        BagError: nothing to write, or `out` exists.
        ConversionError: cameras that are not rectified or not calibrated.
        TransformError: a frame is missing. Where only the time is not covered the set is left out and counted.
    """
    if out.exists():
        raise BagError(f"out: {out} exists; choose another name")
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        truth = read_truth(bag, topic)
        if not truth.annotations:
            raise BagError(f"bag: {bag} has no annotations on {topic}; name their topic with --annotations")
        exporter = DatasetExporter(scratch / out.name, rig, truth, Path(bag).name, distortion)
        exporter.export(bag, synchronizer, nanoseconds(max_gap))
        exporter.write_tables(version)
        (scratch / out.name).replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return exporter


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.rosbag_to_nuscenes",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("bag", help="bag folder")
    parser.add_argument("--out", required=True, type=Path, help="dataset folder to create")
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: %(default)s)")
    parser.add_argument("--rig", default="", help="rig file (default: the six cameras of nuScenes)")
    parser.add_argument("--annotations", default=ANNOTATION_TOPIC, help="their topic (default: %(default)s)")
    parser.add_argument(
        "--slop", type=float, default=0.06, help="seconds between the images of a set (default: %(default)s)"
    )
    parser.add_argument(
        "--max-gap", type=float, default=2.0, help="seconds of silence that end a scene (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    for name, seconds in (("--slop", options.slop), ("--max-gap", options.max_gap)):
        if not 0 <= seconds < math.inf:
            parser.error(f"{name}: expected seconds, 0 or more, got {seconds:g}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, 130 for Ctrl-C."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated: no dataset was written"))  # unwinds, so cleans up
    try:
        rig, slop_ns = load_rig(options.rig), nanoseconds(options.slop)
        synchronizer = Synchronizer(
            rig.names, slop_ns, timeout_ns=max(slop_ns, NANOSECONDS // 4), waiting_sets=SETS_AT_ONCE
        )
        exporter = write_dataset(
            options.bag, rig, options.out, options.version, synchronizer, options.annotations, options.max_gap
        )
    except (ValueError, TransformError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return interrupted("no dataset was written")
    left_out = f"; left out {dict(exporter.skipped)}" if exporter.skipped else ""
    print(f"{options.out}: {exporter.samples} samples, {exporter.boxes} boxes{left_out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
