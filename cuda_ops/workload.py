"""Operator inputs of the published sizes, with key points as a ring of cameras sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import reference

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Workload:
    """Defaults: Sparse4D v3 with ResNet-50 at 704 x 256 pixels."""

    batch: int = 1
    anchors: int = 900
    points: int = 13
    cameras: int = 6
    channels: int = 256
    groups: int = 8
    image_wh: tuple[int, int] = (704, 256)
    everywhere: bool = False  # every point visible in every camera: far more than any scene asks for

    def with_size(self, name: str, value: int) -> Workload:
        return replace(self, **{name: value})


@dataclass
class Inputs:
    features: Tensor
    spatial_shapes: Tensor
    scale_start_index: Tensor
    key_points: Tensor
    projection: Tensor
    image_wh: Tensor
    location: Tensor
    weights: Tensor  # [B, A, P, N, L, G]
    fused_weights: Tensor  # [B, A, N, L, P, G], the same numbers
    maps: list[Tensor]  # L of [B, N, C, h, w], the same numbers as features

    def plain(self) -> tuple[Tensor, ...]:
        return self.features, self.spatial_shapes, self.scale_start_index, self.location, self.weights

    def batched(self) -> tuple[list[Tensor], Tensor, Tensor]:
        return self.maps, self.location, self.weights

    def view(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.key_points, self.projection, self.image_wh

    def fused(self) -> tuple[Tensor, ...]:
        return self.features, self.spatial_shapes, self.scale_start_index, *self.view(), self.fused_weights

    def samples(self) -> int:
        """Bilinear samples that count: visible (point, camera) pairs x levels."""
        inside = ((self.location > 0) & (self.location < 1)).all(-1)
        return int(inside.sum()) * self.spatial_shapes.shape[1]


def ring_of_cameras(workload: Workload) -> Tensor:
    """Projections [N, 4, 4] of cameras around the vehicle, 70 degrees of view each."""
    width, height = workload.image_wh
    focal = width / 2 / math.tan(math.radians(35))
    intrinsics = torch.tensor([[focal, 0, width / 2, 0], [0, focal, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    matrices = []
    for camera in range(workload.cameras):
        yaw = 2 * math.pi * camera / workload.cameras
        c, s = math.cos(yaw), math.sin(yaw)
        # Optical frame (right, down, forward) from the model frame (right, forward, up), camera 1.5 m above ground.
        rotation = torch.tensor([[c, -s, 0, 0], [0, 0, -1, 1.5], [s, c, 0, 0], [0, 0, 0, 1]])
        matrices.append(intrinsics @ rotation)
    return torch.stack(matrices)


def make_inputs(workload: Workload, seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Inputs:
    """Random anchors within 55 m (arXiv 2311.11722: the detection range), key points up to 2.5 m from their centres."""
    w, generator = workload, torch.Generator().manual_seed(seed)
    sizes = [(math.ceil(w.image_wh[1] / stride), math.ceil(w.image_wh[0] / stride)) for stride in STRIDES]
    shapes = torch.tensor(sizes).expand(w.cameras, -1, -1).contiguous()
    rows = shapes.prod(-1).flatten()
    starts = (rows.cumsum(0) - rows).view(w.cameras, -1)
    features = torch.randn(w.batch, int(rows.sum()), w.channels, generator=generator)
    centres = (torch.rand(w.batch, w.anchors, 1, 3, generator=generator) * 2 - 1) * torch.tensor([55.0, 55.0, 2.0])
    offsets = (torch.rand(w.batch, w.anchors, w.points, 3, generator=generator) * 2 - 1) * torch.tensor([2.5, 2.5, 1.0])
    key_points = centres + offsets
    projection = ring_of_cameras(w).expand(w.batch, -1, -1, -1).contiguous()
    image_wh = torch.tensor(w.image_wh, dtype=torch.float32).expand(w.batch, w.cameras, 2).contiguous()
    location = reference.project_points(key_points, projection, image_wh)
    if w.everywhere:
        location = torch.rand(location.shape, generator=generator)
    logits = torch.randn(w.batch, w.anchors, w.cameras * len(STRIDES) * w.points, w.groups, generator=generator)
    fused_weights = logits.softmax(2).view(w.batch, w.anchors, w.cameras, len(STRIDES), w.points, w.groups)
    weights = fused_weights.permute(0, 1, 4, 2, 3, 5).contiguous()
    on_device = [t.to(device) for t in (key_points, projection, image_wh, location, weights, fused_weights)]
    features = features.to(device, dtype)
    maps = [_level(features, sizes[i], starts[:, i].tolist()) for i in range(len(sizes))]
    return Inputs(features, shapes, starts, *on_device, maps)


def _level(features: Tensor, size: tuple[int, int], starts: list[int]) -> Tensor:
    """Maps [B, N, C, h, w] of one level, out of the operators' layout [B, sum of pixels, C]."""
    height, width = size
    rows = [features[:, start : start + height * width] for start in starts]
    return torch.stack(rows, 1).unflatten(2, size).permute(0, 1, 4, 2, 3).contiguous()
