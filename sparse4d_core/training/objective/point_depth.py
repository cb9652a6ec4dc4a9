"""v1's depth supervision: the depth reweighting must believe in the distance of the true boxes.

Source: Sparse4D v1, section 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...geometry import project
from ...network.aggregation import CameraFeatures, gather_points
from ...network.decoder_v1 import DepthReweighting
from ...types import COS_YAW, LOG_LENGTH, SIN_YAW
from ..batches.targets import Targets


def fixed_points(boxes: Tensor, offsets: Tensor) -> Tensor:
    """Points of encoded boxes [..., 10]: offsets [P, 3] in units of the box size -> [..., P, 3] metres, model frame."""
    scaled = offsets * boxes[..., None, LOG_LENGTH:SIN_YAW].exp()
    sin, cos = boxes[..., SIN_YAW, None], boxes[..., COS_YAW, None]
    x, y, z = scaled.unbind(-1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1) + boxes[..., None, :LOG_LENGTH]


def point_depth_loss(
    depth: DepthReweighting,
    cameras: CameraFeatures,
    targets: Targets,
    offsets: Tensor,
    num_objects: Tensor,
) -> Tensor:
    """-log of the confidence in the true distance, over the fixed key points of all objects.

    Args:
        offsets: [P, 3] the fixed key points.
        num_objects: [] objects per process, which the sum is divided by (times P).
    """
    points = fixed_points(targets.boxes, offsets)  # [B, n, P, 3]
    location = project(points, cameras.projection, cameras.image_wh)
    num_views, num_levels = cameras.projection.shape[1], len(cameras.maps)
    shape = (*targets.labels.shape, num_views, num_levels, len(offsets), 1)
    weights = points.new_full((), 1 / (num_views * num_levels)).expand(shape)
    feature = gather_points(cameras.maps, location, weights)  # [B, n, P, C]: mean over cameras and levels
    confidence = depth.confidence(feature, targets.boxes).squeeze(-1)  # [B, n, P]
    counted = targets.valid.unsqueeze(-1)
    total = torch.where(counted, confidence, 1.0).log().sum()
    return -total / (num_objects.clamp(min=1) * len(offsets))
