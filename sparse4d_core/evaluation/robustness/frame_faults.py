"""What can be wrong with a frame: its images, its cameras, its calibration, its stamps, its pose.

A fault changes one frame and nothing else. What it draws depends on its name, the scene, the camera and, where it
changes from frame to frame, the stamp: the same in every run, in any order, in any process.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from ...boxes import inverse
from ...data.nuscenes.dataset import NuScenesDataset
from ...types import Frame
from .corruptions import CORRUPTIONS


@dataclass(frozen=True)
class Instant:
    """Where a frame stands, for faults that need more than the frame."""

    data: NuScenesDataset
    scene: str
    stamp_ns: int

    def random(self, name: str, camera: int = 0, every_frame: bool = True) -> np.random.Generator:
        """Random numbers for one camera, new for each frame or the same throughout the scene."""
        words = [zlib.crc32(name.encode()), zlib.crc32(self.scene.encode()), camera]
        return np.random.default_rng(words + ([self.stamp_ns % 2**63] if every_frame else []))

    def motion(self, seconds: float) -> np.ndarray:
        """[4, 4] by which the vehicle moves, in the global frame, in so many seconds from this frame on.

        Between the poses of the scene's frames; beyond its ends as it moved there.
        """
        index, rows = self.data.index, self.data.scene_frames(self.scene)
        stamps, first = np.unique(index.stamp_us[rows], return_index=True)
        if len(stamps) < 2:
            return np.eye(4)
        times = (stamps - self.stamp_ns // 1000) * 1e-6
        poses = index.T_global_from_model[rows[first]]

        def pose(time: float) -> np.ndarray:
            begin = int(np.clip(np.searchsorted(times, time, "right") - 1, 0, len(times) - 2))
            return _between(poses[begin : begin + 2], times[begin : begin + 2], time)

        return pose(seconds) @ inverse(pose(0.0))


def _between(poses: np.ndarray, times: np.ndarray, time: float) -> np.ndarray:
    """Two poses [2, 4, 4] at two times, at another one: also before and after, by the same motion."""
    share = (time - times[0]) / (times[1] - times[0])
    turn = Rotation.from_matrix(poses[0, :3, :3]).inv() * Rotation.from_matrix(poses[1, :3, :3])
    pose = np.eye(4)
    if 0 <= share <= 1:
        pose[:3, :3] = Slerp([0, 1], Rotation.from_matrix(poses[:, :3, :3]))(share).as_matrix()
    else:
        pose[:3, :3] = poses[0, :3, :3] @ Rotation.from_rotvec(share * turn.as_rotvec()).as_matrix()
    pose[:3, 3] = poses[0, :3, 3] + share * (poses[1, :3, 3] - poses[0, :3, 3])
    return pose


class Fault(Protocol):
    def apply(self, frame: Frame, instant: Instant) -> Frame:
        """The frame as the fault leaves it."""


@dataclass(frozen=True)
class SpoiledImages:
    """One of `corruptions.CORRUPTIONS`, on all cameras."""

    kind: str
    severity: int  # 0 to 2

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        images = tuple(
            None if image is None else CORRUPTIONS[self.kind](image, self.severity, instant.random(self.kind, camera))
            for camera, image in enumerate(frame.images)
        )
        return replace(frame, images=images)


@dataclass(frozen=True)
class CamerasGone:
    """These cameras, or so many of six drawn for each scene, give no image."""

    names: tuple[str, ...] = ()
    of_six: int = 0

    def gone(self, camera_names: tuple[str, ...], instant: Instant) -> frozenset[str]:
        """Names of the cameras that are gone in this scene."""
        if self.names:
            return frozenset(self.names) & frozenset(camera_names)
        count = min(round(len(camera_names) * self.of_six / 6), len(camera_names) - 1)
        order = instant.random(f"cameras gone {self.of_six}", every_frame=False).permutation(len(camera_names))
        return frozenset(camera_names[camera] for camera in order[:count].tolist())

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        gone = self.gone(frame.camera_names, instant)
        images = zip(frame.images, frame.camera_names, strict=True)
        return replace(frame, images=tuple(None if name in gone else image for image, name in images))


@dataclass(frozen=True)
class ImagesLost:
    """Each image is lost with this probability, each for itself."""

    probability: float

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        cameras = range(len(frame.images))
        lost = [instant.random("images lost", camera).random() < self.probability for camera in cameras]
        images = zip(frame.images, lost, strict=True)
        return replace(frame, images=tuple(None if missing else image for image, missing in images))


@dataclass(frozen=True)
class ExtrinsicsOff:
    """Each camera is mounted otherwise than calibrated: turned about a random axis, moved along a random direction."""

    degrees: float = 0.0
    metres: float = 0.0

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        moved = []
        for camera, T_cam_from_model in enumerate(frame.T_cam_from_model):
            rng = instant.random("extrinsics off", camera, every_frame=False)
            T_off = np.eye(4)
            T_off[:3, :3] = Rotation.from_rotvec(np.radians(self.degrees) * _direction(rng)).as_matrix()
            T_off[:3, 3] = self.metres * _direction(rng)
            moved.append(T_off @ T_cam_from_model)
        return replace(frame, T_cam_from_model=np.array(moved))


@dataclass(frozen=True)
class IntrinsicsOff:
    """Focal lengths off by this share, longer or shorter, and the principal point by this share of the focal length."""

    share: float

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        changed = np.array(frame.intrinsics, np.float64)
        for camera, matrix in enumerate(changed):
            rng = instant.random("intrinsics off", camera, every_frame=False)
            focal = matrix[0, 0]
            matrix[[0, 1], [0, 1]] *= 1 + self.share * rng.choice((-1, 1))
            angle = rng.uniform(0, 2 * np.pi)
            matrix[:2, 2] += self.share * focal * np.array([np.cos(angle), np.sin(angle)])
        return replace(frame, intrinsics=changed)


@dataclass(frozen=True)
class StampsOff:
    """Each camera's stamps are off by so much, early or late: its pose is looked up where the vehicle was not."""

    seconds: float

    def error(self, camera: int, instant: Instant) -> float:
        """Seconds by which a camera's stamps are late; negative: early. The same throughout the scene."""
        return float(self.seconds * instant.random("stamps off", camera, every_frame=False).choice((-1, 1)))

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        T_model_from_global = inverse(frame.T_global_from_model)
        moved = []
        for camera, T_cam_from_model in enumerate(frame.T_cam_from_model):
            T_global_from_cam = frame.T_global_from_model @ inverse(T_cam_from_model)
            wrong = T_model_from_global @ instant.motion(self.error(camera, instant)) @ T_global_from_cam
            moved.append(inverse(wrong))
        return replace(frame, T_cam_from_model=np.array(moved))


@dataclass(frozen=True)
class EgoStampsOff:
    """Poses of the vehicle that are stamped late: what is looked up is where it was before."""

    seconds: float

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        return replace(frame, T_global_from_model=instant.motion(-self.seconds) @ frame.T_global_from_model)


@dataclass(frozen=True)
class EgoNoise:
    """Poses that jitter: normal noise along and across the vehicle and in its heading, new for each frame."""

    metres: float  # standard deviation
    degrees: float

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        rng = instant.random("ego noise")
        T_off = np.eye(4)
        T_off[:2, 3] = rng.normal(0, self.metres, 2)
        T_off[:3, :3] = Rotation.from_euler("z", rng.normal(0, self.degrees), degrees=True).as_matrix()
        return replace(frame, T_global_from_model=frame.T_global_from_model @ T_off)


@dataclass(frozen=True)
class Untouched:
    """No fault: what the others are compared with."""

    kind: Literal["none"] = "none"

    def apply(self, frame: Frame, instant: Instant) -> Frame:
        return frame


def _direction(rng: np.random.Generator) -> np.ndarray:
    """[3] of length 1."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)
