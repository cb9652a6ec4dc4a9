"""The memory of the recurrent models (v2, v3): which instances a frame keeps, and how the next frame takes them up.

All of it is pure functions on values of fixed shape: what was remembered goes in, what to remember comes out.

    recall ──► memory: the cached instances, moved into the present frame
    merge  ──► cached instances take the place of the weakest new ones
    remember ──► the strongest instances of the frame, for the next one
    assign_ids ──► a number for every instance that has none yet

Source: Sparse4D v2, section 3.1 (recurrent instances); ids: v3, section 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import TemporalConfig
from ..geometry import elapsed, project_anchors, relative_transform
from ..model_io import ModelInput
from .state import CachedInstances, TemporalState


@dataclass(frozen=True)
class Memory:
    """Cached instances as the present frame sees them."""

    feature: Tensor  # [B, T, C]
    anchor: Tensor  # [B, T, 11] projected into the present model frame
    confidence: Tensor  # [B, T]
    ids: Tensor | None  # [B, T] int64
    same_scene: Tensor  # [B] bool: the time since the cached frame is within the limit
    time_interval: Tensor  # [B] float32 seconds: the step velocities are refined with
    decay: float | Tensor  # what confidences hold at least of what they were; [B, 1] or the same for all samples
    noisy: Any = None  # training: cached noisy queries with projected anchors


def recall(state: TemporalState, inputs: ModelInput, config: TemporalConfig, clean: bool = False) -> Memory | None:
    """Cached instances moved into the present frame by ego motion and their own velocity; None without a cache.

    All samples are projected, also those of another scene (`same_scene` False). There the reference still lets the
    old confidences raise new ones; `clean` removes them.
    """
    cached = state.instances
    if cached is None:
        return None
    dt = elapsed(inputs.timestamp, cached.timestamp)
    same_scene = dt.abs() <= config.max_interval
    time_interval, decay = temporal_rates(dt, same_scene, config)
    T_now_from_cached = relative_transform(inputs.T_global_from_model, cached.T_global_from_model)

    def move(anchor: Tensor) -> Tensor:
        return project_anchors(anchor, T_now_from_cached, -dt, config.swap_yaw_on_projection)

    return Memory(
        cached.feature,
        move(cached.anchor),
        torch.where(same_scene[:, None], cached.confidence, 0.0) if clean else cached.confidence,
        cached.ids,
        same_scene,
        time_interval,
        decay,
        None if state.noisy is None else state.noisy.move(move),
    )


def temporal_rates(dt: Tensor, same_scene: Tensor, config: TemporalConfig) -> tuple[Tensor, float | Tensor]:
    """How fast velocities and confidences change after dt [B] seconds: `Memory.time_interval` and `Memory.decay`."""
    if not config.rate_invariant:
        return torch.where((dt != 0) & same_scene, dt, config.default_interval), config.confidence_decay
    decay = config.confidence_decay ** (dt.abs() / config.default_interval)
    return torch.full_like(dt, config.default_interval), decay[:, None]


def merge(memory: Memory, feature: Tensor, anchor: Tensor, class_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Cached instances first, then the best of the new ones, as many as there were rows.

    Samples of another scene keep their own rows. feature [B, A, C], anchor [B, A, 11], class_logits [B, A, classes];
    rows behind them (noisy queries) must be cut off before.
    """
    num_new = feature.shape[1] - memory.feature.shape[1]
    best = class_logits.amax(-1).topk(num_new, dim=1).indices
    keep = memory.same_scene[:, None, None]
    merged_feature = torch.cat([memory.feature, take_rows(feature, best)], dim=1)
    merged_anchor = torch.cat([memory.anchor, take_rows(anchor, best)], dim=1)
    return torch.where(keep, merged_feature, feature), torch.where(keep, merged_anchor, anchor)


def decayed_confidence(memory: Memory | None, class_logits: Tensor) -> Tensor:
    """Largest class probability of every row [B, A]; rows that were cached hold at least a share of what they had."""
    confidence = class_logits.amax(-1).sigmoid()
    if memory is None:
        return confidence
    num_cached = memory.confidence.shape[1]
    raised = torch.maximum(confidence[:, :num_cached], memory.confidence * memory.decay)
    return torch.cat([raised, confidence[:, num_cached:]], dim=1)


def remember(
    confidence: Tensor, feature: Tensor, anchor: Tensor, inputs: ModelInput, num: int, ids: Tensor | None = None
) -> CachedInstances:
    """The `num` rows of highest confidence [B, A], detached."""
    strongest = confidence.detach().topk(num, dim=1)
    rows = strongest.indices
    return CachedInstances(
        take_rows(feature.detach(), rows),
        take_rows(anchor.detach(), rows),
        strongest.values,
        inputs.timestamp,
        inputs.T_global_from_model,
        None if ids is None else ids.gather(1, rows),
    )


def assign_ids(
    memory: Memory | None, class_logits: Tensor, next_id: Tensor | None, threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """Cached rows keep their id, every other row gets the next one, counted over samples and rows.

    Args:
        class_logits: [B, A, classes] of the last layer.
        next_id: [] int64; None starts at 0.
        threshold: rows whose largest class probability is below it get no id (-1).

    Returns:
        ids [B, A] int64 and the next free id.
    """
    scores = class_logits.amax(-1).sigmoid()
    ids = torch.full(scores.shape, -1, dtype=torch.int64, device=scores.device)
    if memory is not None and memory.ids is not None:
        kept = torch.where(memory.same_scene[:, None], memory.ids, -1)
        ids = torch.cat([kept, ids[:, kept.shape[1] :]], dim=1)
    new = ids < 0
    if threshold is not None:
        new = new & (scores >= threshold)
    first = torch.zeros((), dtype=torch.int64, device=scores.device) if next_id is None else next_id
    number = new.flatten().cumsum(0).view_as(ids)
    return torch.where(new, first + number - 1, ids), first + number.flatten()[-1]


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """x [B, A, D], rows [B, K] -> [B, K, D]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
