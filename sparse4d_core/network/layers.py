"""Building blocks without geometry: MLP, feed-forward block, box encoder, dense depth head."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..config import AnchorEncoderConfig
from ..types import LOG_LENGTH, SIN_YAW, VX
from .linear import Linear


def mlp(in_dims: int, dims: int, inner: int, outer: int) -> list[nn.Module]:
    """`outer` times (`inner` times (Linear, ReLU), LayerNorm); only the first Linear takes `in_dims`."""
    layers: list[nn.Module] = []
    for _ in range(outer):
        for _ in range(inner):
            layers += [Linear(in_dims, dims), nn.ReLU(inplace=True)]
            in_dims = dims
        layers.append(nn.LayerNorm(dims))
    return layers


class Scale(nn.Module):
    """One learned factor per column."""

    def __init__(self, dims: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dims))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class FeedForward(nn.Module):
    """Residual feed-forward block whose skip branch starts after the first norm.

    Args:
        in_dims: input width; twice `dims` behind an aggregation that concatenates.
        dims: output width.
        hidden: width of the `num_fcs` - 1 hidden layers.
        pre_norm: LayerNorm on the input (of the skip branch too).
        skip: "linear" projects the skip branch, "identity" adds it as it is, "none" drops it.
    """

    def __init__(
        self,
        in_dims: int,
        dims: int,
        hidden: int,
        num_fcs: int = 2,
        drop: float = 0.0,
        pre_norm: bool = True,
        skip: Literal["linear", "identity", "none"] = "linear",
    ):
        super().__init__()
        self.pre_norm = nn.LayerNorm(in_dims) if pre_norm else nn.Identity()
        widths = [in_dims] + [hidden] * (num_fcs - 1)
        blocks = [
            nn.Sequential(Linear(a, b), nn.ReLU(inplace=True), nn.Dropout(drop))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        ]
        self.layers = nn.Sequential(*blocks, Linear(hidden, dims), nn.Dropout(drop))
        self.skip = skip
        if skip == "linear":
            self.identity_fc = Linear(in_dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_norm(x)
        if self.skip == "none":
            return self.layers(x)
        return self.layers(x) + (self.identity_fc(x) if self.skip == "linear" else x)


class AnchorEncoder(nn.Module):
    """Embeds the box of an instance: position, size, yaw and velocity each through an MLP, then joined.

    Source: Sparse4D v1, section 3.2 (anchor encoder); v3 concatenates the four parts, v1 and v2 add them.
    """

    def __init__(self, config: AnchorEncoderConfig):
        super().__init__()
        self.config = config
        position, size, yaw, velocity = config.dims

        def part(in_dims: int, dims: int) -> nn.Sequential:
            return nn.Sequential(*mlp(in_dims, dims, config.in_loops, config.out_loops))

        self.pos_fc = part(3, position)
        self.size_fc = part(3, size)
        self.yaw_fc = part(2, yaw)
        if config.vel_dims > 0:
            self.vel_fc = part(config.vel_dims, velocity)
        if config.output_fc:
            self.output_fc = part(position, position)

    def forward(self, anchor: Tensor) -> Tensor:  # [B, A, 11] -> [B, A, C]
        parts = [
            self.pos_fc(anchor[..., :LOG_LENGTH]),
            self.size_fc(anchor[..., LOG_LENGTH:SIN_YAW]),
            self.yaw_fc(anchor[..., SIN_YAW:VX]),
        ]
        if self.config.vel_dims > 0:
            parts.append(self.vel_fc(anchor[..., VX : VX + self.config.vel_dims]))
        joined = torch.cat(parts, dim=-1) if self.config.mode == "cat" else sum(parts[1:], parts[0])
        return self.output_fc(joined) if self.config.output_fc else joined


class DepthHead(nn.Module):
    """Dense depth from the first feature levels, supervised by lidar in training; inference does not need it.

    depth = exp(conv(feature)) * focal / equal_focal, metres.
    """

    def __init__(self, dims: int, num_levels: int, equal_focal: float = 100.0):
        super().__init__()
        self.equal_focal = equal_focal
        self.depth_layers = nn.ModuleList(nn.Conv2d(dims, 1, 1) for _ in range(num_levels))

    def forward(self, feature_maps: list[Tensor], focal: Tensor | None = None) -> list[Tensor]:
        """feature_maps: levels of [B, N, C, h, w]; focal [B, N] pixels. Returns levels of [B * N, 1, h, w]."""
        depths = []
        for feature, conv in zip(feature_maps, self.depth_layers, strict=False):
            depth = conv(feature.flatten(0, 1).float()).exp()
            depths.append(depth if focal is None else depth * focal.reshape(-1, 1, 1, 1) / self.equal_focal)
        return depths
