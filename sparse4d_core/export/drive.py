"""The frames that an exported step is proved on: a rendered drive with everything that the memory reacts to.

Eight frames: a first one, two after the usual half second, a tenth of a second, half a second again; then another
place and a minute later (a scene break), with two more frames that build on it.
"""

from __future__ import annotations

import numpy as np

from ..config import Sparse4DConfig
from ..data.nuscenes.tables import inverse, rigid
from ..data.synthetic.cameras import NUSCENES_RIG
from ..data.synthetic.renderer import Renderer, ego_matrix
from ..data.synthetic.world import build_world
from ..types import Frame

SEED = 200_000  # neither of training's nor of scoring's scenes
DURATION = 8.0  # s
MOMENTS = ((0.5, 0), (1.0, 0), (1.5, 0), (1.6, 0), (2.1, 0), (6.0, 60), (6.5, 60), (6.7, 60))
"""Seconds of the scene, and how many more the clock shows."""


def drive(config: Sparse4DConfig, cameras: int = 6, count: int = len(MOMENTS)) -> list[Frame]:
    """The first `count` frames as the nuScenes rig's first cameras see them; beyond six they repeat."""
    rig = NUSCENES_RIG.resized(*config.image.original_wh)
    renderer = Renderer(build_world(SEED, 0, DURATION), rig)
    T_ego_from_model = rigid(rig.lidar_translation, rig.lidar_rotation)
    frames = []
    for moment, later in MOMENTS[:count]:
        T_global_from_model = ego_matrix(renderer.world.ego_pose(moment)) @ T_ego_from_model
        images, poses = [], []
        for camera in rig.cameras:
            at = moment + camera.delay
            T_global_from_cam = ego_matrix(renderer.world.ego_pose(at)) @ camera.T_ego_from_cam
            images.append(renderer.view(rig.cameras.index(camera), at).image)
            poses.append(inverse(T_global_from_cam) @ T_global_from_model)
        taken = [index % len(images) for index in range(cameras)]
        frames.append(
            Frame(
                images=tuple(images[index] for index in taken),
                intrinsics=np.stack([rig.cameras[index].intrinsic for index in taken]),
                T_cam_from_model=np.stack([poses[index] for index in taken]),
                T_global_from_model=T_global_from_model,
                stamp_ns=round((moment + later) * 1e9),
            )
        )
    return frames
