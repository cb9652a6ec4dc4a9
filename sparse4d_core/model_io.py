"""Values around the network as tensors: its input and output. What flows before and after stands in `types`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


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
