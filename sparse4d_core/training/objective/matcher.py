"""Hungarian assignment of predictions to objects (DETR; costs of Sparse4D v3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..batches.targets import NUM_BOX_TARGETS, Targets
from ..schedule import LossConfig, MatcherConfig

_IMPOSSIBLE = 1e8  # cost where there is none, as for an object whose velocity is unknown
_EPSILON = 1e-12


@dataclass
class Assignment:
    """What each of the A predictions of B samples should have said."""

    classes: Tensor  # [B, A] int64; num_classes = background
    boxes: Tensor  # [B, A, 10]; zero where nothing was assigned, NaN where the object's value is unknown
    weights: Tensor  # [B, A, 10] of the class and of unknown values; zero where nothing was assigned


def class_cost(logits: Tensor, labels: Tensor, losses: LossConfig) -> Tensor:
    """Focal cost of each prediction for each object: logits [A, C], labels [n] -> [A, n]."""
    probability = logits.sigmoid()
    gamma, alpha = losses.focal_gamma, losses.focal_alpha
    negative = -(1 - probability + _EPSILON).log() * (1 - alpha) * probability.pow(gamma)
    positive = -(probability + _EPSILON).log() * alpha * (1 - probability).pow(gamma)
    return (positive - negative)[:, labels]


def box_cost(boxes: Tensor, objects: Tensor, weights: Tensor) -> Tensor:
    """Weighted L1 distance: boxes [..., A, 10], objects and their weights [..., n, 10] -> [..., A, n]."""
    return ((boxes.unsqueeze(-2) - objects.unsqueeze(-3)).abs() * weights.unsqueeze(-3)).sum(-1)


def object_weights(objects: Tensor, labels: Tensor, config: MatcherConfig) -> Tensor:
    """[n, 10]: 1, or 0 where the value is unknown, or the weights of the object's class where it has its own."""
    weights = objects.isnan().logical_not().to(objects.dtype)
    for label, class_weights in config.class_wise_weights:
        weights = torch.where((labels == label)[:, None], weights.new_tensor(class_weights), weights)
    return weights


def hungarian(cost: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the cheapest assignment of a cost matrix [A, n]; costs that are not finite are avoided."""
    values = cost.detach().cpu().numpy()
    return linear_sum_assignment(np.where(np.isfinite(values), values, _IMPOSSIBLE))


def continuity_bonus(boxes: Tensor, objects: Tensor, carried: Tensor, config: MatcherConfig) -> Tensor:
    """What an object saves by staying with an instance that the memory carried to it: [A, n].

    Args:
        boxes: [A, 10] predictions.
        objects: [n, 10].
        carried: [A] confidence of the instance in the frame before, 0 for a new one.
    """
    distance = torch.cdist(boxes[:, :2], objects[:, :2].nan_to_num(math.inf))  # m, on the ground
    return config.continuity * carried[:, None] * (distance < config.continuity_radius)


@torch.no_grad()
def assign(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    config: MatcherConfig,
    losses: LossConfig,
    carried: Tensor | None = None,
) -> Assignment:
    """Match every sample's predictions with its objects.

    Args:
        logits: [B, A, C] class logits.
        boxes: [B, A, 10 or more] anchor states of the same decoder layer.
        carried: [B, A] confidence that an instance brought from the frame before, 0 = new; None = all are new.
    """
    batch, anchors, num_classes = logits.shape
    boxes = boxes[..., :NUM_BOX_TARGETS]
    result = Assignment(
        classes=torch.full((batch, anchors), num_classes, dtype=torch.int64, device=logits.device),
        boxes=torch.zeros_like(boxes),
        weights=torch.zeros_like(boxes),
    )
    cost_weights = boxes.new_tensor(config.cost_weights)
    for sample, (objects, labels) in enumerate(zip(targets.encoded(), targets.labels, strict=True)):
        if len(labels) == 0:
            continue
        weights = object_weights(objects, labels, config)
        cost = config.class_weight * class_cost(logits[sample], labels, losses)
        cost = cost + config.box_weight * box_cost(boxes[sample], objects, weights * cost_weights)
        if carried is not None and config.continuity:
            cost = cost - continuity_bonus(boxes[sample], objects, carried[sample], config)
        rows, columns = (torch.as_tensor(index, device=logits.device) for index in hungarian(cost))
        result.classes[sample, rows] = labels[columns]
        result.boxes[sample, rows] = objects[columns]
        result.weights[sample, rows] = weights[columns]
    return result
