"""Everything about a nuScenes data set but the pixels, gathered once into flat arrays and cached as .npz (no pickles).

One row per *set*: the images of all cameras around one lidar record. Keyframes are sets with annotations; with `sweeps`
the images between them form sets as well. Lidar and map files need not exist: only their records are read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...atomic_write import atomic_write
from ...boxes import inverse
from .tables import DETECTION_NAMES, MODEL_CHANNEL, DatasetError, Record, SceneTables, load_scenes, rigid

CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
"""Camera order of the published models. Rigs with other channel names keep the order of their sensor table."""

_MAX_VELOCITY_GAP = 1.5  # s; annotations further apart give no velocity (devkit: NuScenes.box_velocity)
_MAX_SET_SPREAD_US = 60_000  # a sweep image further from its set's first camera does not belong to it
_FORMAT = 4  # of the cache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetIndex:
    """N sets in time order, C cameras, M annotations, S scenes."""

    camera_names: np.ndarray  # [C] str
    scene_names: np.ndarray  # [S] str
    tokens: np.ndarray  # [N] str, sample token; "" between keyframes
    scene: np.ndarray  # [N] int64, index into scene_names
    stamp_us: np.ndarray  # [N] int64, of the lidar record (microseconds since the epoch)
    camera_stamp_us: np.ndarray  # [N, C] int64
    files: np.ndarray  # [N, C] str, relative to the root; "" = no record
    lidar_files: np.ndarray  # [N] str, relative to the root; need not exist
    intrinsics: np.ndarray  # [N, C, 3, 3] float64
    T_cam_from_model: np.ndarray  # [N, C, 4, 4] float64, by each camera's own ego pose
    T_global_from_model: np.ndarray  # [N, 4, 4] float64
    annotation_start: np.ndarray  # [N + 1] int64: set i owns the rows start[i] to start[i + 1]
    boxes: np.ndarray  # [M, 7] float64: x y z (centre), length width height, yaw; metres, radians, model frame
    velocity: np.ndarray  # [M, 2] float64, m/s in the model frame; NaN = unknown
    class_names: np.ndarray  # [M] str, detection class or category
    instance_ids: np.ndarray  # [M] int64, constant over time
    num_lidar_points: np.ndarray  # [M] int64

    def save(self, path: Path) -> None:
        """Write the arrays; the file appears only when it is complete."""
        with atomic_write(path) as unfinished:
            np.savez(unfinished, **{field.name: getattr(self, field.name) for field in fields(self)})

    def digest(self) -> str:
        """Changes with any of the numbers and names, but not with the folder."""
        content = hashlib.sha256()
        for field in fields(self):
            content.update(getattr(self, field.name).tobytes())
        return content.hexdigest()[:12]

    @classmethod
    def load(cls, path: Path) -> DatasetIndex:
        with np.load(path, allow_pickle=False) as data:
            return cls(**{field.name: data[field.name] for field in fields(cls)})


def dataset_index(
    dataroot: Path, version: str, scenes: Sequence[str] | None, sweeps: bool, cache: Path | None
) -> DatasetIndex:
    """The index of a data set, from the cache folder where it is up to date. One that cannot be kept there is returned
    all the same, and the log says so.

    Raises:
        DatasetError: tables that are missing, damaged or refer to nothing; a set without any camera.
    """
    if cache is None:
        return build_index(load_scenes(dataroot, version, scenes), sweeps)
    path = cache / f"index-{_fingerprint(dataroot, version, scenes, sweeps)}.npz"
    if (index := _load(path)) is not None:
        return index
    with _sole_builder(path):
        if (index := _load(path)) is not None:
            return index  # another process was faster
        index = build_index(load_scenes(dataroot, version, scenes), sweeps)
        try:
            index.save(path)
        except OSError as error:
            log.warning("the index of %s is not cached (%s): set XDG_CACHE_HOME", dataroot / version, error)
        return index


def _load(path: Path) -> DatasetIndex | None:
    try:
        return DatasetIndex.load(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # not there, or nothing that we may keep there
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("cached index %s is not readable (%s); building it again", path, error)
        return None


@contextlib.contextmanager
def _sole_builder(path: Path) -> Iterator[None]:
    """The tables take a minute and gigabytes to read: of the processes of a run one does, the others wait for its file.

    The lock goes with its process, so one that was killed blocks nobody.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no place for the lock, or none of its kind: each builds its own
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.with_suffix(".lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(dataroot: Path, version: str, scenes: Sequence[str] | None, sweeps: bool) -> str:
    """Changes with the tables' sizes and times."""
    files = sorted((dataroot / version).glob("*.json"))
    state = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    chosen = None if scenes is None else sorted(scenes)
    return hashlib.sha256(
        repr((_FORMAT, str(dataroot.resolve()), version, chosen, sweeps, state)).encode()
    ).hexdigest()[:24]


def build_index(tables: SceneTables, sweeps: bool = False) -> DatasetIndex:
    """Gather all sets of the scenes in `tables`."""
    cameras = _camera_order(tables)
    sets = _sets_in_time_order(tables, cameras, sweeps)
    views = [_view(tables, one, cameras) for one in sets]
    truth = _Truth(tables)
    objects = [truth.objects(one.token, view.T_global_from_model) for one, view in zip(sets, views, strict=True)]
    return DatasetIndex(
        camera_names=np.array(cameras),
        scene_names=np.array([record["name"] for record in tables.scenes]),
        tokens=np.array([one.token for one in sets]),
        scene=np.array([one.scene for one in sets], dtype=np.int64),
        stamp_us=np.array([one.lidar["timestamp"] for one in sets], dtype=np.int64),
        lidar_files=np.array([one.lidar["filename"] for one in sets]),
        **{name: np.array([getattr(view, name) for view in views]) for name in _View._fields},
        annotation_start=np.cumsum([0, *(len(found.boxes) for found in objects)]),
        boxes=_joined([found.boxes for found in objects], np.float64).reshape(-1, 7),
        velocity=_joined([found.velocity for found in objects], np.float64).reshape(-1, 2),
        class_names=_joined([found.class_names for found in objects], str),
        instance_ids=_joined([found.instance_ids for found in objects], np.int64),
        num_lidar_points=_joined([found.num_lidar_points for found in objects], np.int64),
    )


def _joined(parts: list[list], dtype: type) -> np.ndarray:
    """All parts in one array, of this type even where there is nothing."""
    return np.array([value for part in parts for value in part], dtype=dtype)


@dataclass(frozen=True)
class _Set:
    scene: int  # index into the scenes of the tables
    token: str  # sample token, "" between keyframes
    lidar: Record
    images: dict[str, Record]


class _View(NamedTuple):
    """What the cameras of a set are; the fields are those of DatasetIndex, without N."""

    camera_stamp_us: list[int]
    files: list[str]
    intrinsics: list[np.ndarray]
    T_cam_from_model: list[np.ndarray]
    T_global_from_model: np.ndarray


class _Objects(NamedTuple):
    """What is annotated in a set; the fields are those of DatasetIndex, M for this set alone."""

    boxes: list[list[float]]
    velocity: list[np.ndarray]
    class_names: list[str]
    instance_ids: list[int]
    num_lidar_points: list[int]


def _camera_order(tables: SceneTables) -> list[str]:
    channels = [sensor["channel"] for sensor in tables.sensor.values() if sensor["modality"] == "camera"]
    if not channels:
        raise DatasetError(f"sensor.json: no sensor of modality camera in {tables.dataroot}")
    return list(CAMERAS) if set(channels) == set(CAMERAS) else channels


def _sets_in_time_order(tables: SceneTables, cameras: list[str], sweeps: bool) -> list[_Set]:
    sets = [one for scene in range(len(tables.scenes)) for one in _scene_sets(tables, scene, cameras, sweeps)]
    if not sets:
        raise DatasetError(f"dataroot: no samples in {tables.dataroot}; expected at least one scene with a keyframe")
    return sorted(sets, key=lambda one: one.lidar["timestamp"])


def _scene_sets(tables: SceneTables, scene: int, cameras: list[str], sweeps: bool) -> list[_Set]:
    channels: dict[str, list[Record]] = {}
    sets = []
    for sample in tables.samples[tables.scenes[scene]["token"]]:
        records = tables.sample_data[sample["token"]]
        for record in records:
            channels.setdefault(tables.channel(record), []).append(record)
        key = {tables.channel(record): record for record in records if record["is_key_frame"]}
        if MODEL_CHANNEL not in key:
            raise DatasetError(
                f"sample {sample['token']}: no {MODEL_CHANNEL} keyframe record, whose pose the boxes need"
            )
        sets.append(_Set(scene, sample["token"], key[MODEL_CHANNEL], {c: key[c] for c in cameras if c in key}))
    return sets + (_sweep_sets(scene, channels, cameras) if sweeps else [])


def _sweep_sets(scene: int, channels: dict[str, list[Record]], cameras: list[str]) -> list[_Set]:
    """Sets between keyframes: every image of the first camera, and of each other one the image nearest to its turn.

    The nearest to the first camera's stamp may be of another set, where cameras fire in turn over most of a period.
    """
    stamps = {channel: np.array([r["timestamp"] for r in records]) for channel, records in channels.items()}
    turn = _turns(channels, cameras)

    def nearest(channel: str, stamp: int) -> Record:
        return channels[channel][int(np.abs(stamps[channel] - stamp).argmin())]

    sets = []
    for first in channels.get(cameras[0], []):
        if first["is_key_frame"]:
            continue
        images = {c: nearest(c, first["timestamp"] + turn.get(c, 0)) for c in cameras if c in channels}
        images = {c: r for c, r in images.items() if abs(r["timestamp"] - first["timestamp"]) <= _MAX_SET_SPREAD_US}
        if not any(record["is_key_frame"] for record in images.values()):
            newest = max(record["timestamp"] for record in images.values())
            sets.append(_Set(scene, "", nearest(MODEL_CHANNEL, newest), images))
    return sets


def _turns(channels: dict[str, list[Record]], cameras: list[str]) -> dict[str, int]:
    """How long after the first camera each other one fires: microseconds, the median over the scene's keyframes."""
    keys = {
        channel: {r["sample_token"]: r["timestamp"] for r in channels.get(channel, []) if r["is_key_frame"]}
        for channel in cameras
    }
    first = keys[cameras[0]]
    after = {c: [stamp - first[token] for token, stamp in keys[c].items() if token in first] for c in cameras}
    return {channel: int(np.median(gaps)) for channel, gaps in after.items() if gaps}


def _view(tables: SceneTables, one: _Set, cameras: list[str]) -> _View:
    T_global_from_model = _pose(tables.pose(one.lidar)) @ _pose(tables.calibration(one.lidar))
    view = _View([], [], [], [], T_global_from_model)
    for channel in cameras:
        record = one.images.get(channel)
        view.camera_stamp_us.append(record["timestamp"] if record else 0)
        view.files.append(record["filename"] if record else "")
        intrinsics = tables.calibration(record)["camera_intrinsic"] if record else np.eye(3)
        view.intrinsics.append(np.asarray(intrinsics, dtype=np.float64))
        # camera -> ego(t_camera) -> global -> ego(t_lidar) -> lidar, inverted
        T_global_from_cam = _pose(tables.pose(record)) @ _pose(tables.calibration(record)) if record else np.eye(4)
        view.T_cam_from_model.append(inverse(T_global_from_cam) @ T_global_from_model)
    return view


def _pose(record: Record) -> np.ndarray:
    return rigid(record["translation"], record["rotation"])


@dataclass
class _Truth:
    """Annotations of all samples, in each set's model frame."""

    tables: SceneTables

    def __post_init__(self):
        self._records = {record["token"]: record for group in self.tables.annotations.values() for record in group}
        self._stamps = {
            sample["token"]: sample["timestamp"] for group in self.tables.samples.values() for sample in group
        }
        self._instances = {token: i for i, token in enumerate(self.tables.instance)}

    def objects(self, sample_token: str, T_global_from_model: np.ndarray) -> _Objects:
        """What is annotated in a sample; nothing for sweeps."""
        tables, T_model_from_global = self.tables, inverse(T_global_from_model)
        found = _Objects([], [], [], [], [])
        for record in tables.annotations.get(sample_token, []):
            T = T_model_from_global @ _pose(record)
            width, length, height = record["size"]
            found.boxes.append([*T[:3, 3], length, width, height, np.arctan2(T[1, 0], T[0, 0])])
            found.velocity.append((T_model_from_global[:3, :3] @ self._global_velocity(record))[:2])
            category = tables.category_name(record)
            found.class_names.append(DETECTION_NAMES.get(category, category))
            found.instance_ids.append(self._instances[record["instance_token"]])
            found.num_lidar_points.append(record["num_lidar_pts"])
        return found

    def _global_velocity(self, record: Record) -> np.ndarray:
        """[3] m/s between the neighbouring annotations of the instance; NaN without one close enough.

        The vertical part is not used, as in the reference: rotating into a tilted frame would otherwise mix it in.
        """
        first, last = self._records.get(record["prev"], record), self._records.get(record["next"], record)
        seconds = 1e-6 * (self._stamps[last["sample_token"]] - self._stamps[first["sample_token"]])
        gaps = (first is not record) + (last is not record)
        if not gaps or not 0 < seconds <= gaps * _MAX_VELOCITY_GAP:
            return np.full(3, np.nan)
        velocity = (np.array(last["translation"]) - np.array(first["translation"])) / seconds
        velocity[2] = 0.0
        return velocity
