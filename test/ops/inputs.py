"""Random arguments of the operators."""

from __future__ import annotations

import torch
from torch import Tensor


def level_tables(sizes: list[list[tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    """spatial_shapes [N, L, 2] and scale_start_index [N, L] of maps laid one after the other."""
    shapes = torch.tensor(sizes, dtype=torch.int64).reshape(len(sizes), -1, 2)
    rows = shapes.prod(-1).flatten()
    return shapes, (rows.cumsum(0) - rows).view(shapes.shape[:2])


def plain_arguments(
    batch: int = 2,
    anchors: int = 7,
    points: int = 3,
    sizes: list[list[tuple[int, int]]] | None = None,
    channels: int = 32,
    groups: int = 4,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of `deformable_aggregation`; a quarter of the locations lies outside."""
    generator = torch.Generator().manual_seed(seed)
    shapes, starts = level_tables(sizes or [[(6, 9), (3, 5)], [(4, 4), (2, 2)]])
    cameras, levels = starts.shape
    rows = int(shapes.prod(-1).sum())
    coordinates = torch.float64 if dtype == torch.float64 else torch.float32
    features = torch.randn(batch, rows, channels, generator=generator, dtype=torch.float64).to(dtype)
    location = torch.rand(batch, anchors, points, cameras, 2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    shape = (batch, anchors, points, cameras, levels, groups)
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    return features, shapes, starts, location.to(coordinates), weights.to(coordinates)


def fused_arguments(dtype: torch.dtype = torch.float32, seed: int = 0, **sizes) -> tuple[Tensor, ...]:
    """Arguments of `fused_deformable_aggregation`: cameras look along x from the origin, points lie on both sides."""
    features, shapes, starts, location, weights = plain_arguments(dtype=dtype, seed=seed, **sizes)
    batch, anchors, points, cameras, _ = location.shape
    generator = torch.Generator().manual_seed(seed + 1)
    key_points = torch.randn(batch, anchors, points, 3, generator=generator).to(location.dtype) * 8
    # Depth along x; 60 degrees of view on 200 x 100 pixels; every other camera looks back.
    forward = torch.tensor([[100, -170, 0, 5], [50, 0, -170, 3], [1, 0, 0, 0.5], [0, 0, 0, 1]], dtype=location.dtype)
    turn = torch.diag(torch.tensor([-1, -1, 1, 1], dtype=location.dtype))
    projection = torch.stack([forward if n % 2 == 0 else forward @ turn for n in range(cameras)])
    projection = projection.expand(batch, cameras, 4, 4).contiguous()
    image_wh = torch.tensor([200, 100], dtype=location.dtype).expand(batch, cameras, 2).contiguous()
    ordered = weights.permute(0, 1, 3, 4, 2, 5).contiguous()
    return features, shapes, starts, key_points, projection, image_wh, ordered
