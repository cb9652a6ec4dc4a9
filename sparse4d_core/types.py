"""The values that flow through the system, from camera images to tracks.

    Frame ──preprocess──► ModelInput ──model(·, state)──► ModelOutput ──decode──► Detections ──tracking──► Tracks

Frames of reference: *model* is the frame the network works in (the lidar frame for published weights: x right,
y forward, z up), *cam* a camera's optical frame, *global* a world-fixed frame. ``T_a_from_b`` maps b to a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
class ModelInput:
    """A batch of preprocessed frames."""

    images: Tensor  # [B, N, 3, H, W] float32, normalised
    projection: Tensor  # [B, N, 4, 4] float32: model frame homogeneous -> pixels of `images` (depth in slot 2)
    image_wh: Tensor  # [B, N, 2] float32: width, height of `images`
    timestamp: Tensor  # [B] float64, seconds; only differences matter
    T_global_from_model: Tensor  # [B, 4, 4] float64
    focal: Tensor | None = None  # [B, N] float32: resized fx in pixels, for the depth head in training

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ModelInput:
        """The same on a device; `non_blocking` copies from pinned memory without waiting."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass
class ModelOutput:
    """Outputs of the decoder after each of its L layers. A = anchors of the frame (plus noisy queries in training)."""

    anchors: list[Tensor]  # L of [B, A, 11]
    class_logits: list[Tensor | None]  # L of [B, A, num_classes]; None where evaluation does not compute it
    quality: list[Tensor | None]  # L of [B, A, 2] (centerness, yawness) logits; None before v3
    instance_feature: Tensor  # [B, A, C] after the last layer
    time_interval: Tensor  # [B] float32 seconds, the step the velocities were refined with
    instance_ids: Tensor | None = None  # [B, A] int64, -1 = none; v3 in evaluation
    feature_maps: list[Tensor] = field(default_factory=list)  # FPN levels [B, N, C, h, w]; kept in training only
    depths: list[Tensor] = field(default_factory=list)  # first levels of [B * N, 1, h, w] metres; training only
    noisy: Any = None  # training: the noisy queries after their temporal merge, see decoder.NoisyQueries


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


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`change` applied to every tensor of nested dataclasses, tuples and lists; everything else stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    if is_dataclass(value):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), change) for f in fields(value) if f.init})
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of nested dataclasses, tuples and lists, in the order in which `map_tensors` visits them."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, f.name) for f in fields(value) if f.init]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []
