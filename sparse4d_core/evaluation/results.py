"""Detections and tracks as nuScenes submissions.

Source: results format at https://www.nuscenes.org/object-detection and https://www.nuscenes.org/tracking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ..atomic_write import write_json
from ..types import CLASS_NAMES, Detections, Tracks

CLASS_RANGE = {
    "car": 50.0, "truck": 50.0, "bus": 50.0, "trailer": 50.0, "construction_vehicle": 50.0, "pedestrian": 40.0,
    "motorcycle": 40.0, "bicycle": 40.0, "traffic_cone": 30.0, "barrier": 30.0,
}  # fmt: skip
"""Metres from the ego vehicle within which a class is scored (detection_cvpr_2019)."""

MAX_RANGE = max(CLASS_RANGE.values())  # m, of classes that nuScenes does not have

TRACKED_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
MAX_BOXES = 500  # per sample, by the challenge's rules
MODALITY = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}

_MOVING_SPEED = 0.2  # m/s; faster objects get the attribute of moving ones
_MOVING = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer"), "vehicle.moving"),
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.with_rider"),
    "pedestrian": "pedestrian.moving",
}
_STANDING = {
    **dict.fromkeys(("car", "truck", "construction_vehicle", "trailer"), "vehicle.parked"),
    **dict.fromkeys(("motorcycle", "bicycle"), "cycle.without_rider"),
    "bus": "vehicle.stopped",
    "pedestrian": "pedestrian.standing",
}


def attribute(class_name: str, speed: float) -> str:
    """The nuScenes attribute guessed from the class and the speed (m/s); "" for classes without attributes."""
    return (_MOVING if speed > _MOVING_SPEED else _STANDING).get(class_name, "")


@dataclass
class ResultsWriter:
    """Collects samples and writes both submissions.

    writer = ResultsWriter()
    writer.add(token, step.detections, step.tracks, frame.T_global_from_model)
    writer.write_detection("results.json")
    writer.write_tracking("tracking.json")
    """

    T_ego_from_model: np.ndarray | None = None
    """[4, 4]: boxes beyond the range of their class, counted from the ego frame's origin, are left out, as published
    results do; None = all are kept (the devkit applies the ranges itself when it scores)."""

    notes: dict[str, str] = field(default_factory=dict)
    """More entries of the submissions' meta, such as the model and how it began new scenes."""

    detection: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tracking: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, token: str, detections: Detections, tracks: Tracks | None, T_global_from_model: np.ndarray) -> None:
        """Add one sample; `tracks` None adds an empty list to the tracking results.

        Args:
            token: nuScenes sample token.
            detections: boxes in the model frame at the sample's stamp.
            T_global_from_model: [4, 4] at the same stamp.

        Raises:
            ValueError: the token was added before, or the boxes hold numbers that are not finite.
        """
        if token in self.detection:
            raise ValueError(f"token: sample {token} was added before; every sample is scored once")
        self.detection[token] = self._detection_records(token, detections, T_global_from_model)
        self.tracking[token] = [] if tracks is None else self._tracking_records(token, tracks, T_global_from_model)

    def write_detection(self, path: str | Path) -> None:
        write_json(path, {"meta": MODALITY | self.notes, "results": self.detection})

    def write_tracking(self, path: str | Path) -> None:
        write_json(path, {"meta": MODALITY | self.notes, "results": self.tracking})

    def _detection_records(self, token: str, detections: Detections, T: np.ndarray) -> list[dict[str, Any]]:
        records = []
        for row, box in self._boxes(detections, T):
            name = detections.class_names[int(detections.labels[row])]
            box |= {
                "detection_name": name,
                "detection_score": float(detections.scores[row]),
                "attribute_name": attribute(name, float(np.hypot(*box["velocity"]))),
            }
            records.append({"sample_token": token, **box})
        return sorted(records, key=lambda r: -r["detection_score"])[:MAX_BOXES] if len(records) > MAX_BOXES else records

    def _tracking_records(self, token: str, tracks: Tracks, T: np.ndarray) -> list[dict[str, Any]]:
        if tracks.ids is None:
            raise ValueError("tracks: expected an id for every row, got ids = None")
        records = []
        for row, box in self._boxes(tracks, T):
            name = tracks.class_names[int(tracks.labels[row])]
            if name in TRACKED_CLASSES or name not in CLASS_NAMES:
                box |= {
                    "tracking_name": name,
                    "tracking_score": float(tracks.scores[row]),
                    "tracking_id": str(int(tracks.ids[row])),
                }
                records.append({"sample_token": token, **box})
        return sorted(records, key=lambda r: -r["tracking_score"])[:MAX_BOXES] if len(records) > MAX_BOXES else records

    def _in_range(self, boxes: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
        """[M] bool."""
        if self.T_ego_from_model is None:
            return np.ones(len(boxes), dtype=bool)
        centres = boxes[:, :3] @ self.T_ego_from_model[:2, :3].T + self.T_ego_from_model[:2, 3]
        ranges = np.array([CLASS_RANGE.get(name, MAX_RANGE) for name in class_names])
        return np.linalg.norm(centres, axis=1) <= ranges[labels]

    def _boxes(self, detections: Detections, T_global_from_model: np.ndarray):
        """(row, fields both submissions share) of the boxes within range; global frame."""
        boxes = np.asarray(detections.boxes, dtype=np.float64).reshape(-1, 10)
        if not np.isfinite(boxes).all():
            raise ValueError("detections: boxes hold NaN or infinity; expected finite numbers")
        R, t = T_global_from_model[:3, :3], T_global_from_model[:3, 3]
        centres = boxes[:, :3] @ R.T + t
        velocities = np.column_stack([boxes[:, 7:9], np.zeros(len(boxes))]) @ R.T
        about_z = np.column_stack([np.zeros((len(boxes), 2)), boxes[:, 6]])
        turns = (Rotation.from_matrix(R) * Rotation.from_rotvec(about_z)).as_quat() if len(boxes) else []
        labels = np.asarray(detections.labels, dtype=np.int64)
        for row in np.flatnonzero(self._in_range(boxes, labels, detections.class_names)):
            length, width, height = boxes[row, 3:6].tolist()
            x, y, z, w = turns[row].tolist()
            yield (
                int(row),
                {
                    "translation": centres[row].tolist(),
                    "size": [width, length, height],
                    "rotation": [w, x, y, z],
                    "velocity": velocities[row, :2].tolist(),
                },
            )
