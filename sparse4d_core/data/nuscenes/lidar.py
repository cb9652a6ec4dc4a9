"""Lidar points of nuScenes key frames, where the data set has the files. Training supervises depth with them."""

from __future__ import annotations

import numpy as np

from .dataset import NuScenesDataset
from .tables import DatasetError

_COLUMNS = 5  # x y z intensity ring, float32


class LidarFiles:
    """Points of frame i of a data set, in the model (lidar) frame."""

    def __init__(self, data: NuScenesDataset):
        self._files = {int(i): data.dataroot / str(data.index.lidar_files[i]) for i in data.keyframes}

    def __len__(self) -> int:
        """Files that exist."""
        return sum(path.is_file() for path in self._files.values())

    def __call__(self, i: int) -> np.ndarray | None:
        """[P, 5] float32: x y z (metres), intensity, ring; None where the frame has no file.

        Raises:
            DatasetError: a file that is cut off.
        """
        path = self._files.get(i)
        if path is None or not path.is_file():
            return None
        values = np.fromfile(path, dtype=np.float32)
        if values.size % _COLUMNS:
            raise DatasetError(f"{path}: {values.size} numbers are no multiple of {_COLUMNS}; the file is cut off")
        return values.reshape(-1, _COLUMNS)
