"""Deformable aggregation in plain PyTorch: the definition of correct, and the fallback where no kernel is built.

Sparse4D (arXiv 2211.10581), section 3.3, "deformable 4D aggregation": every anchor owns key points; each is seen by
some cameras, sampled in every feature level, weighted per channel group and summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .layout import Table, integers

MIN_DEPTH = 1e-5
"""Projected depth is raised to this before the division; points behind a camera land far outside its image."""


def deformable_aggregation(
    features: Tensor,  # [B, sum of pixels, C]: rows of all cameras' and levels' maps, row-major, one after the other
    spatial_shapes: Table,  # [N, L, 2] integers: height, width of the map of each camera and level
    scale_start_index: Table,  # [N, L] integers: first row of that map in `features`
    sampling_location: Tensor,  # [B, A, P, N, 2]: x, y in units of the image, (0, 1) is inside
    weights: Tensor,  # [B, A, P, N, L, G]: G channel groups, channel c belongs to group c // (C / G)
) -> Tensor:
    """Sum over points, cameras and levels of weight x bilinearly interpolated feature: [B, A, C].

    A (point, camera) counts only with 0 < x < 1 and 0 < y < 1; otherwise (also NaN, infinite) it gives no value and no
    gradient. Pixel centres are at (i + 0.5) / size; neighbours outside the map count as zero.
    """
    batch, anchors, points, cameras, levels, groups = weights.shape
    channels = features.shape[2]
    inside = ((sampling_location > 0) & (sampling_location < 1)).all(-1)  # [B, A, P, N]
    location = torch.where(inside[..., None], sampling_location, 0.5)
    weights = torch.where(inside[..., None, None], weights, 0.0)
    output = weights.new_zeros(batch, anchors, channels)
    sizes, starts = integers("spatial_shapes", spatial_shapes), integers("scale_start_index", scale_start_index)
    for camera in range(cameras):
        grid = 2 * location[:, :, :, camera] - 1  # [B, A, P, 2] in grid_sample's (-1, 1)
        for level in range(levels):
            place = camera * levels + level
            height, width, start = sizes[2 * place], sizes[2 * place + 1], starts[place]
            rows = features[:, start : start + height * width].to(weights.dtype)
            maps = rows.transpose(1, 2).reshape(batch, channels, height, width)
            sampled = functional.grid_sample(maps, grid, "bilinear", "zeros", align_corners=False)  # [B, C, A, P]
            sampled = sampled.view(batch, groups, channels // groups, anchors, points)
            output = output + torch.einsum("bgcap,bapg->bagc", sampled, weights[:, :, :, camera, level]).flatten(2)
    return output.to(features.dtype)


def batched_deformable_aggregation(
    maps: Sequence[Tensor],  # L levels of [B, N, C, h, w], as a feature pyramid gives them
    sampling_location: Tensor,  # [B, A, P, N, 2]
    weights: Tensor,  # [B, A, P, N, L, G]
) -> Tensor:
    """`deformable_aggregation` with one call of grid_sample a level, for all cameras at once: [B, A, C].

    This is how the published PyTorch code samples, which then stacks the levels before it weights and sums them; adding
    them one by one takes less memory and less time. For comparisons of speed: neither path is always the faster.
    """
    batch, anchors, points, cameras, _, groups = weights.shape
    channels = maps[0].shape[2]
    inside = ((sampling_location > 0) & (sampling_location < 1)).all(-1)  # [B, A, P, N]
    location = torch.where(inside[..., None], sampling_location, 0.5)
    weights = torch.where(inside[..., None, None], weights, 0.0)
    grid = (2 * location - 1).permute(0, 3, 1, 2, 4).flatten(0, 1)  # [B * N, A, P, 2]
    output = weights.new_zeros(batch, anchors, groups, channels // groups)
    for level, level_maps in enumerate(maps):
        images = level_maps.flatten(0, 1).to(weights.dtype)
        sampled = functional.grid_sample(images, grid, "bilinear", "zeros", align_corners=False)  # [B * N, C, A, P]
        sampled = sampled.view(batch, cameras, groups, channels // groups, anchors, points)
        output = output + torch.einsum("bngcap,bapng->bagc", sampled, weights[..., level, :])
    return output.flatten(2).to(maps[0].dtype)


def project_points(
    key_points: Tensor,  # [B, A, P, 3] metres, model frame
    projection: Tensor,  # [B, N, 4, 4] model frame homogeneous -> pixels, depth in slot 2
    image_wh: Tensor,  # [B, N, 2] width, height in pixels
) -> Tensor:
    """Sampling locations [B, A, P, N, 2]: pixels after the perspective division, in units of the image."""
    batch, anchors, points, _ = key_points.shape
    homogeneous = torch.cat([key_points, torch.ones_like(key_points[..., :1])], -1).reshape(
        batch, 1, anchors * points, 4
    )
    image = (
        (homogeneous @ projection.transpose(2, 3))
        .view(batch, projection.shape[1], anchors, points, 4)
        .permute(0, 2, 3, 1, 4)
    )
    pixels = image[..., :2] / image[..., 2:3].clamp(min=MIN_DEPTH)
    return (pixels / image_wh[:, None, None]).contiguous()


def fused_deformable_aggregation(
    features: Tensor,  # [B, sum of pixels, C]
    spatial_shapes: Table,  # [N, L, 2]
    scale_start_index: Table,  # [N, L]
    key_points: Tensor,  # [B, A, P, 3] metres, model frame
    projection: Tensor,  # [B, N, 4, 4]
    image_wh: Tensor,  # [B, N, 2]
    weights: Tensor,  # [B, A, N, L, P, G]: the order in which the network's linear layer gives them
) -> Tensor:
    """`project_points` and `deformable_aggregation` in one: [B, A, C]."""
    location = project_points(key_points, projection, image_wh)
    ordered = weights.permute(0, 1, 4, 2, 3, 5)
    return deformable_aggregation(features, spatial_shapes, scale_start_index, location, ordered)
