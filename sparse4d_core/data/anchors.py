"""Start anchors of a model, from the boxes of a data set: k-means on their centres.

Every anchor stands at a cluster's centre and has the mean size of all boxes, heading along x, at rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.cluster.vq import kmeans2
from tqdm import tqdm

from ..atomic_write import atomic_write
from ..command_line import OK, refuse
from ..network.initial_anchors import RANGE
from ..types import CLASS_NAMES, COS_YAW, LOG_HEIGHT, LOG_LENGTH
from .nuscenes.dataset import NuScenesDataset

_ITERATIONS = 50
_START_POINTS = 10  # per anchor


def kmeans_anchors(boxes: np.ndarray, num: int, seed: int = 0, max_distance: float = RANGE) -> np.ndarray:
    """Anchor states [num, 11] float32: x y z, log(length width height), sin yaw, cos yaw, vx vy vz.

    Args:
        boxes: [M, 9 or more] x y z, length width height, ...; model frame, metres.
        seed: of the k-means++ start.
        max_distance: metres, of the centre in space; boxes beyond are not used.

    Raises:
        ValueError: fewer boxes within `max_distance` than anchors.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    near = boxes[np.linalg.norm(boxes[:, :3], axis=1) <= max_distance]
    if len(np.unique(near[:, :3], axis=0)) < num:
        raise ValueError(
            f"boxes: {len(near)} lie within {max_distance:g} m; expected at least {num} different ones, one per anchor"
        )
    anchors = np.zeros((num, 11), dtype=np.float64)
    anchors[:, :3] = _kmeans(near[:, :3], num, np.random.default_rng(seed))
    anchors[:, LOG_LENGTH : LOG_HEIGHT + 1] = np.log(near[:, 3:6].mean(axis=0))
    anchors[:, COS_YAW] = 1.0
    return anchors.astype(np.float32)


def _kmeans(points: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """[num, 3] centres of k-means from a k-means++ start.

    The start is drawn from a part of the points: it compares every point with every centre drawn so far, which would
    take hours and gigabytes for a whole data set.
    """
    distinct = np.unique(points, axis=0)
    part = distinct[rng.permutation(len(distinct))[: _START_POINTS * num]]
    start, _ = kmeans2(part, num, iter=1, minit="++", seed=rng)  # `rng` since scipy 1.15, which takes both names
    centres, _ = kmeans2(points, start, iter=_ITERATIONS, minit="matrix")
    return centres


def dataset_boxes(dataset: NuScenesDataset) -> np.ndarray:
    """[M, 9] all boxes of the data set's classes, each in its own frame's model frame."""
    parts = [dataset.annotations(int(i)).boxes for i in tqdm(dataset.keyframes, unit="frame", leave=False)]
    return np.concatenate([np.zeros((0, 9)), *parts])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.data.anchors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m sparse4d_core.data.anchors --dataroot data/nuscenes --version v1.0-trainval "
        "--split train --num 900 --out anchors.npy",
    )
    parser.add_argument("--dataroot", type=Path, required=True, nargs="+", help="data sets in nuScenes format")
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default %(default)s)")
    parser.add_argument("--split", help="use only this split's scenes (default: all)")
    parser.add_argument(
        "--classes", nargs="+", default=CLASS_NAMES, metavar="NAME", help="of the model (default: nuScenes' ten)"
    )
    parser.add_argument("--num", type=int, default=900, help="number of anchors (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the clusters' start (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="file to write: float32 [num, 11] as .npy")
    args = parser.parse_args(arguments)
    try:
        boxes = np.concatenate(
            [
                dataset_boxes(NuScenesDataset(root, args.version, split=args.split, classes=args.classes))
                for root in args.dataroot
            ]
        )
        anchors = kmeans_anchors(boxes, args.num, args.seed)
        with atomic_write(args.out) as unfinished, unfinished.open("wb") as file:
            np.save(file, anchors)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    size = np.exp(anchors[0, LOG_LENGTH : LOG_HEIGHT + 1])
    print(f"{args.out}: {args.num} anchors from {len(boxes)} boxes, mean size {size.round(2).tolist()} m")
    return OK


if __name__ == "__main__":
    sys.exit(main())
