"""Deformable aggregation in operators that every runtime has: one GridSample a level, for all cameras at once.

Equal to `cuda_ops.reference` up to rounding (test/core/export/test_portable_aggregation.py). Axes are ordered so that
what is summed lies apart from what is contiguous: key points outside, anchors inside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops.reference import MIN_DEPTH

from ..network.aggregation import CameraFeatures, DeformableAggregation

OUTSIDE = 0.0  # place in the image, -1 to 1, where points are sampled that count nothing: finite, whatever they were


class PortableAggregation(nn.Module):
    """Takes the place of a :class:`DeformableAggregation` in evaluation, for batches of one.

    The columns of its weights come as (group, level, point): the softmax then runs over the last axis.
    """

    def __init__(self, aggregation: DeformableAggregation):
        super().__init__()
        config = aggregation.config
        self.aggregation = aggregation
        self.groups, self.levels = config.num_groups, config.num_levels
        self.points = aggregation.kps_generator.num_points
        weight, bias = aggregation.weights_fc.weight.detach(), aggregation.weights_fc.bias.detach()
        sizes = (self.levels, self.points, self.groups)
        self.register_buffer("weight", weight.unflatten(0, sizes).permute(2, 0, 1, 3).flatten(0, 2).contiguous())
        self.register_buffer("bias", bias.unflatten(0, sizes).permute(2, 0, 1).flatten().contiguous())

    def forward(self, feature: Tensor, anchor: Tensor, embed: Tensor, cameras: CameraFeatures) -> Tensor:
        """As DeformableAggregation.forward; batch 1."""
        points = self.aggregation.kps_generator(anchor, feature)[0]
        grid, inside = self.locations(points, cameras)
        weights = self.attention_weights((feature + embed)[0], cameras.projection) * inside
        gathered = self.gather(cameras.maps, grid, weights)
        return self.aggregation.add_residual(gathered[None], feature)

    def locations(self, points: Tensor, cameras: CameraFeatures) -> tuple[Tensor, Tensor]:
        """points [A, P, 3] -> grid [N, P, A, 2], -1 to 1, and [N, 1, P, A] 1 where the point is inside, else 0."""
        anchors = points.shape[0]
        homogeneous = F.pad(points.transpose(0, 1).reshape(1, -1, 3), (0, 1), value=1.0)  # [1, P * A, 4]
        pixels = homogeneous @ cameras.projection[0, :, :3].transpose(-1, -2)  # [N, P * A, 3]
        place = pixels[..., :2] / pixels[..., 2:].clamp(min=MIN_DEPTH) / cameras.image_wh[0, :, None]
        inside = ((place > 0) & (place < 1)).all(-1, keepdim=True)
        grid = torch.where(inside, place * 2 - 1, OUTSIDE)
        return grid.unflatten(1, (-1, anchors)), inside.to(grid.dtype).view(grid.shape[0], 1, -1, anchors)

    def attention_weights(self, query: Tensor, projection: Tensor) -> Tensor:
        """query [A, C], projection [1, N, 4, 4] -> weights [L, N, G, P, A]; per group they sum to 1."""
        camera = self.aggregation.camera_encoder(projection[0, :, :3].flatten(-2))  # [N, C]
        of_query = F.linear(query, self.weight, self.bias).unflatten(1, (self.groups, 1, -1))  # [A, G, 1, L * P]
        of_camera = F.linear(camera, self.weight).unflatten(1, (self.groups, -1)).transpose(0, 1)  # [G, N, L * P]
        weights = (of_query + of_camera).flatten(2).softmax(-1)
        return weights.unflatten(2, (-1, self.levels, self.points)).permute(3, 2, 1, 4, 0)

    def gather(self, maps: list[Tensor], grid: Tensor, weights: Tensor) -> Tensor:
        """maps: L of [1, N, C, h, w], grid [N, P, A, 2], weights [L, N, G, P, A] -> [A, C]."""
        total: Tensor | None = None
        for level, feature in enumerate(maps):
            sampled = F.grid_sample(feature[0].to(grid.dtype), grid, align_corners=False)  # [N, C, P, A]
            sampled = sampled.unflatten(1, (self.groups, -1))  # [N, G, C / G, P, A]
            gathered = (sampled * weights[level].unsqueeze(2)).sum(3)
            total = gathered if total is None else total + gathered
        return total.sum(0).flatten(0, 1).transpose(0, 1)
