"""What a rendered scene is in nuScenes tables: when its sets are taken, what is annotated, what a lidar would hit."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass

import numpy as np

from ...types import CLASS_NAMES
from ..nuscenes.table_writer import CATEGORY_OF, TableWriter, token, visibility_token
from ..nuscenes.tables import MODEL_CHANNEL, Record
from .cameras import Rig
from .ego_path import ego_poses
from .world import Actor, World

KEYFRAME_RATE = 2  # Hz, as in nuScenes, unless asked for otherwise
ANNOTATION_RANGE = 30.0  # m from the ego vehicle; objects beyond get no box
_LIDAR_CELL = np.radians(0.33) * np.radians(1.33)  # sr between the rays of a 32-beam lidar at 20 Hz


@dataclass(frozen=True)
class Schedule:
    """When the sets of a scene are taken. Scene time 0 is `epoch_us`."""

    epoch_us: int
    rate: int  # Hz
    num_sets: int
    keyframe_rate: int = KEYFRAME_RATE  # Hz

    @property
    def stride(self) -> int:
        return self.rate // self.keyframe_rate

    def lidar_stamp(self, k: int) -> int:  # microseconds
        return self.epoch_us + round(k * 1_000_000 / self.rate)

    def camera_stamp(self, k: int, delay: float) -> int:
        return self.lidar_stamp(k) + round(delay * 1e6)

    def time(self, stamp_us: int) -> float:
        """Scene time of a stamp, seconds."""
        return (stamp_us - self.epoch_us) * 1e-6

    def is_keyframe(self, k: int) -> bool:
        return k % self.stride == 0

    @property
    def keyframes(self) -> range:
        return range(0, self.num_sets, self.stride)


def schedule(world: World, rate: int, keyframe_rate: int = KEYFRAME_RATE) -> Schedule:
    """Scenes of one data set are ten minutes apart, so that no two of them look like one drive.

    Raises:
        ValueError: for a rate that is no multiple of the keyframes'.
    """
    if keyframe_rate < 1:
        raise ValueError(f"keyframe-rate: expected at least 1 Hz, got {keyframe_rate}")
    if rate < keyframe_rate or rate % keyframe_rate:
        raise ValueError(
            f"rate: expected a multiple of {keyframe_rate} Hz (keyframes come at {keyframe_rate} Hz), got {rate}"
        )
    epoch = 1_600_000_000_000_000 + (world.seed % 100_000) * 3_600_000_000 + world.index * 600_000_000
    return Schedule(epoch, rate, max(1, int(world.duration * rate + 1e-9)), keyframe_rate)


def scene_name(world: World) -> str:
    return f"synthetic-{world.seed}-{world.index:04d}"


def image_path(world: World, channel: str, stamp_us: int, keyframe: bool) -> str:
    """Relative to the root of the data set."""
    folder = "samples" if keyframe else "sweeps"
    extension = "pcd.bin" if channel == MODEL_CHANNEL else "jpg"
    return f"{folder}/{channel}/{scene_name(world)}__{channel}__{stamp_us}.{extension}"


class RenderedTables:
    """Collects rendered scenes in the writer of all nuScenes tables."""

    def __init__(self, rig: Rig):
        self._rig = rig
        self._writer = TableWriter(CATEGORY_OF[name] for name in CLASS_NAMES)
        mounts = [(c.channel, c.translation, c.rotation, c.intrinsic.tolist()) for c in rig.cameras]
        mounts.append((MODEL_CHANNEL, rig.lidar_translation, rig.lidar_rotation, []))
        self._calibrations = {
            channel: self._writer.add_calibration(None, channel, list(translation), _unit(rotation), intrinsic)
            for channel, translation, rotation, intrinsic in mounts
        }

    def add_scene(self, world: World, timing: Schedule, solid_angle: np.ndarray, visible_share: np.ndarray) -> None:
        """Records of one scene.

        Args:
            solid_angle: [K, A] sr in which the cameras see each actor at each keyframe.
            visible_share: [K, A] part of the actor's picture that nothing hides, 0 to 1.
        """
        name = scene_name(world)
        samples = [(token(name, "sample", k), timing.lidar_stamp(k)) for k in timing.keyframes]
        self._writer.add_scene(
            name,
            samples,
            vehicle="synthetic",
            description=f"Rendered: {world.road.lanes} lane(s) each way, {len(world.actors)} objects",
            date="2020-09-13",
        )
        for camera in self._rig.cameras:
            self._add_channel(world, timing, camera.channel, camera.delay, samples)
        self._add_channel(world, timing, MODEL_CHANNEL, 0.0, samples)
        self._add_annotations(world, samples, timing, solid_angle, visible_share)

    def write(self, out: pathlib.Path, version: str) -> None:
        """See `TableWriter.write`."""
        self._writer.write(out, version)

    def _add_channel(
        self, world: World, timing: Schedule, channel: str, delay: float, samples: list[tuple[str, int]]
    ) -> None:
        name = scene_name(world)
        stamps = [timing.camera_stamp(k, delay) for k in range(timing.num_sets)]
        poses = ego_poses(world.path, world.ego, np.array([timing.time(stamp) for stamp in stamps]))
        records = []
        for k, (stamp, (x, y, yaw)) in enumerate(zip(stamps, poses, strict=True)):
            nearest = min(int(k / timing.stride + 0.5), len(samples) - 1)
            records.append(
                {
                    "token": token(name, channel, k),
                    "sample_token": samples[nearest][0],
                    "timestamp": stamp,
                    "is_key_frame": timing.is_keyframe(k),
                    "filename": image_path(world, channel, stamp, timing.is_keyframe(k)),
                    "pose": ([float(x), float(y), 0.0], _yaw_quaternion(yaw)),
                }
            )
        size_wh = (0, 0) if channel == MODEL_CHANNEL else self._rig.image_wh
        self._writer.add_stream(name, channel, self._calibrations[channel], records, size_wh)

    def _add_annotations(
        self,
        world: World,
        samples: list[tuple[str, int]],
        timing: Schedule,
        solid_angle: np.ndarray,
        visible_share: np.ndarray,
    ) -> None:
        """One instance per actor that comes near the ego vehicle, annotated while it is near."""
        name = scene_name(world)
        times = np.array([timing.time(stamp) for _, stamp in samples])
        poses = world.actor_poses(times)  # [A, K, 3]
        ego = ego_poses(world.path, world.ego, times)
        near = np.linalg.norm(poses[..., :2] - ego[None, :, :2], axis=-1) <= ANNOTATION_RANGE
        points = np.floor(solid_angle / _LIDAR_CELL + 0.75).astype(int)
        for a, actor in enumerate(world.actors):
            rows = [
                {
                    "token": token(name, "annotation", a, k),
                    "sample_token": samples[k][0],
                    "visibility_token": visibility_token(visible_share[k, a]),
                    "num_lidar_pts": int(points[k, a]),
                    "num_radar_pts": 0,
                    **_box(actor, poses[a, k]),
                }
                for k in np.flatnonzero(near[a]).tolist()
            ]
            if rows:
                self._writer.add_instance(token(name, "instance", a), CATEGORY_OF[actor.name], rows)


def _box(actor: Actor, pose: np.ndarray) -> Record:
    """The part of an annotation that describes the object itself; pose (x, y, yaw) in the global frame."""
    length, width, height = actor.size
    x, y, yaw = pose
    return {
        "attributes": [actor.attribute] if actor.attribute else [],
        "translation": [float(x), float(y), height / 2],
        "size": [width, length, height],
        "rotation": _yaw_quaternion(yaw),
    }


def _unit(quaternion: tuple[float, float, float, float]) -> list[float]:
    return (np.array(quaternion) / np.linalg.norm(quaternion)).tolist()


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]
