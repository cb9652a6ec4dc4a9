"""The values that flow through the system, from camera images to tracks.

    Frame ──preprocess──► ModelInput ──model(·, state)──► ModelOutput ──decode──► Detections ──tracking──► Tracks

Frames of reference: *model* is the frame the network works in (the lidar frame for published weights: x right,
y forward, z up), *cam* a camera's optical frame, *global* a world-fixed frame. ``T_a_from_b`` maps b to a.

ModelInput and ModelOutput are tensors and stand in `model_io`: what reads, records or scores boxes needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASS_NAMES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
"""The published models' classes in the order of the class logits (nuScenes detection challenge)."""

# Columns of the anchor state (11), metres, model frame: the network's own parametrisation of a box.
X, Y, Z, LOG_LENGTH, LOG_WIDTH, LOG_HEIGHT, SIN_YAW, COS_YAW, VX, VY, VZ = range(11)

# Columns of a decoded box (10): x y z (centre, m), length width height (m), yaw (rad), vx vy vz (m/s), in one frame.


@dataclass(frozen=True)
class Frame:
    """One instant seen by N cameras: what the synchronizer delivers and the pipeline consumes. No tensors, no ROS.

    ``T_cam_from_model`` already contains the ego motion between the set's stamp and each image's own stamp:
    it maps points given in the model frame *at stamp_ns* to the camera *at the image's stamp*.
    """

    images: tuple[np.ndarray | None, ...]  # N of [H, W, 3] uint8, BGR; None = camera missing, masked by the pipeline
    intrinsics: np.ndarray  # [N, 3, 3] float64, pixels of the images as given (rectified)
    T_cam_from_model: np.ndarray  # [N, 4, 4] float64
    T_global_from_model: np.ndarray  # [4, 4] float64, at stamp_ns
    stamp_ns: int  # stamp of the set: its newest image, nanoseconds since the epoch
    camera_names: tuple[str, ...] = ()
    token: str = ""  # nuScenes sample token where there is one


@dataclass
class Detections:
    """Decoded boxes of one sample, best first."""

    boxes: np.ndarray  # [M, 10] float32: x y z, length width height, yaw, vx vy vz; model frame unless stated otherwise
    scores: np.ndarray  # [M] float32
    labels: np.ndarray  # [M] int64, index into class_names
    class_scores: np.ndarray | None = None  # [M] float32 in the order of the class-score top-k, NOT of the rows (v3)
    ids: np.ndarray | None = None  # [M] int64 instance ids (v3)
    class_names: tuple[str, ...] = CLASS_NAMES  # of the model

    def names(self) -> list[str]:
        """The class of every row."""
        return [self.class_names[label] for label in self.labels]


@dataclass
class Tracks(Detections):
    """Detections above the tracking threshold; every row has an id that stays with the object over time."""
