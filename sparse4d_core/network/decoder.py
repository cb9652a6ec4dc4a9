"""The recurrent decoder (v2, v3): layers over instances that outlive the frame.

Source: Sparse4D v2, figure 2; decoupled attention and quality estimation: v3, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import Sparse4DConfig
from ..types import ModelInput, ModelOutput
from .aggregation import CameraFeatures, DeformableAggregation
from .attention import InstanceAttention
from .decoder_layer import DecoderLayer
from .initial_anchors import spread_anchors
from .instance_memory import Memory, assign_ids, decayed_confidence, merge, recall, remember
from .layers import AnchorEncoder
from .linear import Linear
from .state import TemporalState


class NoisyQueries(Protocol):
    """Denoising queries of a training frame (v3): D rows behind the A ordinary ones. Implemented in training/."""

    anchor: Tensor  # [B, D, 11]

    def attention_mask(self, num_anchors: int) -> Tensor:
        """[A + D, A + D] bool, True = blocked."""

    def merge(
        self, feature: Tensor, anchor: Tensor, cached: Any, same_scene: Tensor
    ) -> tuple[Tensor, Tensor, NoisyQueries]:
        """Noisy rows [B, D, C] and [B, D, 11] after the first layer, with the groups cached in the last frame
        (what `remember` gave, its anchors moved into this frame) in place; and the queries with merged targets."""

    def remember(self, feature: Tensor, anchor: Tensor) -> Any:
        """What to cache of the noisy rows [B, D, ...] after the last layer, detached: a dataclass of tensors with a
        method `move(project)` that returns it with its anchors [B, M, 11] replaced by project(anchors)."""


@dataclass
class Rows:
    """The instances on their way through the layers: A ordinary rows, then D noisy ones in training."""

    feature: Tensor  # [B, A + D, C]
    anchor: Tensor  # [B, A + D, 11]
    embed: Tensor  # [B, A + D, C] embedding of the anchor
    mask: Tensor | None = None  # [A + D, A + D] bool, True = blocked
    noisy: NoisyQueries | None = None


@dataclass
class MemoryKeys:
    """Cached instances as keys and values; the values stay the same in all layers of a frame."""

    feature: Tensor  # [B, T, C]
    value: Tensor  # [B, T, D]
    embed: Tensor  # [B, T, C]


class RecurrentDecoder(nn.Module):
    """Instances of this frame and of the last one to refined boxes, classes, quality and the next state."""

    def __init__(self, config: Sparse4DConfig):
        super().__init__()
        self.config = config
        dims = config.embed_dims
        self.anchor = nn.Parameter(spread_anchors(config.num_anchors))
        self.instance_feature = nn.Parameter(torch.zeros(config.num_anchors, dims), requires_grad=False)
        self.anchor_encoder = AnchorEncoder(config.anchor_encoder)
        self.layers = nn.ModuleList(
            DecoderLayer(
                config,
                DeformableAggregation(dims, config.aggregation),
                attention=i > 0,
                temporal_attention=i >= config.num_single_frame_layers,
            )
            for i in range(config.num_decoder_layers)
        )
        if config.decoupled_attention:
            self.fc_before = Linear(dims, 2 * dims, bias=False)
            self.fc_after = Linear(2 * dims, dims, bias=False)
        else:
            self.fc_before = self.fc_after = nn.Identity()

    def forward(
        self,
        cameras: CameraFeatures,
        inputs: ModelInput,
        state: TemporalState,
        noisy: NoisyQueries | None = None,
        clean: bool = False,
    ) -> tuple[ModelOutput, TemporalState]:
        """One frame.

        Args:
            noisy: denoising queries, in training only.
            clean: samples of another scene than the cached instances must not see them at all; the reference lets
                them through as keys of the temporal attention and as confidences.
        """
        memory = recall(state, inputs, self.config.temporal, clean)
        rows = self.first_rows(inputs.images.shape[0], noisy)
        keys = self.memory_keys(memory)
        fresh = ~memory.same_scene if memory is not None and clean else None
        default = rows.feature.new_full((rows.feature.shape[0],), self.config.temporal.default_interval)
        interval = default if memory is None else memory.time_interval
        output = ModelOutput([], [], [], rows.feature, interval)
        for i, layer in enumerate(self.layers):
            self.run_layer(layer, rows, cameras, keys, fresh)
            self.report(output, layer, rows, i)
            if i + 1 == self.config.num_single_frame_layers and memory is not None:
                self.take_up(memory, rows, output.class_logits[-1])
            if i + 1 < len(self.layers):
                rows.embed = self.anchor_encoder(rows.anchor)
            if i + 1 > self.config.num_single_frame_layers and keys is not None:
                keys.embed = rows.embed[:, : keys.feature.shape[1]]
        output.instance_feature, output.noisy = rows.feature, rows.noisy
        return output, self.next_state(output, rows, inputs, memory, state)

    def first_rows(self, batch: int, noisy: NoisyQueries | None) -> Rows:
        """The learned tables for every sample, noisy queries with zero features behind them."""
        feature = self.instance_feature.expand(batch, -1, -1)
        anchor = self.anchor.expand(batch, -1, -1)
        mask = None
        if noisy is not None:
            feature = torch.cat([feature, feature.new_zeros(batch, noisy.anchor.shape[1], feature.shape[2])], dim=1)
            anchor = torch.cat([anchor, noisy.anchor], dim=1)
            mask = noisy.attention_mask(self.config.num_anchors)
        return Rows(feature, anchor, self.anchor_encoder(anchor), mask, noisy)

    def memory_keys(self, memory: Memory | None) -> MemoryKeys | None:
        if memory is None:
            return None
        return MemoryKeys(memory.feature, self.fc_before(memory.feature), self.anchor_encoder(memory.anchor))

    def run_layer(
        self, layer: DecoderLayer, rows: Rows, cameras: CameraFeatures, keys: MemoryKeys | None, fresh: Tensor | None
    ) -> None:
        """Everything before the refinement; changes rows.feature."""
        if layer.temporal_attention is not None:
            rows.feature = self.attend_to_memory(layer.temporal_attention, rows, keys, fresh)
        if layer.attention is not None:
            rows.feature = layer.attention_norm(self.attend(layer.attention, rows))
        rows.feature = layer.feed_forward(layer.aggregation(rows.feature, rows.anchor, rows.embed, cameras))

    def attend(self, attention: InstanceAttention, rows: Rows) -> Tensor:
        """Instances of the frame among themselves."""
        key = attention.join(rows.feature, rows.embed)
        return self.fc_after(attention(rows.feature, rows.embed, key, self.fc_before(rows.feature), rows.mask))

    def attend_to_memory(
        self, attention: InstanceAttention, rows: Rows, keys: MemoryKeys | None, fresh: Tensor | None
    ) -> Tensor:
        """Attention to the cached instances; `fresh` [B] samples, and all without a cache, attend to themselves."""
        if keys is None:
            return self.attend_alone(attention, rows)
        key = attention.join(keys.feature, keys.embed)
        attended = self.fc_after(attention(rows.feature, rows.embed, key, keys.value))
        if fresh is None:
            return attended
        return torch.where(fresh[:, None, None], self.attend_alone(attention, rows), attended)

    def attend_alone(self, attention: InstanceAttention, rows: Rows) -> Tensor:
        """Temporal attention of a first frame. In v3 its value is the query itself, without `fc_before`."""
        key = attention.join(rows.feature, rows.embed)
        value = key if self.config.decoupled_attention else rows.feature
        return self.fc_after(attention(rows.feature, rows.embed, key, value, rows.mask))

    def report(self, output: ModelOutput, layer: DecoderLayer, rows: Rows, index: int) -> None:
        """Refined boxes of every layer; classes and quality where they are needed. Changes rows.anchor."""
        logits = quality = None
        if self.training or index in (0, self.config.num_single_frame_layers - 1, len(self.layers) - 1):
            logits, quality = layer.refine.classify(rows.feature, rows.embed)
        rows.anchor = layer.refine(rows.feature, rows.anchor, rows.embed, output.time_interval)
        output.anchors.append(rows.anchor)
        output.class_logits.append(logits)
        output.quality.append(quality)

    def take_up(self, memory: Memory, rows: Rows, class_logits: Tensor) -> None:
        """After the single-frame layers: cached instances join the best new ones; changes rows.feature and anchor."""
        num = self.config.num_anchors
        feature, anchor = merge(memory, rows.feature[:, :num], rows.anchor[:, :num], class_logits[:, :num])
        if rows.noisy is not None:
            noisy_feature, noisy_anchor = rows.feature[:, num:], rows.anchor[:, num:]
            if memory.noisy is not None:
                noisy_feature, noisy_anchor, rows.noisy = rows.noisy.merge(
                    noisy_feature, noisy_anchor, memory.noisy, memory.same_scene
                )
            feature = torch.cat([feature, noisy_feature], dim=1)
            anchor = torch.cat([anchor, noisy_anchor], dim=1)
        rows.feature, rows.anchor = feature, anchor

    def next_state(
        self, output: ModelOutput, rows: Rows, inputs: ModelInput, memory: Memory | None, state: TemporalState
    ) -> TemporalState:
        """What the next frame gets; in evaluation the instances get their ids here."""
        num, temporal = self.config.num_anchors, self.config.temporal
        logits = output.class_logits[-1][:, :num].detach()
        next_id = state.next_id
        if self.config.tracking and not self.training:
            output.instance_ids, next_id = assign_ids(memory, logits, next_id, self.config.score_threshold)
        confidence = decayed_confidence(memory, logits, temporal.confidence_decay)
        feature, anchor = rows.feature[:, :num], rows.anchor[:, :num]
        cached = remember(confidence, feature, anchor, inputs, temporal.num_instances, output.instance_ids)
        noisy = None if rows.noisy is None else rows.noisy.remember(rows.feature[:, num:], rows.anchor[:, num:])
        return TemporalState(cached, next_id, noisy=noisy)
