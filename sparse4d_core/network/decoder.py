"""The recurrent decoder (v2, v3): layers over instances that outlive the frame.

Source: Sparse4D v2, figure 2; decoupled attention and quality estimation: v3, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import Sparse4DConfig
from ..model_io import ModelInput, ModelOutput
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


@dataclass(frozen=True)
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
        fresh = ~memory.same_scene if memory is not None and clean else None
        output, feature, noisy = self.run_layers(cameras, memory, noisy, fresh)
        return self.finish(output, feature, noisy, inputs, memory, state)

    def run_layers(
        self,
        cameras: CameraFeatures,
        memory: Memory | None,
        noisy: NoisyQueries | None = None,
        fresh: Tensor | None = None,
    ) -> tuple[ModelOutput, Tensor, NoisyQueries | None]:
        """All layers of one frame.

        Args:
            memory: the cached instances, moved into this frame; None without a cache.
            fresh: [B] bool, samples that attend to themselves instead of to the cached instances; None: no sample.

        Returns:
            the output without ids, the rows' last features [B, A + D, C], and the noisy queries after their merge.
        """
        config = self.config
        feature, anchor, mask = self.first_rows(cameras.projection.shape[0], noisy)
        embed = self.anchor_encoder(anchor)
        keys = None if memory is None else self.memory_keys(memory)
        default = feature.new_full((feature.shape[0],), config.temporal.default_interval)
        output = ModelOutput([], [], [], feature, default if memory is None else memory.time_interval)
        for i, layer in enumerate(self.layers):
            # The instances look at the last frame's, at each other and at the images.
            if layer.temporal_attention is not None:
                feature = self.attend_to_memory(layer.temporal_attention, feature, embed, keys, mask, fresh)
            if layer.attention is not None:
                feature = layer.attention_norm(self.attend(layer.attention, feature, embed, mask))
            feature = layer.feed_forward(layer.aggregation(feature, anchor, embed, cameras))
            # Classes and quality are needed for the losses, to choose what cached instances replace, and at the end.
            logits = quality = None
            if self.training or i in (0, config.num_single_frame_layers - 1, len(self.layers) - 1):
                logits, quality = layer.refine.classify(feature, embed)
            anchor = layer.refine(feature, anchor, embed, output.time_interval)
            output.anchors.append(anchor)
            output.class_logits.append(logits)
            output.quality.append(quality)
            if i + 1 == config.num_single_frame_layers and memory is not None:
                feature, anchor, noisy = self.take_up(memory, feature, anchor, logits, noisy)
            if i + 1 < len(self.layers):
                embed = self.anchor_encoder(anchor)
            if i + 1 > config.num_single_frame_layers and keys is not None:
                keys = replace(keys, embed=embed[:, : keys.feature.shape[1]])
        return output, feature, noisy

    def first_rows(self, batch: int, noisy: NoisyQueries | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The learned tables for every sample, D noisy queries with zero features behind them.

        Returns feature [B, A + D, C], anchor [B, A + D, 11] and the mask [A + D, A + D] of who may not see whom.
        """
        feature = self.instance_feature.expand(batch, -1, -1)
        anchor = self.anchor.expand(batch, -1, -1)
        if noisy is None:
            return feature, anchor, None
        feature = torch.cat([feature, feature.new_zeros(batch, noisy.anchor.shape[1], feature.shape[2])], dim=1)
        return feature, torch.cat([anchor, noisy.anchor], dim=1), noisy.attention_mask(self.config.num_anchors)

    def memory_keys(self, memory: Memory) -> MemoryKeys:
        return MemoryKeys(memory.feature, self.fc_before(memory.feature), self.anchor_encoder(memory.anchor))

    def attend(self, attention: InstanceAttention, feature: Tensor, embed: Tensor, mask: Tensor | None) -> Tensor:
        """Instances of the frame among themselves."""
        key = attention.join(feature, embed)
        return self.fc_after(attention(feature, embed, key, self.fc_before(feature), mask))

    def attend_to_memory(
        self,
        attention: InstanceAttention,
        feature: Tensor,
        embed: Tensor,
        keys: MemoryKeys | None,
        mask: Tensor | None,
        fresh: Tensor | None,
    ) -> Tensor:
        """Attention to the cached instances; `fresh` [B] samples, and all without a cache, attend to themselves."""
        if keys is None:
            return self.attend_alone(attention, feature, embed, mask)
        attended = self.fc_after(attention(feature, embed, attention.join(keys.feature, keys.embed), keys.value))
        if fresh is None:
            return attended
        return torch.where(fresh[:, None, None], self.attend_alone(attention, feature, embed, mask), attended)

    def attend_alone(self, attention: InstanceAttention, feature: Tensor, embed: Tensor, mask: Tensor | None) -> Tensor:
        """Temporal attention of a first frame. In v3 its value is the query itself, without `fc_before`."""
        key = attention.join(feature, embed)
        value = key if self.config.decoupled_attention else feature
        return self.fc_after(attention(feature, embed, key, value, mask))

    def take_up(
        self, memory: Memory, feature: Tensor, anchor: Tensor, class_logits: Tensor, noisy: NoisyQueries | None
    ) -> tuple[Tensor, Tensor, NoisyQueries | None]:
        """After the single-frame layers: cached instances join the best new ones; noisy rows meet their cached groups.

        Returns the new feature [B, A + D, C], anchor [B, A + D, 11] and noisy queries.
        """
        num = self.config.num_anchors
        merged_feature, merged_anchor = merge(memory, feature[:, :num], anchor[:, :num], class_logits[:, :num])
        if noisy is None:
            return merged_feature, merged_anchor, None
        noisy_feature, noisy_anchor = feature[:, num:], anchor[:, num:]
        if memory.noisy is not None:
            noisy_feature, noisy_anchor, noisy = noisy.merge(
                noisy_feature, noisy_anchor, memory.noisy, memory.same_scene
            )
        feature = torch.cat([merged_feature, noisy_feature], dim=1)
        return feature, torch.cat([merged_anchor, noisy_anchor], dim=1), noisy

    def finish(
        self,
        output: ModelOutput,
        feature: Tensor,
        noisy: NoisyQueries | None,
        inputs: ModelInput,
        memory: Memory | None,
        state: TemporalState,
    ) -> tuple[ModelOutput, TemporalState]:
        """The frame's output, in evaluation with ids, and what the next frame gets."""
        num, temporal = self.config.num_anchors, self.config.temporal
        anchor, logits = output.anchors[-1], output.class_logits[-1][:, :num].detach()
        ids, next_id = None, state.next_id
        if self.config.tracking and not self.training:
            ids, next_id = assign_ids(memory, logits, next_id, self.config.score_threshold)
        confidence = decayed_confidence(memory, logits)
        cached = remember(confidence, feature[:, :num], anchor[:, :num], inputs, temporal.num_instances, ids)
        cached_noisy = None if noisy is None else noisy.remember(feature[:, num:], anchor[:, num:])
        output = replace(output, instance_feature=feature, instance_ids=ids, noisy=noisy)
        return output, TemporalState(cached, next_id, noisy=cached_noisy)
