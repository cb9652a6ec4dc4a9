"""Start anchors of an untrained model: deterministic, spread over the range that is perceived."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..types import COS_YAW, LOG_HEIGHT, LOG_LENGTH

RANGE = 55.0  # m, the radius within which the published models are trained
MEAN_SIZE = (3.3, 1.5, 1.6)  # length, width, height in metres: a typical road user
HEIGHT = -0.9  # m: box centres in the frame of a lidar about 1.8 m above the road
_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def spread_anchors(num: int) -> Tensor:
    """[num, 11] anchor states on a sunflower spiral, denser near the vehicle.

    Training replaces them by the k-means centres of its data set, a checkpoint brings its own.
    """
    k = torch.arange(num, dtype=torch.float64)
    radius = RANGE * ((k + 0.5) / num) ** (2 / 3)
    anchor = torch.zeros(num, 11, dtype=torch.float64)
    anchor[:, 0] = radius * torch.cos(k * _GOLDEN_ANGLE)
    anchor[:, 1] = radius * torch.sin(k * _GOLDEN_ANGLE)
    anchor[:, 2] = HEIGHT
    anchor[:, LOG_LENGTH : LOG_HEIGHT + 1] = torch.tensor(MEAN_SIZE, dtype=torch.float64).log()
    anchor[:, COS_YAW] = 1
    return anchor.float()
