"""Start anchors of a model, from the boxes of a data set: k-means on their centres.

Every anchor stands at a cluster's centre and has the mean size of all boxes, heading along x, at rest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree
from tqdm import tqdm

from ..atomic_write import atomic_write
from ..network.initial_anchors import RANGE
from ..types import COS_YAW, LOG_HEIGHT, LOG_LENGTH
from .nuscenes.dataset import NuScenesDataset

_ITERATIONS = 50


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
    """[num, 3] centres; those that lose all their points move to the points worst served."""
    centres = _spread_start(points, num, rng)
    for _ in tqdm(range(_ITERATIONS), unit="iteration", leave=False, disable=len(points) * num < 1e8):
        distance, nearest = cKDTree(centres).query(points)
        counts = np.bincount(nearest, minlength=num)
        sums = np.stack([np.bincount(nearest, weights=column, minlength=num) for column in points.T], axis=1)
        moved = sums / np.maximum(counts, 1)[:, None]
        empty = np.flatnonzero(counts == 0)
        moved[empty] = points[np.argsort(-distance)[: len(empty)]]
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    return moved


def _spread_start(points: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """[num, 3] points drawn by k-means++: chances grow with the squared distance to those drawn before."""
    subset = points[rng.permutation(len(points))[: 50 * num]]
    chosen = [subset[0]]
    squared = np.full(len(subset), np.inf)
    for _ in range(num - 1):
        squared = np.minimum(squared, ((subset - chosen[-1]) ** 2).sum(axis=1))
        chance = np.cumsum(squared)
        chosen.append(subset[min(int(np.searchsorted(chance, rng.random() * chance[-1], "right")), len(subset) - 1)])
    return np.array(chosen)


def dataset_boxes(dataset: NuScenesDataset) -> np.ndarray:
    """[M, 9] all boxes that the training sees, each in its own frame's model frame."""
    parts = [dataset.annotations(int(i)).boxes for i in tqdm(dataset.keyframes, unit="frame", leave=False)]
    return np.concatenate([np.zeros((0, 9)), *parts])


def main(arguments: list[str] | None = None) -> None:
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
    parser.add_argument("--num", type=int, default=900, help="number of anchors (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the clusters' start (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="file to write: float32 [num, 11] as .npy")
    args = parser.parse_args(arguments)
    try:
        boxes = np.concatenate(
            [dataset_boxes(NuScenesDataset(r, args.version, split=args.split)) for r in args.dataroot]
        )
        anchors = kmeans_anchors(boxes, args.num, args.seed)
        with atomic_write(args.out) as unfinished, unfinished.open("wb") as file:
            np.save(file, anchors)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    size = np.exp(anchors[0, LOG_LENGTH : LOG_HEIGHT + 1])
    print(f"{args.out}: {args.num} anchors from {len(boxes)} boxes, mean size {size.round(2).tolist()} m")


if __name__ == "__main__":
    main()
