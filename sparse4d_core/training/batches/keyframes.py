"""A nuScenes data set as training sees it."""

from __future__ import annotations

import logging

import numpy as np

from ...data.nuscenes.dataset import Annotations, NuScenesDataset
from ...data.nuscenes.lidar import LidarFiles
from ...data.nuscenes.tables import DatasetError
from ...types import CLASS_NAMES, Frame

log = logging.getLogger(__name__)


class Keyframes:
    """The key frames of a data set, scene after scene, numbered from 0."""

    def __init__(self, data: NuScenesDataset):
        frames = data.keyframes
        scene, stamp = data.index.scene[frames], data.index.stamp_us[frames]
        first = {number: stamp[scene == number].min() for number in np.unique(scene)}
        self._frames = frames[np.lexsort((stamp, scene, [first[number] for number in scene]))]
        self._data = data
        starts = np.flatnonzero(np.diff(data.index.scene[self._frames], prepend=-1))
        lengths = np.diff([*starts, len(frames)])
        self.num_earlier = (np.arange(len(frames)) - np.repeat(starts, lengths)).tolist()  # in the same scene
        self.seconds = (data.index.stamp_us[self._frames] * 1e-6).tolist()
        lidar = LidarFiles(data)
        self._lidar = lidar if len(lidar) else None

    def frame(self, i: int) -> Frame:
        return self._data.frame(int(self._frames[i]))

    def annotations(self, i: int) -> Annotations:
        return self._data.annotations(int(self._frames[i]))

    def lidar_points(self, i: int) -> np.ndarray | None:
        return None if self._lidar is None else self._lidar(int(self._frames[i]))


def check_trainable(data: NuScenesDataset) -> None:
    """Refuse data that nothing can be learned from, or that would end the run somewhere on its way."""
    labels = np.concatenate([np.empty(0, np.int64), *(data.annotations(int(i)).labels for i in data.keyframes)])
    if not len(labels):
        raise DatasetError(
            f"dataroot: {data.dataroot} {data.version} has no annotation to learn from in {len(data.keyframes)} key "
            "frames (test splits are published without); choose another --version or --split"
        )
    if absent := [name for label, name in enumerate(data.classes) if label not in labels]:
        known = ", ".join(sorted(set(data.index.class_names.tolist())))
        if data.classes != CLASS_NAMES:
            raise DatasetError(
                f"class_names: {', '.join(absent)}: no annotation of {data.dataroot} {data.version} to learn from; it "
                f"has {known}"
            )
        log.warning("classes without an annotation in %s: %s", data.dataroot, ", ".join(absent))
    blind = data.index.tokens[data.keyframes][(data.index.files[data.keyframes] == "").all(axis=1)]
    if len(blind):
        raise DatasetError(
            f"dataroot: {len(blind)} key frames of {data.dataroot} {data.version} have no image of any camera, the "
            f"first is {blind[0]}"
        )
    if missing := data.missing_images():
        raise DatasetError(
            f"dataroot: {len(missing)} of {data.index.files.size} images are missing below {data.dataroot} "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); complete the data set or choose another "
            "--split"
        )
