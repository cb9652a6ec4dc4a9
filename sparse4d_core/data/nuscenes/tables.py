"""The nuScenes tables of a few scenes, read from JSON alone.

For tools that need calibration, poses, annotations and file names but neither lidar files nor maps nor the devkit. Only
the records of the wanted scenes are kept, so even v1.0-trainval (2.6 million sample_data records) fits into memory.
Table layout: nuScenes schema, https://www.nuscenes.org/nuscenes#data-format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

Record = dict[str, Any]

MODEL_CHANNEL = "LIDAR_TOP"
"""Sensor in whose frame boxes and poses are given to the model, at its stamps."""

DETECTION_NAMES = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""Category -> class of the detection challenge; categories that are not here are not part of it."""


class DatasetError(ValueError):
    """A dataset folder that cannot be used: missing or damaged tables, dangling references, unknown scenes."""


@dataclass(frozen=True)
class SceneTables:
    """The records of the chosen scenes."""

    dataroot: Path
    scenes: list[Record]  # in the order of the table
    samples: dict[str, list[Record]]  # scene token -> samples in time order
    sample_data: dict[str, list[Record]]  # sample token -> its sample_data, every sensor, sweeps included
    annotations: dict[str, list[Record]]  # sample token -> annotations in the order of the table
    calibrated_sensor: dict[str, Record]
    sensor: dict[str, Record]
    ego_pose: dict[str, Record]
    instance: dict[str, Record]
    category: dict[str, Record]
    attribute: dict[str, Record]

    def channel(self, sample_data: Record) -> str:
        """Sensor channel, such as CAM_FRONT."""
        return self.sensor[self.calibration(sample_data)["sensor_token"]]["channel"]

    def calibration(self, sample_data: Record) -> Record:
        """The calibrated_sensor record."""
        return self.calibrated_sensor[sample_data["calibrated_sensor_token"]]

    def pose(self, sample_data: Record) -> Record:
        """The ego_pose record at the sensor's own time."""
        return self.ego_pose[sample_data["ego_pose_token"]]

    def category_name(self, annotation: Record) -> str:
        """Full category name, such as human.pedestrian.adult."""
        return self.category[self.instance[annotation["instance_token"]]["category_token"]]["name"]


def load_scenes(dataroot: str | Path, version: str, scenes: Iterable[str] | None = None) -> SceneTables:
    """Read the tables of some scenes.

    Args:
        dataroot: folder that holds the folder `version`.
        version: v1.0-mini, v1.0-trainval, ...
        scenes: scene names or tokens; None = all.

    Raises:
        DatasetError: a table is missing or damaged, a scene is unknown, or a record refers to one that is not there.
    """
    dataroot = Path(dataroot)
    read = _TableReader(dataroot / version)
    chosen = _choose(read("scene"), scenes)
    samples = read("sample", lambda r: r["scene_token"] in chosen)
    sample_tokens = {sample["token"] for sample in samples}
    sample_data = read("sample_data", lambda r: r["sample_token"] in sample_tokens)
    poses = {record["ego_pose_token"] for record in sample_data}
    annotations = read("sample_annotation", lambda r: r["sample_token"] in sample_tokens)
    instances = {record["instance_token"] for record in annotations}
    tables = SceneTables(
        dataroot=dataroot,
        scenes=list(chosen.values()),
        samples=_grouped(sorted(samples, key=lambda r: r["timestamp"]), "scene_token", chosen),
        sample_data=_grouped(sample_data, "sample_token", sample_tokens),
        annotations=_grouped(annotations, "sample_token", sample_tokens),
        calibrated_sensor=_by_token(read("calibrated_sensor")),
        sensor=_by_token(read("sensor")),
        ego_pose=_by_token(read("ego_pose", lambda r: r["token"] in poses)),
        instance=_by_token(read("instance", lambda r: r["token"] in instances)),
        category=_by_token(read("category")),
        attribute=_by_token(read("attribute")),
    )
    _check_references(tables, sample_data, annotations)
    return tables


class _TableReader:
    def __init__(self, folder: Path):
        self.folder = folder
        if not folder.is_dir():
            raise DatasetError(f"dataroot: no folder {folder}; expected a nuScenes dataset with its tables in there")

    def __call__(self, name: str, keep: Callable[[Record], bool] = lambda record: True) -> list[Record]:
        """The records of a table that `keep` wants; the others are forgotten while the file is being parsed."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            found = ", ".join(sorted(p.name for p in self.folder.glob("*.json"))) or "no table"
            raise DatasetError(f"dataroot: table {name}.json is missing in {self.folder} (found: {found})")
        try:
            records = json.loads(path.read_bytes(), object_hook=lambda r: r if keep(r) else None)
        except KeyError as error:
            raise DatasetError(f"{path}: a record has no field {error}") from error
        except ValueError as error:
            raise DatasetError(f"{path}: not valid JSON ({error}): is the file complete?") from error
        if not isinstance(records, list):
            raise DatasetError(f"{path}: expected a list of records, got {type(records).__name__}")
        return [record for record in records if record is not None]


def _choose(table: list[Record], scenes: Iterable[str] | None) -> dict[str, Record]:
    if scenes is None:
        return _by_token(table)
    wanted = set(scenes)
    chosen = {r["token"]: r for r in table if r["name"] in wanted or r["token"] in wanted}
    unknown = wanted - {r["name"] for r in chosen.values()} - set(chosen)
    if unknown:
        known = ", ".join(sorted(r["name"] for r in table))
        raise DatasetError(f"scenes: unknown {', '.join(sorted(unknown))}; this dataset has {known}")
    return chosen


def _by_token(records: list[Record]) -> dict[str, Record]:
    return {record["token"]: record for record in records}


def _grouped(records: list[Record], key: str, groups: Iterable[str]) -> dict[str, list[Record]]:
    grouped: dict[str, list[Record]] = {group: [] for group in groups}
    for record in records:
        grouped[record[key]].append(record)
    return grouped


def _check_references(tables: SceneTables, sample_data: list[Record], annotations: list[Record]) -> None:
    links = [
        (sample_data, "calibrated_sensor_token", tables.calibrated_sensor),
        (sample_data, "ego_pose_token", tables.ego_pose),
        (annotations, "instance_token", tables.instance),
        (list(tables.calibrated_sensor.values()), "sensor_token", tables.sensor),
        (list(tables.instance.values()), "category_token", tables.category),
    ]
    for records, field, target in links:
        for record in records:
            if record[field] not in target:
                raise DatasetError(f"record {record['token']}: {field} {record[field]} refers to no record")


def rigid(translation, rotation_wxyz) -> np.ndarray:
    """[4, 4] from a translation in metres and a quaternion w x y z (normalised here)."""
    w, x, y, z = rotation_wxyz
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat((x, y, z, w)).as_matrix()
    matrix[:3, 3] = translation
    return matrix
