"""Collects scenes, rendered or recorded, and writes the 13 tables of nuScenes (schema v1.0), linked and complete."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...atomic_write import atomic_write
from .tables import DETECTION_NAMES, Record

ATTRIBUTES = (
    "vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
    "pedestrian.sitting_lying_down", "pedestrian.standing", "pedestrian.moving",
)  # fmt: skip
VISIBILITIES = (("v0-40", 0.4), ("v40-60", 0.6), ("v60-80", 0.8), ("v80-100", 1.0))
"""Level and the largest visible share that belongs to it; tokens are "1" to "4"."""
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
    """Records in, tables out. Poses are (translation in metres, rotation w x y z).

    Args:
        categories: listed whether anything is of them or not; others are added when they are first named.
    """

    def __init__(self, categories: Iterable[str] = DETECTION_NAMES) -> None:
        self._tables: dict[str, list[Record]] = defaultdict(list)
        self._names: dict[str, set[str]] = {"category": set(), "attribute": set(), "sensor": set()}
        for number, (level, _) in enumerate(VISIBILITIES, 1):
            record = {"token": str(number), "level": level, "description": f"visible share {level[1:]} %"}
            self._tables["visibility"].append(record)
        for name in ATTRIBUTES:
            self._named("attribute", name)
        for name in categories:
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
        self,
        scene: str | None,
        channel: str,
        translation: list[float],
        rotation: list[float],
        intrinsic: list[list[float]],
    ) -> str:
        """calibrated_sensor, pose in the ego frame. Returns its token.

        Args:
            scene: None for a calibration that all scenes share.
            intrinsic: [3][3] pixels; empty for the lidar.
        """
        modality = "camera" if intrinsic else "lidar"
        record = {
            "token": token("calibration", channel) if scene is None else token(scene, "calibration", channel),
            "sensor_token": self._named("sensor", channel, modality=modality),
            "translation": translation,
            "rotation": rotation,
            "camera_intrinsic": intrinsic,
        }
        self._tables["calibrated_sensor"].append(record)
        return record["token"]

    def add_scene(
        self, name: str, samples: Sequence[tuple[str, int]], vehicle: str, description: str = "", date: str = ""
    ) -> None:
        """A scene and its samples.

        Args:
            samples: (token, timestamp in microseconds) in the order of time, at least one.
            date: of the recording, such as 2020-09-13; empty: the first sample's.
        """
        tokens = [sample for sample, _ in samples]
        self._tables["log"].append(
            {
                "token": token(name, "log"),
                "logfile": name,
                "vehicle": vehicle,
                "date_captured": date or str(np.datetime64(samples[0][1], "us").astype("datetime64[D]")),
                "location": "singapore-onenorth",  # the devkit has the maps of four places only
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
                "description": description,
            }
        )
        rows = [
            {"token": sample, "timestamp": timestamp, "prev": "", "next": "", "scene_token": token(name, "scene")}
            for sample, timestamp in samples
        ]
        _link(rows)
        self._tables["sample"] += rows

    def add_stream(
        self, scene: str, channel: str, calibration: str, records: Iterable[Record], size_wh: tuple[int, int]
    ) -> None:
        """All sample_data of one sensor in one scene, in the order of time.

        Args:
            records: each with sample_token, timestamp (microseconds), is_key_frame, filename, and pose = (translation,
                rotation) of the ego frame at that time; a `token` where the timestamp shall not make it.
        """
        rows = []
        for record in records:
            this = record.get("token") or token(scene, channel, record["timestamp"])
            translation, rotation = record["pose"]
            self._tables["ego_pose"].append(
                {"token": this, "timestamp": record["timestamp"], "rotation": rotation, "translation": translation}
            )
            rows.append(
                {
                    "token": this,
                    "sample_token": record["sample_token"],
                    "ego_pose_token": this,
                    "calibrated_sensor_token": calibration,
                    "timestamp": record["timestamp"],
                    "fileformat": record["filename"].rsplit(".", 1)[-1].replace("bin", "pcd"),
                    "is_key_frame": record["is_key_frame"],
                    "height": size_wh[1],
                    "width": size_wh[0],
                    "filename": record["filename"],
                    "prev": "",
                    "next": "",
                }
            )
        _link(rows)
        self._tables["sample_data"] += rows

    def add_instance(self, instance: str, category: str, annotations: Sequence[Record]) -> None:
        """One object and its annotations in the order of time.

        Args:
            annotations: at least one, each with token, sample_token, translation, size (width, length, height),
                rotation, attributes (names), visibility_token, num_lidar_pts, num_radar_pts.
        """
        rows = [
            {
                "token": annotation["token"],
                "sample_token": annotation["sample_token"],
                "instance_token": instance,
                "visibility_token": annotation["visibility_token"],
                "attribute_tokens": [self._named("attribute", name) for name in annotation["attributes"]],
                "translation": annotation["translation"],
                "size": annotation["size"],
                "rotation": annotation["rotation"],
                "prev": "",
                "next": "",
                "num_lidar_pts": annotation["num_lidar_pts"],
                "num_radar_pts": annotation["num_radar_pts"],
            }
            for annotation in annotations
        ]
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
        """Write all tables at once: the folder `out/version` appears when it is complete.

        Besides the tables it holds `splits.json` (the devkit's custom splits): "all" names every scene. The devkit asks
        for a map as well, so `out/maps` gets an empty one.

        Raises:
            OSError: `out/version` holds files already.
        """
        (out / "maps").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / "maps" / "placeholder.png"), np.zeros((64, 64), np.uint8))
        logs = [log["token"] for log in self._tables["log"]]
        place = {"token": token("map"), "log_tokens": logs, "category": "semantic_prior"}
        self._tables["map"] = [place | {"filename": "maps/placeholder.png"}]
        for name in ("instance", "sample_annotation"):
            self._tables[name] += []  # a file even where nothing is annotated
        splits = {"all": [scene["name"] for scene in self._tables["scene"]]}
        with atomic_write(out / version) as folder:
            folder.mkdir()
            for name, records in self._tables.items():
                (folder / f"{name}.json").write_text(json.dumps(records, indent=0), encoding="utf-8")
            (folder / "splits.json").write_text(json.dumps(splits, indent=1), encoding="utf-8")


def visibility_token(share: float) -> str:
    """Token of the visibility of an object of which nothing hides this share, 0 to 1."""
    return next((str(i) for i, (_, limit) in enumerate(VISIBILITIES, 1) if share < limit), str(len(VISIBILITIES)))


def _link(records: list[Record]) -> None:
    """Set prev and next."""
    tokens = ["", *(record["token"] for record in records), ""]
    for record, previous, following in zip(records, tokens, tokens[2:], strict=False):
        record["prev"], record["next"] = previous, following
