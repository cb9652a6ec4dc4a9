"""Deformable aggregation: every instance gathers image features at its key points, weighted by attention.

Source: Sparse4D v1, section 3.3; the efficient operator and the camera embedding are v2's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops import flatten_maps, fused_deformable_aggregation, reference
from cuda_ops.layout import Table

from ..config import AggregationConfig
from ..geometry import project
from .keypoints import KeypointGenerator
from .layers import mlp
from .linear import Linear, linear


@dataclass
class CameraFeatures:
    """What all cameras saw at one instant."""

    maps: list[Tensor]  # L levels of [B, N, C, h, w]; may be of lower precision than the instances
    projection: Tensor  # [B, N, 4, 4] model frame homogeneous -> pixels
    image_wh: Tensor  # [B, N, 2] pixels
    _flat: tuple[Tensor, Table, Table] | None = field(default=None, repr=False)

    def flat(self) -> tuple[Tensor, Table, Table]:
        """The operator's layout (:func:`cuda_ops.flatten_maps`), made once per frame, shared by all decoder layers."""
        if self._flat is None:
            self._flat = flatten_maps(self.maps)
        return self._flat

    def detach(self) -> CameraFeatures:
        return CameraFeatures([m.detach() for m in self.maps], self.projection, self.image_wh)


def gather_points(maps: list[Tensor], location: Tensor, weights: Tensor) -> Tensor:
    """Bilinear grid sampling (zeros outside, half-pixel centres) summed over cameras and levels, per key point.

    Cameras and levels are added one after another: their samples together are the largest tensor of the model, and its
    weighted copy would be a second one.

    Args:
        maps: L of [B, N, C, h, w].
        location: [B, N, A, P, 2] relative positions, 0 to 1 inside.
        weights: [B, A, N, L, P, G].

    Returns:
        [B, A, P, C]
    """
    groups = weights.shape[-1]
    grid = (location * 2 - 1).flatten(0, 1)
    total: Tensor | None = None
    for level, feature in enumerate(maps):
        sampled = F.grid_sample(feature.flatten(0, 1), grid, align_corners=False)  # [B * N, C, A, P]
        sampled = sampled.unflatten(0, location.shape[:2]).unflatten(2, (groups, -1))  # [B, N, G, C / G, A, P]
        weight = weights[:, :, :, level].permute(0, 2, 4, 1, 3).contiguous().unsqueeze(3)  # [B, N, G, 1, A, P]
        for of_camera, its_weight in zip(sampled.unbind(1), weight.unbind(1), strict=True):
            total = of_camera * its_weight if total is None else total.addcmul_(of_camera, its_weight)
    return total.flatten(1, 2).permute(0, 2, 3, 1)


class DeformableAggregation(nn.Module):
    """Image features of one frame for every instance.

    Args:
        dims: width of the instance feature.
        config: see :class:`AggregationConfig`.
        num_cameras: cameras the weights are made for; only without camera embedding, with it any number works.
    """

    kernels = True  # False: the operator's reference in plain PyTorch, to compare with

    def __init__(self, dims: int, config: AggregationConfig, num_cameras: int = 6):
        super().__init__()
        self.config = config
        self.num_cameras = num_cameras
        self.kps_generator = KeypointGenerator(dims, config.num_learnable_points, config.fixed_points)
        self.num_weights = config.num_groups * config.num_levels * self.kps_generator.num_points
        self.output_proj = Linear(dims, dims)
        self.proj_drop = nn.Dropout(config.output_drop)
        if config.camera_embed:
            self.camera_encoder = nn.Sequential(*mlp(12, dims, 1, 2))
            self.weights_fc = Linear(dims, self.num_weights)
        else:
            self.weights_fc = Linear(dims, self.num_weights * num_cameras)

    def forward(self, feature: Tensor, anchor: Tensor, embed: Tensor, cameras: CameraFeatures) -> Tensor:
        """feature [B, A, C], anchor [B, A, 11], embed [B, A, C] -> [B, A, 2C] ("cat") or [B, A, C] ("add")."""
        points = self.kps_generator(anchor, feature)
        weights = self.attention_weights(feature + embed, cameras)
        view = (points, cameras.projection, cameras.image_wh)
        if self.config.sampling == "operator":
            operator = fused_deformable_aggregation if self.kernels else reference.fused_deformable_aggregation
            gathered = operator(*cameras.flat(), *view, weights).to(feature.dtype)
        else:
            gathered = gather_points(cameras.maps, project(*view), weights).sum(2)
        return self.add_residual(gathered, feature)

    def attention_weights(self, query: Tensor, cameras: CameraFeatures) -> Tensor:
        """query [B, A, C] (feature + embedding) -> weights [B, A, N, L, P, G] summing to 1 over N, L, P per group."""
        num_cameras = cameras.projection.shape[1]
        if self.config.camera_embed:
            logits = self._logits_per_camera(query, cameras.projection)
        elif num_cameras == self.num_cameras:
            logits = self.weights_fc(query)
        else:
            raise ValueError(
                f"projection: the attention weights of this model are made for {self.num_cameras} cameras, got "
                f"{num_cameras}; use a preset with camera embedding (v2, v3) for other rigs"
            )
        logits = logits.reshape(*query.shape[:2], -1, self.config.num_groups)
        points = self.kps_generator.num_points
        shape = (num_cameras, self.config.num_levels, points, self.config.num_groups)
        weights = logits.softmax(dim=2).unflatten(2, shape[:3])
        return self._drop_points(weights)

    def add_residual(self, gathered: Tensor, feature: Tensor) -> Tensor:
        output = self.proj_drop(self.output_proj(gathered))
        return torch.cat([output, feature], dim=-1) if self.config.residual == "cat" else output + feature

    def _logits_per_camera(self, query: Tensor, projection: Tensor) -> Tensor:
        """weights_fc(query + camera), as weights_fc(query) + its matrix times camera: N times less work."""
        camera = self.camera_encoder(projection[:, :, :3].flatten(-2))  # [B, N, C]
        matrix, onednn = self.weights_fc.weight, self.weights_fc.onednn
        return self.weights_fc(query)[:, :, None] + linear(camera, matrix, onednn=onednn)[:, None]

    def _drop_points(self, weights: Tensor) -> Tensor:
        """Training: drops a point in a camera for all levels and groups at once."""
        drop = self.config.attention_drop
        if not self.training or drop == 0:
            return weights
        batch, anchors, cameras, _, points, _ = weights.shape
        kept = torch.rand(batch, anchors, cameras, 1, points, 1, device=weights.device) > drop
        return weights * kept / (1 - drop)
