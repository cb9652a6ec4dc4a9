"""Which box found which object, as flat arrays: the devkit's boxes and its matching, kept instead of averaged away.

The devkit loads and filters the boxes (ranges, lidar points, bicycle racks). Matching is its rule: boxes of a class by
falling score, each takes the nearest object of its sample that is still free, if the distance is below the threshold.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.utils import attr_acc, center_distance, scale_iou, velocity_l2, yaw_diff
from nuscenes.eval.detection.evaluate import DetectionEval

from ...atomic_write import write_json
from ...data.nuscenes.tables import SceneTables, load_scenes
from ...types import CLASS_NAMES
from ..devkit_scores import SPLIT, evaluation_view, quiet, read_submission

THRESHOLDS = (0.5, 1.0, 2.0, 4.0)  # m
TP_THRESHOLD = 2  # index: true positives and their errors are those within 2 m
ERRORS = ("mATE", "mASE", "mAOE", "mAVE", "mAAE")


@dataclass(frozen=True)
class Objects:
    """T annotated objects that count, in any order."""

    token: np.ndarray  # [T] str, of the annotation
    sample: np.ndarray  # [T] str
    scene: np.ndarray  # [T] int, index into Matches.scenes
    label: np.ndarray  # [T] int, index into CLASS_NAMES
    centre: np.ndarray  # [T, 3] m, global
    size: np.ndarray  # [T, 3] m: width, length, height
    rotation: np.ndarray  # [T, 4] w x y z, global
    distance: np.ndarray  # [T] m from the ego vehicle
    speed: np.ndarray  # [T] m/s, NaN = unknown
    visibility: np.ndarray  # [T] int 1 to 4 (least to most of it visible), 0 = unknown
    score: np.ndarray  # [T] of the box that found it within 2 m, NaN = missed


@dataclass(frozen=True)
class Boxes:
    """D detections, class by class, in the order in which the devkit lets them choose."""

    sample: np.ndarray  # [D] str
    scene: np.ndarray  # [D] int
    label: np.ndarray  # [D] int
    centre: np.ndarray  # [D, 3] m, global
    size: np.ndarray  # [D, 3] m: width, length, height
    rotation: np.ndarray  # [D, 4] w x y z, global
    distance: np.ndarray  # [D] m
    speed: np.ndarray  # [D] m/s
    score: np.ndarray  # [D]
    found: np.ndarray  # [D, 4] bool, one column a threshold
    object: np.ndarray  # [D] row of the object found within 2 m, -1 = none
    errors: np.ndarray  # [D, 5] as ERRORS, NaN where nothing was found within 2 m


@dataclass(frozen=True)
class Matches:
    scenes: tuple[str, ...]
    objects: Objects
    boxes: Boxes


def collect(dataroot: Path, version: str, results: Path, scenes: Sequence[str]) -> Matches:
    """Matches of a detection submission for whole scenes; samples that it lacks count as empty.

    Raises:
        DatasetError, ValueError: as `evaluate` raises them.
    """
    tables = load_scenes(dataroot, version, scenes)
    submission = read_submission(results)
    tokens = [sample["token"] for scene in tables.scenes for sample in tables.samples[scene["token"]]]
    with tempfile.TemporaryDirectory() as scratch, quiet():
        view = evaluation_view(dataroot.resolve(), version, [scene["name"] for scene in tables.scenes], Path(scratch))
        boxes = {token: submission["results"].get(token, []) for token in tokens}
        write_json(view / "submission.json", {"meta": submission["meta"], "results": boxes})
        devkit = _loaded(view, version, any(boxes.values()))
    return _match(tables, devkit.gt_boxes, devkit.pred_boxes)


def _loaded(view: Path, version: str, any_box: bool) -> Any:
    if not any_box:
        raise ValueError("results: no box at all; there is nothing to report")
    dataset = NuScenes(version, str(view), verbose=False)
    config = config_factory("detection_cvpr_2019")
    return DetectionEval(dataset, config, str(view / "submission.json"), SPLIT, str(view / "unused"), verbose=False)


def _match(tables: SceneTables, truth: Any, predicted: Any) -> Matches:
    scene_of = {
        sample["token"]: number
        for number, scene in enumerate(tables.scenes)
        for sample in tables.samples[scene["token"]]
    }
    annotations = {
        _place(sample, record["translation"], record["size"]): record
        for sample, records in tables.annotations.items()
        for record in records
    }
    objects = [box for sample in truth.sample_tokens for box in truth[sample]]
    found_score = np.full(len(objects), np.nan)
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)  # (sample, class) -> rows of objects
    for row, box in enumerate(objects):
        rows[box.sample_token, box.detection_name].append(row)
    boxes, found, object_of, errors = [], [], [], []
    for name in CLASS_NAMES:
        of_class = [box for box in predicted.all if box.detection_name == name]
        order = sorted(range(len(of_class)), key=lambda i: (of_class[i].detection_score, i), reverse=True)
        of_class = [of_class[i] for i in order]
        hit, taken_row = _choose(of_class, objects, rows, name)
        for box, row in zip(of_class, taken_row[:, TP_THRESHOLD].tolist(), strict=True):
            errors.append(_errors(objects[row], box, name) if row >= 0 else [np.nan] * len(ERRORS))
            if row >= 0:
                found_score[row] = box.detection_score
        boxes += of_class
        found.append(hit)
        object_of.append(taken_row[:, TP_THRESHOLD])
    return Matches(
        tuple(scene["name"] for scene in tables.scenes),
        _objects(objects, scene_of, annotations, found_score),
        Boxes(
            **_columns(boxes, scene_of),
            score=np.array([box.detection_score for box in boxes], np.float64),
            found=np.concatenate(found).reshape(-1, len(THRESHOLDS)),
            object=np.concatenate(object_of).astype(np.int64),
            errors=np.array(errors, np.float64).reshape(-1, len(ERRORS)),
        ),
    )


def _choose(
    boxes: list[Any], objects: list[Any], rows: dict[tuple[str, str], list[int]], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in the order of choice -> [D, 4] whether each found an object, and [D, 4] its row (-1: none)."""
    row_of = np.full((len(boxes), len(THRESHOLDS)), -1, np.int64)
    free: dict[tuple[str, int], np.ndarray] = {}
    for number, box in enumerate(boxes):
        candidates = rows.get((box.sample_token, name))
        if not candidates:
            continue
        distances = np.array([center_distance(objects[row], box) for row in candidates])
        for column, threshold in enumerate(THRESHOLDS):
            mask = free.setdefault((box.sample_token, column), np.ones(len(candidates), bool))
            nearest = int(np.where(mask, distances, np.inf).argmin())
            if mask[nearest] and distances[nearest] < threshold:
                mask[nearest] = False
                row_of[number, column] = candidates[nearest]
    return row_of >= 0, row_of


def _errors(truth: Any, box: Any, name: str) -> list[float]:
    period = np.pi if name == "barrier" else 2 * np.pi
    return [
        center_distance(truth, box), 1 - scale_iou(truth, box), yaw_diff(truth, box, period=period),
        velocity_l2(truth, box), 1 - attr_acc(truth, box),
    ]  # fmt: skip


def _columns(boxes: list[Any], scene_of: dict[str, int]) -> dict[str, np.ndarray]:
    """What objects and detections have in common."""
    return {
        "sample": np.array([box.sample_token for box in boxes], str),
        "scene": np.array([scene_of[box.sample_token] for box in boxes], np.int64),
        "label": np.array([CLASS_NAMES.index(box.detection_name) for box in boxes], np.int64),
        "centre": np.array([box.translation for box in boxes], np.float64).reshape(-1, 3),
        "size": np.array([box.size for box in boxes], np.float64).reshape(-1, 3),
        "rotation": np.array([box.rotation for box in boxes], np.float64).reshape(-1, 4),
        "distance": np.array([box.ego_dist for box in boxes], np.float64),
        "speed": np.linalg.norm(np.array([box.velocity for box in boxes], np.float64).reshape(-1, 2), axis=1),
    }


def _place(sample: str, translation: Sequence[float], size: Sequence[float]) -> tuple:
    """By which an annotation is known again: the devkit's boxes have lost its token."""
    return (sample, *map(float, translation), *map(float, size))


def _objects(
    objects: list[Any], scene_of: dict[str, int], annotations: dict[tuple, dict], score: np.ndarray
) -> Objects:
    records = [annotations[_place(box.sample_token, box.translation, box.size)] for box in objects]
    visibility = [record.get("visibility_token", "") for record in records]
    return Objects(
        **_columns(objects, scene_of),
        token=np.array([record["token"] for record in records], str),
        visibility=np.array([int(v) if str(v).isdigit() else 0 for v in visibility], np.int64),
        score=score,
    )
