"""What flows from one frame to the next: a value that every frame makes anew, so that an old one can be used again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model_io import ModelInput, map_tensors
from .aggregation import CameraFeatures


@dataclass(frozen=True)
class CachedInstances:
    """The T strongest instances of a frame, by descending confidence. Detached."""

    feature: Tensor  # [B, T, C]
    anchor: Tensor  # [B, T, 11] in the model frame of that time
    confidence: Tensor  # [B, T] 0 to 1
    timestamp: Tensor  # [B] float64 seconds
    T_global_from_model: Tensor  # [B, 4, 4] float64
    ids: Tensor | None = None  # [B, T] int64, -1 = none


@dataclass(frozen=True)
class PastFrame:
    """What v1 keeps of one frame. Detached."""

    cameras: CameraFeatures
    timestamp: Tensor  # [B] float64 seconds
    T_global_from_model: Tensor  # [B, 4, 4] float64
    valid: Tensor | None = None  # [B] bool, False = of another scene, not to be used; None = all

    @staticmethod
    def of(cameras: CameraFeatures, inputs: ModelInput) -> PastFrame:
        return PastFrame(cameras.detach(), inputs.timestamp, inputs.T_global_from_model)


@dataclass(frozen=True)
class TemporalState:
    """Everything that flows from one frame to the next: argument and return value of the model.

    A value is never changed; every frame makes a new one, so an old state can be used again.
    """

    instances: CachedInstances | None = None  # v2, v3
    next_id: Tensor | None = None  # [] int64: the id that the next new instance of any sample gets
    history: tuple[PastFrame, ...] = ()  # v1, most recent first
    noisy: Any = None  # training: cached noisy queries, see decoder.NoisyQueries
    seconds: float | None = None  # batch 1: the time stamp of the newest frame in it, where the host has it

    def to(self, device: torch.device | str) -> TemporalState:
        return map_tensors(self, lambda tensor: tensor.to(device))

    def detach(self) -> TemporalState:
        return map_tensors(self, Tensor.detach)

    def forget(self) -> TemporalState:
        """No instances and no history; ids go on counting, so that no id is given twice."""
        return TemporalState(next_id=self.next_id)

    @property
    def batch_size(self) -> int | None:
        if self.instances is not None:
            return self.instances.feature.shape[0]
        return self.history[0].timestamp.shape[0] if self.history else None
