"""The decoder of v1: one frame, or one frame and a queue of past frames' image features.

Instances start from the learned tables in every frame; what v1 remembers is what the cameras saw. Every key point is
followed back in time, by the instance's velocity and the ego motion, and looked up in the past images too.

Source: Sparse4D v1, sections 3.3 (4D key points, hierarchical fusion) and 3.4 (depth reweighting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..config import AggregationConfig, Sparse4DConfig
from ..geometry import elapsed, project, project_anchors, relative_transform
from ..model_io import ModelInput, ModelOutput
from .aggregation import CameraFeatures, DeformableAggregation, gather_points
from .decoder_layer import DecoderLayer
from .initial_anchors import spread_anchors
from .keypoints import move_to_past
from .layers import AnchorEncoder, FeedForward
from .linear import Linear
from .state import PastFrame, TemporalState


@dataclass
class PastView:
    """A past frame as the instances of the present one use it."""

    cameras: CameraFeatures
    interval: Tensor  # [B] float32: t_now - t_past, seconds
    T_past_from_now: Tensor  # [B, 4, 4] float32
    valid: Tensor | None = None  # [B] bool

    @staticmethod
    def of(past: PastFrame, inputs: ModelInput) -> PastView:
        return PastView(
            past.cameras,
            elapsed(inputs.timestamp, past.timestamp),
            relative_transform(past.T_global_from_model, inputs.T_global_from_model),
            past.valid,
        )


class DepthReweighting(nn.Module):
    """Weighs point features by their confidence in the distance of their instance.

    The feature predicts a distribution over distance bins; the confidence is its (normalised) linear interpolation at
    the distance of the anchor's centre. Bins: min_depth, min_depth + interval, ... max_depth, metres.
    """

    def __init__(
        self, dims: int, min_depth: float = 1.0, max_depth: float = 56.0, interval: float = 5.0, num_blocks: int = 2
    ):
        super().__init__()
        self.min_depth, self.max_depth, self.interval = min_depth, max_depth, interval
        self.num_bins = round((max_depth - min_depth) / interval) + 1
        blocks = [FeedForward(dims, dims, dims, pre_norm=False, skip="identity") for _ in range(num_blocks)]
        self.depth_fc = nn.Sequential(*blocks, Linear(dims, self.num_bins))

    def forward(self, feature: Tensor, anchor: Tensor) -> Tensor:
        """feature [B, A, P, C], anchor [B, A, 11] -> [B, A, P, C]."""
        return feature * self.confidence(feature, anchor)

    def confidence(self, feature: Tensor, anchor: Tensor) -> Tensor:
        """[B, A, P, 1]"""
        distance = anchor[..., :2].norm(dim=-1, keepdim=True).clamp(self.min_depth + 1e-5, self.max_depth - 1e-5)
        bins = torch.arange(self.num_bins, device=anchor.device) * self.interval + self.min_depth
        # Linear interpolation: only the two bins around the distance have a positive weight.
        weight = (1 - (distance - bins).abs() / self.interval).clamp(min=0)[:, :, None]  # [B, A, 1, bins]
        agreement = (self.depth_fc(feature).softmax(-1) * weight).sum(-1, keepdim=True)
        return agreement / weight.square().sum(-1, keepdim=True)


class TemporalFusion(nn.Module):
    """Joins what was gathered so far (older frames) with the next newer frame."""

    def __init__(self, dims: int, decay: float | None = 0.9, rate: float = 10.0):
        """The newer frame weighs decay ** (rate * |its age in seconds|); decay None weighs all frames alike."""
        super().__init__()
        self.decay, self.rate = decay, rate
        self.fusion_layer = Linear(2 * dims, dims)

    def forward(self, older: Tensor, newer: Tensor, age: Tensor | None) -> Tensor:
        """older, newer [B, A, P, C], age [B] seconds of the newer frame (None: the present)."""
        if self.decay is not None and age is not None:
            newer = newer * (self.decay ** (self.rate * age.abs()))[:, None, None, None]
        return self.fusion_layer(torch.cat([older, newer], dim=-1))


class HistoryAggregation(DeformableAggregation):
    """Deformable aggregation over the present frame and past ones, one feature per key point until the end.

    Args:
        fusion: decay of the temporal fusion, see :class:`TemporalFusion`.
        fuse: False adds the frames instead.
    """

    def __init__(self, dims: int, config: AggregationConfig, fuse: bool, decay: float | None = 0.9):
        super().__init__(dims, config)
        self.temp_module = TemporalFusion(dims, decay) if fuse else None

    def forward(
        self,
        feature: Tensor,
        anchor: Tensor,
        embed: Tensor,
        cameras: CameraFeatures,
        past: Sequence[PastView] = (),
        depth: DepthReweighting | None = None,
        anchor_encoder: nn.Module | None = None,
    ) -> Tensor:
        """As the parent, with:

        past: most recent first.
        depth: reweights the point features by the distance of the instance.
        anchor_encoder: embeds the anchors moved to a past frame; None uses `embed` for all frames.
        """
        points = self.kps_generator(anchor, feature)
        total: Tensor | None = None
        older_valid: Tensor | None = None
        for view in reversed(past):
            past_anchor = project_anchors(anchor, view.T_past_from_now, view.interval)
            past_embed = embed if anchor_encoder is None else anchor_encoder(past_anchor)
            past_points = move_to_past(points, anchor, view.T_past_from_now, view.interval)
            gathered = self.gather_frame(view.cameras, past_points, feature + past_embed, past_anchor, depth)
            total = self.fuse(total, zero_where_invalid(gathered, view.valid), view.interval, older_valid)
            older_valid = view.valid
        present = self.gather_frame(cameras, points, feature + embed, anchor, depth)
        return self.add_residual(self.fuse_present(total, present).sum(2), feature)

    def fuse(self, total: Tensor | None, newer: Tensor, age: Tensor, older_valid: Tensor | None) -> Tensor:
        """Older frames with the next newer one; the oldest valid frame of a sample starts unweighted."""
        if total is None:
            return newer
        if self.temp_module is None:
            return total + newer
        fused = self.temp_module(total, newer, age)
        return fused if older_valid is None else torch.where(older_valid[:, None, None, None], fused, newer)

    def fuse_present(self, total: Tensor | None, present: Tensor) -> Tensor:
        """Past and present; fusion without a past starts from zeros."""
        if self.temp_module is not None:
            return self.temp_module(torch.zeros_like(present) if total is None else total, present, None)
        return present if total is None else total + present

    def gather_frame(
        self, cameras: CameraFeatures, points: Tensor, query: Tensor, anchor: Tensor, depth: DepthReweighting | None
    ) -> Tensor:
        """Features of one frame at the key points: [B, A, P, C]."""
        weights = self.attention_weights(query, cameras)
        location = project(points, cameras.projection, cameras.image_wh)
        gathered = gather_points(cameras.maps, location, weights)
        return gathered if depth is None else depth(gathered, anchor)


def zero_where_invalid(x: Tensor, valid: Tensor | None) -> Tensor:
    """x [B, ...] with samples that are not `valid` [B] set to zero."""
    return x if valid is None else torch.where(valid.view(-1, *(1,) * (x.dim() - 1)), x, 0.0)


class HistoryDecoder(nn.Module):
    """Learned start instances to refined boxes and classes, with the past frames' features where configured."""

    def __init__(self, config: Sparse4DConfig):
        super().__init__()
        self.config = config
        dims, history = config.embed_dims, config.history
        self.anchor = nn.Parameter(spread_anchors(config.num_anchors))
        self.instance_feature = nn.Parameter(torch.randn(config.num_anchors, dims))
        self.anchor_encoder = AnchorEncoder(config.anchor_encoder)
        self.depth_module = DepthReweighting(dims) if config.depth_reweighting else None
        self.layers = nn.ModuleList(
            DecoderLayer(
                config,
                HistoryAggregation(
                    dims, config.aggregation, fuse=history is not None, decay=history.decay if history else None
                ),
            )
            for _ in range(config.num_decoder_layers)
        )

    def forward(
        self, cameras: CameraFeatures, inputs: ModelInput, state: TemporalState, noisy: None = None, clean: bool = False
    ) -> tuple[ModelOutput, TemporalState]:
        """One frame.

        Args:
            noisy: v1 trains without denoising queries.
            clean: samples whose newest past frame is too old forget all of them; the reference never forgets.
        """
        if noisy is not None:
            raise ValueError("denoising: v1 models train without noisy queries; expected None")
        queue = self.usable_history(state.history, inputs, clean)
        past = [PastView.of(frame, inputs) for frame in queue]
        batch = inputs.images.shape[0]
        feature, anchor = self.instance_feature.expand(batch, -1, -1), self.anchor.expand(batch, -1, -1)
        output = ModelOutput([], [], [], feature, self.time_interval(past, inputs))
        for i, layer in enumerate(self.layers):
            embed = self.anchor_encoder(anchor)
            attended = layer.attention(feature, embed, layer.attention.join(feature, embed), feature)
            feature = layer.attention_norm(attended)
            feature = layer.aggregation(feature, anchor, embed, cameras, past, self.depth_module, self.anchor_encoder)
            feature = layer.feed_forward(feature)
            wanted = self.training or i + 1 == len(self.layers)
            output.class_logits.append(layer.refine.classify(feature, embed)[0] if wanted else None)
            output.quality.append(None)
            anchor = layer.refine(feature, anchor, embed, output.time_interval)
            output.anchors.append(anchor)
        output.instance_feature = feature
        return output, self.next_state(cameras, inputs, queue)

    def usable_history(self, history: tuple[PastFrame, ...], inputs: ModelInput, clean: bool) -> tuple[PastFrame, ...]:
        if not clean or not history:
            return history
        recent = elapsed(inputs.timestamp, history[0].timestamp).abs() <= self.config.history.max_interval
        usable = (replace(frame, valid=recent if frame.valid is None else recent & frame.valid) for frame in history)
        return tuple(frame for frame in usable if bool(frame.valid.any()))

    def time_interval(self, past: Sequence[PastView], inputs: ModelInput) -> Tensor:
        """[B] seconds that velocities are refined over: since the newest past frame, or the default."""
        default = 0.5 if self.config.history is None else self.config.history.default_interval
        fallback = torch.full_like(inputs.timestamp, default, dtype=torch.float32)
        if not past or not self.config.history.measured_interval:
            return fallback
        interval, valid = past[0].interval, past[0].valid
        measured = interval != 0 if valid is None else (interval != 0) & valid
        return torch.where(measured, interval, fallback)

    def next_state(self, cameras: CameraFeatures, inputs: ModelInput, history: tuple[PastFrame, ...]) -> TemporalState:
        if self.config.history is None:
            return TemporalState()
        return TemporalState(history=(PastFrame.of(cameras, inputs), *history)[: self.config.history.num_frames])
