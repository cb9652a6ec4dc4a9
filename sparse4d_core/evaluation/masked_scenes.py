"""Key frames with the own vehicle taken out of the pictures, for runs over a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Sparse4DConfig
from ..data.nuscenes.dataset import NuScenesDataset
from ..ego_mask import hidden_colour, hide, read_mask
from ..types import Frame


@dataclass(frozen=True)
class MaskedScenes:
    """A plan for every scene (`keyframe_run.ScenePlan`)."""

    masks: Mapping[str, np.ndarray]  # channel -> [H, W] bool
    colour: tuple[int, int, int]  # BGR
    holds: bool = False

    @classmethod
    def read(cls, folder: Path, channels: Sequence[str], config: Sparse4DConfig) -> MaskedScenes:
        """Masks named CHANNEL.png; cameras without one are left as they are.

        Raises:
            ValueError: the folder has a mask of none of these cameras, or one that cannot be read.
        """
        files = {channel: folder / f"{channel}.png" for channel in channels}
        masks = {channel: read_mask(file) for channel, file in files.items() if file.is_file()}
        if not masks:
            raise ValueError(f"ego-masks: {folder} has none of {', '.join(file.name for file in files.values())}")
        return cls(masks, hidden_colour(config.image))

    def rows(self, data: NuScenesDataset, scene: str) -> list[int]:
        return [int(row) for row in data.scene_frames(scene) if data.index.tokens[row]]

    def frame(self, data: NuScenesDataset, scene: str, row: int) -> Frame:
        frame = data.frame(row)
        pairs = zip(frame.images, frame.camera_names, strict=True)
        return replace(frame, images=tuple(self._hidden(image, name) for image, name in pairs))

    def _hidden(self, image: np.ndarray | None, name: str) -> np.ndarray | None:
        return image if image is None or name not in self.masks else hide(image, self.masks[name], self.colour)
