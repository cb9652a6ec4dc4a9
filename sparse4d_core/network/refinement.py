"""Refinement: class, quality and corrected box of every instance after a decoder layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..types import COS_YAW, SIN_YAW, VX
from .layers import Scale, mlp
from .linear import Linear


class Refinement(nn.Module):
    """Box correction, class logits and (v3) quality logits of every instance.

    Args:
        dims: width of the instance feature.
        num_classes: 0 leaves the class branch out.
        output_dims: columns of the anchor state; those after the yaw are velocities.
        refine_yaw: sin and cos are corrected; otherwise (v1) they are predicted as they are.
        normalize_yaw: bring (sin, cos) to length one.
        quality: predict (centerness, yawness).

    Source: Sparse4D v1, section 3.2; quality estimation: v3, section 3.2.
    """

    def __init__(
        self,
        dims: int,
        num_classes: int,
        output_dims: int = 11,
        refine_yaw: bool = True,
        normalize_yaw: bool = False,
        quality: bool = False,
    ):
        super().__init__()
        self.num_corrected = COS_YAW + 1 if refine_yaw else SIN_YAW
        self.normalize_yaw = normalize_yaw
        self.layers = nn.Sequential(*mlp(dims, dims, 2, 2), Linear(dims, output_dims), Scale(output_dims))
        self.cls_layers = nn.Sequential(*mlp(dims, dims, 1, 2), Linear(dims, num_classes)) if num_classes else None
        self.quality_layers = nn.Sequential(*mlp(dims, dims, 1, 2), Linear(dims, 2)) if quality else None

    def forward(self, feature: Tensor, anchor: Tensor, embed: Tensor, time_interval: Tensor) -> Tensor:
        """feature, embed [B, A, C], anchor [B, A, D], time_interval [B] seconds -> anchor [B, A, D]."""
        output = self.layers(feature + embed)
        corrected = output[..., : self.num_corrected] + anchor[..., : self.num_corrected]
        yaw_predicted = output[..., self.num_corrected : VX]
        # The network predicts a displacement; over the time since the last frame that is a velocity.
        velocity = output[..., VX:] / time_interval[:, None, None] + anchor[..., VX:]
        refined = torch.cat([corrected, yaw_predicted, velocity], dim=-1)
        if not self.normalize_yaw:
            return refined
        yaw = nn.functional.normalize(refined[..., SIN_YAW:VX], dim=-1)
        return torch.cat([refined[..., :SIN_YAW], yaw, refined[..., VX:]], dim=-1)

    def classify(self, feature: Tensor, embed: Tensor) -> tuple[Tensor, Tensor | None]:
        """Class logits [B, A, classes] from the feature alone, quality logits [B, A, 2] with the embedding."""
        return self.cls_layers(feature), self.quality_layers(feature + embed) if self.quality_layers else None
