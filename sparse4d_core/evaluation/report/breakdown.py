"""Where a model is good and where not: objects by distance, visibility, speed and camera; how honest its scores are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...boxes import inverse
from ...data.nuscenes.dataset import NuScenesDataset
from .detection_matches import Matches, Objects

DISTANCES = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)  # m
SPEEDS = (0.0, 0.2, 2.0, 5.0, 10.0, np.inf)  # m/s
VISIBILITIES = {1: "0 to 40 %", 2: "40 to 60 %", 3: "60 to 80 %", 4: "80 to 100 %"}
CONFIDENT = 0.3  # a score that people would act on


@dataclass(frozen=True)
class Group:
    name: str
    objects: int
    found: int  # within 2 m, by a box of any score
    confident: int  # by one with a score of at least CONFIDENT
    distance_error: float | None  # m, mean over the found ones
    velocity_error: float | None  # m/s

    @property
    def recall(self) -> float | None:
        return self.found / self.objects if self.objects else None


def group(name: str, matches: Matches, rows: np.ndarray) -> Group:
    """Of the objects at these rows (indices or a mask)."""
    mask = np.zeros(len(matches.objects.label), bool)
    mask[rows] = True
    scores = matches.objects.score[mask]
    of_object = matches.boxes.object
    hits = matches.boxes.errors[(of_object >= 0) & mask[of_object]]

    def mean(column: int) -> float | None:
        known = hits[:, column][~np.isnan(hits[:, column])]
        return float(known.mean()) if len(known) else None

    found = int((~np.isnan(scores)).sum())
    return Group(name, int(mask.sum()), found, int((scores >= CONFIDENT).sum()), mean(0), mean(3))


def by_distance(matches: Matches) -> list[Group]:
    return _binned(matches, matches.objects.distance, DISTANCES, "m")


def by_speed(matches: Matches) -> list[Group]:
    return _binned(matches, matches.objects.speed, SPEEDS, "m/s")


def by_visibility(matches: Matches) -> list[Group]:
    """Groups that occur; nothing where the data set does not tell."""
    groups = [group(name, matches, matches.objects.visibility == level) for level, name in VISIBILITIES.items()]
    return [one for one in groups if one.objects]


def by_camera(matches: Matches, views: Sequence[Sequence[str]]) -> list[Group]:
    """An object counts for every camera that sees it; views [T]: the names of those cameras."""
    names = sorted({name for seen in views for name in seen})
    groups = [group(name, matches, np.array([name in seen for seen in views], bool)) for name in names]
    unseen = np.array([not seen for seen in views], bool)
    return groups + ([group("no camera", matches, unseen)] if unseen.any() else [])


def _binned(matches: Matches, values: np.ndarray, edges: Sequence[float], unit: str) -> list[Group]:
    groups = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        name = f"{low:g} to {high:g} {unit}" if np.isfinite(high) else f"above {low:g} {unit}"
        groups.append(group(name, matches, (values >= low) & (values < high)))
    return groups


def camera_views(data: NuScenesDataset, objects: Objects) -> list[tuple[str, ...]]:
    """For each object the cameras whose image its centre falls into, the one nearest to its middle first."""
    rows = {token: row for row, token in enumerate(data.index.tokens.tolist()) if token}
    sizes: dict[int, tuple[int, int]] = {}
    found = []
    for sample, centre in zip(objects.sample.tolist(), objects.centre, strict=True):
        row = rows[sample]
        model = inverse(data.index.T_global_from_model[row]) @ np.append(centre, 1.0)
        points = data.index.T_cam_from_model[row] @ model
        seen = []
        for camera, name in enumerate(data.camera_names):
            if not data.index.files[row, camera] or points[camera, 2] <= 0.1:
                continue
            if camera not in sizes:
                sizes[camera] = _size(data, row, camera)  # decodes an image
            width, height = sizes[camera]
            u, v, depth = data.index.intrinsics[row, camera] @ points[camera, :3]
            u, v = u / depth, v / depth
            if 0 <= u < width and 0 <= v < height:
                seen.append((abs(u - width / 2) / width, name))
        found.append(tuple(name for _, name in sorted(seen)))
    return found


def _size(data: NuScenesDataset, row: int, camera: int) -> tuple[int, int]:
    image = data.frame(row).images[camera]
    return image.shape[1], image.shape[0]


@dataclass(frozen=True)
class Calibration:
    """Scores in bins against how often they are right (within 2 m)."""

    score: np.ndarray  # [B] mean of the bin
    precision: np.ndarray  # [B]
    count: np.ndarray  # [B]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of score and precision over all boxes."""
        return float((np.abs(self.score - self.precision) * self.count).sum() / max(self.count.sum(), 1))


def calibration(matches: Matches, bins: int = 10) -> Calibration:
    """Over all classes, in bins of equal width; empty ones are left out."""
    score, right = matches.boxes.score, matches.boxes.object >= 0
    number = np.clip((score * bins).astype(int), 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    kept = count > 0
    mean = np.bincount(number, score, minlength=bins)[kept] / count[kept]
    return Calibration(mean, np.bincount(number, right, minlength=bins)[kept] / count[kept], count[kept])
