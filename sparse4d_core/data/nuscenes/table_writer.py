"""Collects recorded scenes and writes the 13 tables of nuScenes (schema v1.0), linked and complete."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .tables import DETECTION_NAMES, Record

ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")
CATEGORY_OF = {
    **{name: category for category, name in reversed(DETECTION_NAMES.items())},
    "bus": "vehicle.bus.rigid",
    "pedestrian": "human.pedestrian.adult",
}
"""Detection class -> category that stands for it where the category itself is not known."""


def token(*parts: object) -> str:
    """32 hexadecimal digits that depend on the parts alone."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


class TableWriter:
    """Records in, tables out. Poses are (translation in metres, rotation w x y z)."""

    def __init__(self) -> None:
        self._tables: dict[str, list[Record]] = defaultdict(list)
        self._names: dict[str, set[str]] = {"category": set(), "attribute": set(), "sensor": set()}
        for level, text in enumerate(VISIBILITIES, 1):
            self._tables["visibility"].append({"token": str(level), "level": text, "description": text})
        for name in ATTRIBUTES:
            self._named("attribute", name)
        for name in DETECTION_NAMES:
            self._named("category", name)

    def _named(self, table: str, name: str, **fields: Any) -> str:
        """Token of a category, attribute or sensor; its record is made when it is first named."""
        if name not in self._names[table]:
            self._names[table].add(name)
            key = "channel" if table == "sensor" else "name"
            text = {} if table == "sensor" else {"description": ""}
            self._tables[table].append({"token": token(table, name), key: name, **text, **fields})
        return token(table, name)

    def add_calibration(
        self, scene: str, channel: str, translation: list[float], rotation: list[float], intrinsic: list[list[float]]
    ) -> str:
        """calibrated_sensor of a scene, pose in the ego frame; no `intrinsic` for the lidar. Returns its token."""
        modality = "camera" if intrinsic else "lidar"
        record = {
            "token": token(scene, "calibration", channel),
            "sensor_token": self._named("sensor", channel, modality=modality),
            "translation": translation,
            "rotation": rotation,
            "camera_intrinsic": intrinsic,
        }
        self._tables["calibrated_sensor"].append(record)
        return record["token"]

    def add_scene(self, name: str, samples: list[tuple[str, int]], vehicle: str) -> None:
        """A scene and its samples: (token, timestamp in microseconds) in the order of time, at least one."""
        tokens = [sample for sample, _ in samples]
        self._tables["log"].append(
            {
                "token": token(name, "log"),
                "logfile": name,
                "vehicle": vehicle,
                "date_captured": str(np.datetime64(samples[0][1], "us").astype("datetime64[D]")),
                "location": "singapore-onenorth",  # the devkit knows the maps of four places only
            }
        )
        self._tables["scene"].append(
            {
                "token": token(name, "scene"),
                "log_token": token(name, "log"),
                "nbr_samples": len(samples),
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
                "name": name,
                "description": "",
            }
        )
        for sample, timestamp in samples:
            record = {"token": sample, "timestamp": timestamp, "scene_token": token(name, "scene")}
            self._tables["sample"].append(record)
        _link(self._tables["sample"][-len(samples) :])

    def add_stream(
        self, scene: str, channel: str, calibration: str, records: list[Record], size_wh: tuple[int, int]
    ) -> None:
        """All sample_data of one sensor in one scene, in the order of time.

        Args:
            records: each with sample_token, timestamp (microseconds), is_key_frame, filename, and pose = (translation,
                rotation) of the ego frame at that time.
        """
        rows = []
        for record in records:
            this = token(scene, channel, record["timestamp"])
            translation, rotation = record["pose"]
            self._tables["ego_pose"].append(
                {"token": this, "timestamp": record["timestamp"], "rotation": rotation, "translation": translation}
            )
            row = {key: record[key] for key in ("sample_token", "timestamp", "is_key_frame", "filename")}
            row |= {"token": this, "ego_pose_token": this, "calibrated_sensor_token": calibration}
            row |= {"fileformat": record["filename"].rsplit(".", 1)[-1].replace("bin", "pcd")}
            rows.append(row | {"width": size_wh[0], "height": size_wh[1]})
        _link(rows)
        self._tables["sample_data"] += rows

    def add_instance(self, instance: str, category: str, annotations: list[Record]) -> None:
        """One object and its annotations in the order of time.

        Args:
            annotations: each with token, sample_token, translation, size (width, length, height), rotation,
                attributes (names), visibility_token, num_lidar_pts, num_radar_pts.
        """
        rows = []
        for annotation in annotations:
            row = {key: value for key, value in annotation.items() if key != "attributes"}
            row["attribute_tokens"] = [self._named("attribute", name) for name in annotation["attributes"]]
            rows.append(row | {"instance_token": instance})
        _link(rows)
        self._tables["sample_annotation"] += rows
        self._tables["instance"].append(
            {
                "token": instance,
                "category_token": self._named("category", category),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
        )

    def write(self, out: Path, version: str) -> None:
        """Write the tables, an empty map that the devkit asks for, and the split "all"."""
        (out / "maps").mkdir(parents=True)
        cv2.imwrite(str(out / "maps" / "placeholder.png"), np.zeros((64, 64), np.uint8))
        logs = [log["token"] for log in self._tables["log"]]
        place = {"token": token("map"), "log_tokens": logs, "category": "semantic_prior"}
        self._tables["map"] = [place | {"filename": "maps/placeholder.png"}]
        (out / version).mkdir()
        for name in ("instance", "sample_annotation"):
            self._tables[name] += []  # a file even where nothing is annotated
        for name, records in self._tables.items():
            (out / version / f"{name}.json").write_text(json.dumps(records, indent=0), encoding="utf-8")
        splits = {"all": [scene["name"] for scene in self._tables["scene"]]}
        (out / version / "splits.json").write_text(json.dumps(splits), encoding="utf-8")


def _link(records: list[Record]) -> None:
    """Set prev and next."""
    tokens = ["", *(record["token"] for record in records), ""]
    for record, previous, following in zip(records, tokens, tokens[2:], strict=False):
        record["prev"], record["next"] = previous, following
