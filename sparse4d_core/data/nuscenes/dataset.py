"""nuScenes, and anything written in its format (rendered scenes, recorded bags), as frames and targets.

    dataset = NuScenesDataset("data/nuscenes", "v1.0-mini", split="mini_train")
    frame, annotations = dataset[0]

The reference time of a frame is that of its lidar record, for which the boxes are annotated: `Frame.stamp_ns` is the
lidar stamp, while frames that arrive over ROS carry the stamp of their newest image, less than a millisecond before it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...types import CLASS_NAMES, Frame
from ...user_cache import user_cache
from .index import DatasetIndex, dataset_index
from .tables import DatasetError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """Objects of one keyframe, in the model (lidar) frame at the frame's stamp."""

    boxes: np.ndarray  # [M, 9] float64: x y z (centre, m), length width height (m), yaw (rad), vx vy (m/s)
    labels: np.ndarray  # [M] int64, index into the data set's classes; -1 = another class
    instance_ids: np.ndarray  # [M] int64, constant over the data set

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, rows: np.ndarray) -> Annotations:
        return Annotations(self.boxes[rows], self.labels[rows], self.instance_ids[rows])


def loaded_annotations(
    boxes: np.ndarray,
    velocity: np.ndarray,
    class_names: Sequence[str],
    num_lidar_points: np.ndarray,
    instance_ids: np.ndarray,
    unknown_velocity: float = 0.0,
    min_lidar_points: int = 1,
    classes: Sequence[str] = CLASS_NAMES,
) -> Annotations:
    """Annotations as the published models were trained with: boxes without a lidar point are dropped.

    Args:
        boxes: [n, 7] x y z, length width height, yaw.
        class_names: of the boxes.
        velocity: [n, 2] m/s, NaN = unknown.
        unknown_velocity: takes the place of NaN; 0 as in the reference, or NaN to keep it (not learned then).
        min_lidar_points: boxes with fewer are dropped.
        classes: that are to be detected; labels are positions in it.
    """
    keep = np.asarray(num_lidar_points) >= min_lidar_points
    velocity = np.where(np.isnan(velocity), unknown_velocity, velocity)
    labels = np.array([classes.index(n) if n in classes else -1 for n in class_names], dtype=np.int64)
    full = np.concatenate([boxes, velocity], axis=1)
    return Annotations(full[keep], labels[keep], np.asarray(instance_ids, dtype=np.int64)[keep])


class NuScenesDataset:
    """Frames in time order. Images are read when a frame is asked for, everything else is in memory.

    Args:
        dataroot: folder that holds `samples`, `sweeps` and the folder `version` with the tables.
        scenes: names or tokens; None = all (or those of `split`).
        split: an official split (mini_train, mini_val, train, val, test) or one of `splits.json` beside the tables.
        sweeps: also the images between keyframes (frames without annotations).
        unknown_velocity, min_lidar_points, classes: see `loaded_annotations`.
        cache: folder for the index, None = build it anew, "" = see `user_cache`. One that cannot be written to is
            named in the log, and the index is built anew.

    Raises:
        DatasetError: missing or damaged tables, unknown scenes or split; the message names them.
    """

    def __init__(
        self,
        dataroot: str | Path,
        version: str = "v1.0-mini",
        *,
        scenes: Sequence[str] | None = None,
        split: str | None = None,
        sweeps: bool = False,
        unknown_velocity: float = 0.0,
        min_lidar_points: int = 1,
        classes: Sequence[str] = CLASS_NAMES,
        cache: str | Path | None = "",
    ):
        self.dataroot = Path(dataroot)
        self.version = version
        if split is not None:
            members = split_scenes(self.dataroot, version, split)
            scenes = members if scenes is None else [scene for scene in members if scene in set(scenes)]
            if not scenes:
                raise DatasetError(f"split: {split} and the scenes asked for have no scene in common in {dataroot}")
        if cache == "" and (cache := user_cache()) is None:
            log.warning("the index of the data set is not cached (no home folder): set HOME or XDG_CACHE_HOME")
        folder = None if cache is None else Path(cache).expanduser()
        self.index: DatasetIndex = dataset_index(self.dataroot, version, scenes, sweeps, folder)
        self.unknown_velocity, self.min_lidar_points, self.classes = unknown_velocity, min_lidar_points, tuple(classes)
        self.problems = self._count_problems()
        for problem, count in self.problems.items():
            log.warning("%s %s: %d %s", self.dataroot, version, count, problem)

    def __len__(self) -> int:
        return len(self.index.tokens)

    def __getitem__(self, i: int) -> tuple[Frame, Annotations]:
        return self.frame(i), self.annotations(i)

    @property
    def camera_names(self) -> tuple[str, ...]:
        return tuple(self.index.camera_names.tolist())

    @property
    def keyframes(self) -> np.ndarray:
        """Indices of the frames that have a sample token and annotations."""
        return np.flatnonzero(self.index.tokens != "")

    def scene_frames(self, name: str) -> np.ndarray:
        """Indices of the frames of one scene, in time order."""
        matches = np.flatnonzero(self.index.scene_names == name)
        if not len(matches):
            raise DatasetError(f"scene: unknown {name!r}; this data set has {', '.join(self.index.scene_names)}")
        return np.flatnonzero(self.index.scene == matches[0])

    def frame(self, i: int, images: bool = True) -> Frame:
        """Frame i; without `images` only calibration, poses and stamps (its images are None).

        Raises:
            DatasetError: an image file is missing or is no picture.
        """
        index = self.index
        pictures = tuple(self._image(file) if images and file else None for file in index.files[i].tolist())
        return Frame(
            images=pictures,
            intrinsics=index.intrinsics[i],
            T_cam_from_model=index.T_cam_from_model[i],
            T_global_from_model=index.T_global_from_model[i],
            stamp_ns=int(index.stamp_us[i]) * 1000,
            camera_names=self.camera_names,
            token=str(index.tokens[i]),
        )

    def annotations(self, i: int) -> Annotations:
        """What is to be detected in frame i: boxes of the classes with lidar points and positive sizes."""
        index = self.index
        rows = slice(index.annotation_start[i], index.annotation_start[i + 1])
        loaded = loaded_annotations(
            index.boxes[rows],
            index.velocity[rows],
            index.class_names[rows].tolist(),
            index.num_lidar_points[rows],
            index.instance_ids[rows],
            self.unknown_velocity,
            self.min_lidar_points,
            self.classes,
        )
        return loaded.select(
            (loaded.labels >= 0) & (loaded.boxes[:, 3:6] > 0).all(axis=1) & np.isfinite(loaded.boxes[:, :7]).all(axis=1)
        )

    def missing_images(self) -> list[str]:
        """Files that the tables name and the folder does not hold; looks at every one of them."""
        return [file for file in self.index.files.ravel().tolist() if file and not (self.dataroot / file).is_file()]

    def _image(self, file: str) -> np.ndarray:
        path = self.dataroot / file
        if not path.is_file():
            raise DatasetError(f"image {file} is missing below {self.dataroot}")
        image = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
        if image is None:
            raise DatasetError(f"image {path} cannot be decoded: is the file complete?")
        return image

    def _count_problems(self) -> dict[str, int]:
        index = self.index
        learned = (index.num_lidar_points >= self.min_lidar_points) & np.isin(index.class_names, self.classes)
        scene_lengths = Counter(index.scene.tolist())
        counts = {
            "annotations with a size that is not positive (left out)": int(
                (index.boxes[:, 3:6] <= 0).any(axis=1).sum()
            ),
            "annotations without a known velocity (it counts as zero)": int(
                (np.isnan(index.velocity).any(axis=1) & learned).sum()
            ),
            "annotations that are not finite (left out)": int((~np.isfinite(index.boxes)).any(axis=1).sum()),
            "keyframes without any annotation": int((np.diff(index.annotation_start)[self.keyframes] == 0).sum()),
            "images without a record": int((index.files == "").sum()),
            "scenes of one frame": sum(count == 1 for count in scene_lengths.values()),
        }
        return {problem: count for problem, count in counts.items() if count}


def split_scenes(dataroot: Path, version: str, split: str) -> list[str]:
    """Scene names of a split that the data set holds.

    Raises:
        DatasetError: for a split that is neither official nor in `splits.json`.
    """
    from nuscenes.utils.splits import create_splits_scenes  # with it come pandas and scikit-learn: a second or more

    official = create_splits_scenes()
    path = dataroot / version / "splits.json"
    custom = json.loads(path.read_text()) if path.is_file() else {}
    if split not in official and split not in custom:
        known = ", ".join([*official, *custom])
        raise DatasetError(f"split: unknown {split!r}; expected one of {known}")
    table = dataroot / version / "scene.json"
    if not table.is_file():
        raise DatasetError(f"dataroot: table scene.json is missing in {table.parent}")
    present = {record["name"] for record in json.loads(table.read_text())}
    return [name for name in custom.get(split, official.get(split, [])) if name in present]
