"""The frames that an exported step is proved on: a rendered drive with everything that the memory reacts to.

Eight frames: a first one, two after the usual half second, a tenth of a second, half a second again; then another
place and a minute later (a scene break), with two more frames that build on it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from ..boxes import inverse
from ..config import Sparse4DConfig
from ..data.nuscenes.tables import rigid
from ..data.synthetic.cameras import NUSCENES_RIG
from ..data.synthetic.renderer import Renderer, ego_matrix
from ..data.synthetic.world import build_world
from ..types import Frame

SEED = 200_000  # neither of training's nor of scoring's scenes
DURATION = 8.0  # s
MOMENTS = ((0.5, 0), (1.0, 0), (1.5, 0), (1.6, 0), (2.1, 0), (6.0, 60), (6.5, 60), (6.7, 60))
"""Seconds of the scene, and how many more the clock shows."""


def drive(config: Sparse4DConfig, cameras: int = 6, count: int = len(MOMENTS), repeated: bool = True) -> list[Frame]:
    """The first `count` frames as the nuScenes rig's first cameras see them. Those beyond six repeat them; where views
    are not to be `repeated`, the cameras that stand for the same one give their images in turn."""
    ring = len(NUSCENES_RIG.cameras)
    chosen = [number % ring for number in range(cameras)]
    frames = [_rendered(config.image.original_wh, number) for number in range(count)]
    return [
        replace(
            frame,
            images=tuple(
                frame.images[i] if repeated or number % chosen.count(i) == place // ring else None
                for place, i in enumerate(chosen)
            ),
            intrinsics=frame.intrinsics[chosen],
            T_cam_from_model=frame.T_cam_from_model[chosen],
        )
        for number, frame in enumerate(frames)
    ]


@lru_cache(len(MOMENTS))
def _rendered(image_wh: tuple[int, int], number: int) -> Frame:
    """Frame `number` in all six cameras."""
    renderer = _renderer(image_wh)
    rig, (moment, later) = renderer.rig, MOMENTS[number]
    T_global_from_model = _pose(renderer, moment) @ rigid(rig.lidar_translation, rig.lidar_rotation)
    poses = [_pose(renderer, moment + camera.delay) @ camera.T_ego_from_cam for camera in rig.cameras]
    return Frame(
        images=tuple(renderer.view(i, moment + camera.delay).image for i, camera in enumerate(rig.cameras)),
        intrinsics=np.stack([camera.intrinsic for camera in rig.cameras]),
        T_cam_from_model=np.stack([inverse(T_global_from_cam) @ T_global_from_model for T_global_from_cam in poses]),
        T_global_from_model=T_global_from_model,
        stamp_ns=round((moment + later) * 1e9),
    )


@lru_cache(1)
def _renderer(image_wh: tuple[int, int]) -> Renderer:
    return Renderer(build_world(SEED, 0, DURATION), NUSCENES_RIG.resized(*image_wh))


def _pose(renderer: Renderer, seconds: float) -> np.ndarray:
    """[4, 4] global from ego."""
    return ego_matrix(renderer.world.ego_pose(seconds))
