"""nuScenes tables (v1.0) for rendered scenes: the 13 JSON files that the official devkit reads."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from dataclasses import dataclass

import cv2
import numpy as np

from .cameras import Rig
from .ego_path import ego_poses
from .world import World

KEYFRAME_RATE = 2.0  # Hz, as in nuScenes
ANNOTATION_RANGE = 30.0  # m from the ego vehicle; objects beyond get no box
LIDAR = "LIDAR_TOP"

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "construction_vehicle": "vehicle.construction",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "barrier": "movable_object.barrier",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
}
_ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
_VISIBILITIES = (("v0-40", 0.4), ("v40-60", 0.6), ("v60-80", 0.8), ("v80-100", np.inf))
_LIDAR_CELL = np.radians(0.33) * np.radians(1.33)  # sr between the rays of a 32-beam lidar at 20 Hz


def token(*parts: object) -> str:
    """32 hexadecimal digits that depend on the parts alone."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Schedule:
    """When the sets of a scene are taken. Scene time 0 is `epoch_us`."""

    epoch_us: int
    rate: int  # Hz
    num_sets: int

    @property
    def stride(self) -> int:
        return int(self.rate / KEYFRAME_RATE)

    def lidar_stamp(self, k: int) -> int:  # microseconds
        return self.epoch_us + round(k * 1_000_000 / self.rate)

    def camera_stamp(self, k: int, delay: float) -> int:
        return self.lidar_stamp(k) + round(delay * 1e6)

    def time(self, stamp_us: int) -> float:
        """Scene time of a stamp, seconds."""
        return (stamp_us - self.epoch_us) * 1e-6

    def is_keyframe(self, k: int) -> bool:
        return k % self.stride == 0


def schedule(world: World, rate: int) -> Schedule:
    """Scenes of one data set are ten minutes apart, so that no two of them look like one drive.

    Raises:
        ValueError: for a rate that has no keyframes at 2 Hz.
    """
    if rate < KEYFRAME_RATE or rate % KEYFRAME_RATE:
        raise ValueError(
            f"rate: expected a multiple of {KEYFRAME_RATE:g} Hz (keyframes come at {KEYFRAME_RATE:g} Hz), got {rate}"
        )
    epoch = 1_600_000_000_000_000 + (world.seed % 100_000) * 3_600_000_000 + world.index * 600_000_000
    return Schedule(epoch, rate, max(1, int(world.duration * rate + 1e-9)))


def scene_name(world: World) -> str:
    return f"synthetic-{world.seed}-{world.index:04d}"


def image_path(world: World, channel: str, stamp_us: int, keyframe: bool) -> str:
    """Relative to the root of the data set."""
    folder = "samples" if keyframe else "sweeps"
    extension = "pcd.bin" if channel == LIDAR else "jpg"
    return f"{folder}/{channel}/{scene_name(world)}__{channel}__{stamp_us}.{extension}"


class Tables:
    """Collects the records of all scenes."""

    def __init__(self, rig: Rig):
        self._rig = rig
        self._tables: dict[str, list[dict]] = {
            "category": [{"token": token("category", n), "name": n, "description": ""} for n in CATEGORIES.values()],
            "attribute": [{"token": token("attribute", n), "name": n, "description": ""} for n in _ATTRIBUTES],
            "visibility": [
                {"token": str(i + 1), "level": level, "description": f"visible share {level[1:]} %"}
                for i, (level, _) in enumerate(_VISIBILITIES)
            ],
            "sensor": [],
            "calibrated_sensor": [],
            **{
                name: []
                for name in (
                    "instance",
                    "ego_pose",
                    "log",
                    "scene",
                    "sample",
                    "sample_data",
                    "sample_annotation",
                    "map",
                )
            },
        }
        for camera in rig.cameras:
            self._add_sensor(camera.channel, "camera", camera.translation, camera.rotation, camera.intrinsic.tolist())
        self._add_sensor(LIDAR, "lidar", rig.lidar_translation, rig.lidar_rotation, [])

    def _add_sensor(self, channel: str, modality: str, translation, rotation, intrinsic) -> None:
        unit = np.array(rotation) / np.linalg.norm(rotation)
        self._tables["sensor"].append({"token": token("sensor", channel), "channel": channel, "modality": modality})
        self._tables["calibrated_sensor"].append(
            {
                "token": token("calibration", channel),
                "sensor_token": token("sensor", channel),
                "translation": list(translation),
                "rotation": unit.tolist(),
                "camera_intrinsic": intrinsic,
            }
        )

    def add_scene(self, world: World, timing: Schedule, solid_angle: np.ndarray, visible_share: np.ndarray) -> None:
        """Records of one scene.

        Args:
            solid_angle: [K, A] sr in which the cameras see each actor at each keyframe.
            visible_share: [K, A] part of the actor's picture that nothing hides, 0 to 1.
        """
        name = scene_name(world)
        keyframes = [k for k in range(timing.num_sets) if timing.is_keyframe(k)]
        samples = [token(name, "sample", k) for k in keyframes]
        self._tables["log"].append(
            {
                "token": token(name, "log"),
                "logfile": name,
                "vehicle": "synthetic",
                "date_captured": "2020-09-13",
                "location": "singapore-onenorth",
            }
        )
        self._tables["scene"].append(
            {
                "token": token(name, "scene"),
                "log_token": token(name, "log"),
                "nbr_samples": len(samples),
                "first_sample_token": samples[0],
                "last_sample_token": samples[-1],
                "name": name,
                "description": f"Rendered: {world.road.lanes} lane(s) each way, {len(world.actors)} objects",
            }
        )
        for k, sample, previous, following in zip(keyframes, samples, ["", *samples], [*samples[1:], ""], strict=False):
            stamp = timing.lidar_stamp(k)
            record = {
                "token": sample,
                "timestamp": stamp,
                "prev": previous,
                "next": following,
                "scene_token": token(name, "scene"),
            }
            self._tables["sample"].append(record)
        for camera in self._rig.cameras:
            self._add_channel(world, timing, camera.channel, camera.delay, samples)
        self._add_channel(world, timing, LIDAR, 0.0, samples)
        self._add_annotations(world, timing, keyframes, samples, solid_angle, visible_share)

    def _add_channel(self, world: World, timing: Schedule, channel: str, delay: float, samples: list[str]) -> None:
        name, is_camera = scene_name(world), channel != LIDAR
        tokens = [token(name, channel, k) for k in range(timing.num_sets)]
        stamps = [timing.camera_stamp(k, delay) for k in range(timing.num_sets)]
        poses = ego_poses(world.path, world.ego, np.array([timing.time(stamp) for stamp in stamps]))
        width, height = self._rig.image_wh if is_camera else (0, 0)
        for k, (this, stamp, pose) in enumerate(zip(tokens, stamps, poses, strict=True)):
            nearest = min(int(k / timing.stride + 0.5), len(samples) - 1)
            self._tables["ego_pose"].append(
                {
                    "token": this,
                    "timestamp": stamp,
                    "rotation": _yaw_quaternion(pose[2]),
                    "translation": [float(pose[0]), float(pose[1]), 0.0],
                }
            )
            self._tables["sample_data"].append(
                {
                    "token": this,
                    "sample_token": samples[nearest],
                    "ego_pose_token": this,
                    "calibrated_sensor_token": token("calibration", channel),
                    "timestamp": stamp,
                    "fileformat": "jpg" if is_camera else "pcd",
                    "is_key_frame": timing.is_keyframe(k),
                    "height": height,
                    "width": width,
                    "filename": image_path(world, channel, stamp, timing.is_keyframe(k)),
                    "prev": tokens[k - 1] if k else "",
                    "next": tokens[k + 1] if k + 1 < len(tokens) else "",
                }
            )

    def _add_annotations(self, world, timing, keyframes, samples, solid_angle, visible_share) -> None:
        name = scene_name(world)
        times = np.array([timing.time(timing.lidar_stamp(k)) for k in keyframes])
        poses = world.actor_poses(times)  # [A, K, 3]
        ego = ego_poses(world.path, world.ego, times)
        near = np.linalg.norm(poses[..., :2] - ego[None, :, :2], axis=-1) <= ANNOTATION_RANGE
        points = np.floor(solid_angle / _LIDAR_CELL + 0.75).astype(int)
        for a, actor in enumerate(world.actors):
            where = np.flatnonzero(near[a])
            if not len(where):
                continue
            chain = [token(name, "annotation", a, int(i)) for i in where]
            instance = token(name, "instance", a)
            self._tables["instance"].append(
                {
                    "token": instance,
                    "category_token": token("category", CATEGORIES[actor.name]),
                    "nbr_annotations": len(chain),
                    "first_annotation_token": chain[0],
                    "last_annotation_token": chain[-1],
                }
            )
            length, width, height = actor.size
            for j, i in enumerate(where):
                x, y, yaw = poses[a, i]
                self._tables["sample_annotation"].append(
                    {
                        "token": chain[j],
                        "sample_token": samples[i],
                        "instance_token": instance,
                        "visibility_token": _visibility(visible_share[i, a]),
                        "attribute_tokens": [token("attribute", actor.attribute)] if actor.attribute else [],
                        "translation": [float(x), float(y), height / 2],
                        "size": [width, length, height],
                        "rotation": _yaw_quaternion(yaw),
                        "prev": chain[j - 1] if j else "",
                        "next": chain[j + 1] if j + 1 < len(chain) else "",
                        "num_lidar_pts": int(points[i, a]),
                        "num_radar_pts": 0,
                    }
                )

    def write(self, out: pathlib.Path, version: str) -> None:
        """All tables at once: the folder `out/version` appears only when it is complete.

        Besides the 13 tables it holds `splits.json` (the devkit's custom splits): "all" names every scene.
        """
        (out / "maps").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / "maps" / "placeholder.png"), np.zeros((64, 64), dtype=np.uint8))
        self._tables["map"] = [
            {
                "token": token("map"),
                "log_tokens": [log["token"] for log in self._tables["log"]],
                "category": "semantic_prior",
                "filename": "maps/placeholder.png",
            }
        ]
        partial = out / f".{version}.partial"
        partial.mkdir(exist_ok=True)
        for table, records in self._tables.items():
            (partial / f"{table}.json").write_text(json.dumps(records, indent=0))
        splits = {"all": [scene["name"] for scene in self._tables["scene"]]}
        (partial / "splits.json").write_text(json.dumps(splits, indent=1))
        final = out / version
        if final.exists():
            for file in partial.iterdir():
                os.replace(file, final / file.name)
            partial.rmdir()
        else:
            os.replace(partial, final)


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def _visibility(share: float) -> str:
    return next(str(i + 1) for i, (_, limit) in enumerate(_VISIBILITIES) if share < limit)
