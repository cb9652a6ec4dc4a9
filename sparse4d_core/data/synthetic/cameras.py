"""The camera rig of the rendered world: nuScenes' six cameras, and any other rig one cares to describe."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..nuscenes.tables import rigid


@dataclass(frozen=True)
class CameraMount:
    """One camera on the vehicle. The optical frame has x right, y down, z forward."""

    channel: str
    translation: tuple[float, float, float]  # m, in the ego frame (x forward, y left, z up, origin on the ground)
    rotation: tuple[float, float, float, float]  # quaternion w x y z, ego from camera
    focal: float  # pixels
    principal_point: tuple[float, float]  # pixels
    delay: float  # s, exposure relative to the stamp of the set; negative = earlier

    @property
    def T_ego_from_cam(self) -> np.ndarray:  # [4, 4]
        return rigid(self.translation, self.rotation)

    @property
    def intrinsic(self) -> np.ndarray:  # [3, 3], pixels
        (cx, cy), f = self.principal_point, self.focal
        return np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Rig:
    """Cameras that fire in turn, and the lidar frame in which boxes are given."""

    cameras: tuple[CameraMount, ...]
    image_wh: tuple[int, int]  # pixels
    lidar_translation: tuple[float, float, float] = (0.9437, 0.0, 1.8402)
    lidar_rotation: tuple[float, float, float, float] = (0.707796, -0.006492, 0.010646, -0.706307)

    def resized(self, width: int, height: int) -> Rig:
        """The same rig with other images: the width decides the scale, rows are cut or added at top and bottom alike.

        Raises:
            ValueError: for images too small to show anything.
        """
        if width < 32 or height < 16:
            raise ValueError(f"image size: expected at least 32x16 pixels, got {width}x{height}")
        scale = width / self.image_wh[0]
        shift = (height - scale * self.image_wh[1]) / 2
        cameras = tuple(
            replace(
                camera,
                focal=camera.focal * scale,
                principal_point=(camera.principal_point[0] * scale, camera.principal_point[1] * scale + shift),
            )
            for camera in self.cameras
        )
        return replace(self, cameras=cameras, image_wh=(width, height))


# Figures of the nuScenes rig. Cameras fire clockwise from the front left as the lidar sweeps past them.
NUSCENES_RIG = Rig(
    cameras=tuple(
        CameraMount(channel, translation, rotation, focal, principal_point, delay)
        for channel, translation, rotation, focal, principal_point, delay in (
            ("CAM_FRONT", (1.7008, 0.0159, 1.5110), (0.499802, -0.503032, 0.499780, -0.497371),
             1266.417, (816.267, 491.507), -0.0355),
            ("CAM_FRONT_RIGHT", (1.5508, -0.4934, 1.4957), (0.206035, -0.202694, 0.682451, -0.671361),
             1260.847, (807.968, 495.334), -0.0276),
            ("CAM_FRONT_LEFT", (1.5239, 0.4946, 1.5093), (0.675727, -0.673627, 0.212140, -0.211228),
             1272.598, (826.615, 479.752), -0.0431),
            ("CAM_BACK", (0.0283, 0.0035, 1.5791), (0.503787, -0.497402, -0.494185, 0.504550),
             809.221, (829.220, 481.778), -0.0104),
            ("CAM_BACK_LEFT", (1.0357, 0.4848, 1.5910), (0.692419, -0.703162, -0.116483, 0.112033),
             1256.741, (792.113, 492.776), -0.0005),
            ("CAM_BACK_RIGHT", (1.0149, -0.4806, 1.5624), (0.122810, -0.132401, -0.700431, 0.690496),
             1259.514, (807.253, 501.196), -0.0201),
        )
    ),
    image_wh=(1600, 900),
)  # fmt: skip
