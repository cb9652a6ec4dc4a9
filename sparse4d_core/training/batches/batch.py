"""What a training step consumes: prepared by workers, pinned by the loader, moved to the device without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...model_io import ModelInput, map_tensors
from ...preprocess import collate
from .targets import Targets, collate_targets


@dataclass(frozen=True)
class PastInput:
    """A past frame of every sample of a batch."""

    inputs: ModelInput
    valid: Tensor | None = None  # [B] bool: False where the scene has no such frame; None = all have


@dataclass(frozen=True)
class Batch:
    inputs: ModelInput
    targets: Targets
    starts: Tensor  # [B] bool, on the host: the first frame of a sequence; what the slot remembers is of another one
    tokens: list[str]  # sample tokens, to name an offender
    history: tuple[PastInput, ...] = ()  # past frames, most recent first (v1)

    def to(self, device: torch.device | str) -> Batch:
        """On a device, but for `starts`; from pinned memory the copies go on while the host does."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        inputs, targets, history = map_tensors((self.inputs, self.targets, self.history), move)
        return replace(self, inputs=inputs, targets=targets, history=history)

    def pin_memory(self) -> Batch:
        """In memory that the device reads by itself; DataLoader calls this where its `pin_memory` is set."""
        return map_tensors(self, Tensor.pin_memory)


def collate_batches(samples: Sequence[Batch]) -> Batch:
    return Batch(
        collate([sample.inputs for sample in samples]),
        collate_targets([sample.targets for sample in samples]),
        torch.cat([sample.starts for sample in samples]),
        [token for sample in samples for token in sample.tokens],
        tuple(_collate_past(frames) for frames in zip(*(sample.history for sample in samples), strict=True)),
    )


def _collate_past(frames: Sequence[PastInput]) -> PastInput:
    return PastInput(collate([past.inputs for past in frames]), torch.cat([past.valid for past in frames]))
