"""Key points of an instance: fixed places on its box and learned ones, where the image features are sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..geometry import transform
from ..types import COS_YAW, LOG_LENGTH, SIN_YAW, VX
from .linear import Linear


class KeypointGenerator(nn.Module):
    """P = fixed + learned points per instance, in the model frame.

    Args:
        dims: width of the instance feature.
        num_learnable: points whose place in the box is predicted from the feature.
        fixed_points: offsets from the centre in units of the box size.

    Source: Sparse4D v1, section 3.3 (4D keypoint generation).
    """

    fix_scale: Tensor  # [fixed, 3]

    def __init__(self, dims: int, num_learnable: int, fixed_points: Sequence[Sequence[float]]):
        super().__init__()
        self.num_learnable = num_learnable
        self.num_points = len(fixed_points) + num_learnable
        self.register_buffer("fix_scale", torch.tensor(fixed_points, dtype=torch.float32))
        if num_learnable > 0:
            self.learnable_fc = Linear(dims, num_learnable * 3)

    def forward(self, anchor: Tensor, feature: Tensor | None = None) -> Tensor:
        """anchor [B, A, 11], feature [B, A, C] -> points [B, A, P, 3] in metres, fixed points first."""
        offsets = self.fix_scale.expand(*anchor.shape[:2], -1, 3)
        if self.num_learnable > 0:
            learned = self.learnable_fc(feature).unflatten(-1, (self.num_learnable, 3)).sigmoid() - 0.5
            offsets = torch.cat([offsets, learned], dim=-2)
        x, y, z = (offsets * anchor[..., None, LOG_LENGTH:SIN_YAW].exp()).unbind(-1)
        # sin and cos as predicted: the network relies on their not being normalised.
        sin, cos = anchor[..., SIN_YAW, None], anchor[..., COS_YAW, None]
        rotated = torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)
        return rotated + anchor[..., None, :LOG_LENGTH]


def move_to_past(points: Tensor, anchor: Tensor, T_past_from_now: Tensor, interval: Tensor) -> Tensor:
    """Key points as they were `interval` = t_now - t_past [B] seconds ago, in the model frame of that time.

    points [B, A, P, 3], anchor [B, A, 11] (its velocity moves the points), T_past_from_now [B, 4, 4] float32.
    """
    velocity = anchor[..., None, VX:]
    return transform(T_past_from_now, points - velocity * interval[:, None, None, None])
