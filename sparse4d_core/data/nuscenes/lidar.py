"""Lidar points of nuScenes key frames, where the data set has the files. Training supervises depth with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .dataset import NuScenesDataset
from .tables import MODEL_CHANNEL, DatasetError, load_scenes

_COLUMNS = 5  # x y z intensity ring, float32


class LidarFiles:
    """Points of frame i of a data set, in the model (lidar) frame."""

    def __init__(self, data: NuScenesDataset):
        tables = load_scenes(data.dataroot, data.version, data.index.scene_names.tolist())
        self._files: dict[str, Path] = {}
        for token, records in tables.sample_data.items():
            for record in records:
                if record["is_key_frame"] and tables.channel(record) == MODEL_CHANNEL:
                    self._files[token] = data.dataroot / record["filename"]
        self._tokens = data.index.tokens

    def __len__(self) -> int:
        """Files that exist."""
        return sum(path.is_file() for path in self._files.values())

    def __call__(self, i: int) -> np.ndarray | None:
        """[P, 5] float32: x y z (metres), intensity, ring; None where the frame has no file.

        Raises:
            DatasetError: a file that is cut off.
        """
        path = self._files.get(str(self._tokens[i]))
        if path is None or not path.is_file():
            return None
        values = np.fromfile(path, dtype=np.float32)
        if values.size % _COLUMNS:
            raise DatasetError(f"{path}: {values.size} numbers are no multiple of {_COLUMNS}; the file is cut off")
        return values.reshape(-1, _COLUMNS)
