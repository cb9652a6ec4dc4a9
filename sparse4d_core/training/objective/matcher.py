"""Hungarian assignment of predictions to objects (DETR; costs of Sparse4D v3).

The costs of all decoder layers are computed on the device, go down in one copy, are solved by SciPy, and the rows that
the objects got go up in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..batches.targets import NUM_BOX_TARGETS, Targets
from ..schedule import LossConfig, MatcherConfig
from .constants import constant

_IMPOSSIBLE = 1e8  # cost where there is none, as for an object whose velocity is unknown
_EPSILON = 1e-12


@dataclass(frozen=True)
class Assignment:
    """Which of the A predictions of a decoder layer each object was given."""

    rows: Tensor  # [B, n] int64; A = none: there are more objects than predictions, or the row is padding
    classes: Tensor  # [B, A] int64: what each prediction should have said; num_classes = background
    weights: Tensor  # [B, n, 10] of the objects' numbers in the loss; zero where a value is unknown


def class_cost(logits: Tensor, labels: Tensor, losses: LossConfig) -> Tensor:
    """Focal cost of each prediction for each object: logits [..., A, C], labels [..., n] -> [..., A, n]."""
    probability = logits.sigmoid()
    gamma, alpha = losses.focal_gamma, losses.focal_alpha
    negative = -(1 - probability + _EPSILON).log() * (1 - alpha) * probability.pow(gamma)
    positive = -(probability + _EPSILON).log() * alpha * (1 - probability).pow(gamma)
    columns = labels.clamp(min=0).unsqueeze(-2)
    return (positive - negative).gather(-1, columns.expand(*logits.shape[:-1], -1))


def box_cost(boxes: Tensor, objects: Tensor, weights: Tensor) -> Tensor:
    """Weighted L1 distance: boxes [..., A, 10], objects and their weights [..., n, 10] -> [..., A, n]."""
    return ((boxes.unsqueeze(-2) - objects.unsqueeze(-3)).abs() * weights.unsqueeze(-3)).sum(-1)


def object_weights(objects: Tensor, labels: Tensor, config: MatcherConfig) -> Tensor:
    """[..., n, 10]: 1, or 0 where the value is unknown, or the weights of the object's class where it has its own."""
    weights = objects.isnan().logical_not().to(objects.dtype)
    for label, class_weights in config.class_wise_weights:
        weights = torch.where((labels == label).unsqueeze(-1), constant(class_weights, weights), weights)
    return weights


def continuity_bonus(boxes: Tensor, objects: Tensor, carried: Tensor, config: MatcherConfig) -> Tensor:
    """What an object saves by staying with an instance that the memory carried to it: [..., A, n].

    Args:
        boxes: [..., A, 10] predictions.
        objects: [..., n, 10].
        carried: [..., A] confidence of the instance in the frame before, 0 for a new one.
    """
    offset = boxes[..., :2].unsqueeze(-2) - objects[..., :2].unsqueeze(-3)
    near = torch.linalg.vector_norm(offset, dim=-1) < config.continuity_radius  # m, on the ground
    return config.continuity * carried.unsqueeze(-1) * near


def match(cost: Tensor, counts: Sequence[int]) -> Tensor:
    """The cheapest one-to-one assignments; costs that are not finite are avoided.

    Args:
        cost: [..., B, A, n].
        counts: B numbers of objects; columns behind them are padding.

    Returns:
        [..., B, n] int64: the row of each object; A where it has none.
    """
    *batch, rows, columns = cost.shape
    found = np.full((*batch, columns), rows, dtype=np.int64)
    if found.size:
        values = cost.detach().cpu().numpy()
        values = np.where(np.isfinite(values), values, _IMPOSSIBLE)
        for index in np.ndindex(*batch):
            chosen_rows, chosen_columns = linear_sum_assignment(values[index][:, : counts[index[-1]]])
            found[index][chosen_columns] = chosen_rows
    return torch.from_numpy(found).to(cost.device)


def scatter_to_rows(values: Tensor, rows: Tensor, num_rows: int, fill: float | int = 0) -> Tensor:
    """What the objects bring, at the rows that `match` gave them; `fill` at all other rows.

    values [B, n] or [B, n, D], rows [B, n] -> [B, num_rows] or [B, num_rows, D].
    """
    index = rows if values.dim() == 2 else rows.unsqueeze(-1).expand_as(values)
    # One row more than asked for takes what was assigned to none.
    result = values.new_full((values.shape[0], num_rows + 1, *values.shape[2:]), fill)
    return result.scatter_(1, index, values)[:, :num_rows]


@torch.no_grad()
def assign_layers(
    logits: Sequence[Tensor],
    boxes: Sequence[Tensor],
    targets: Targets,
    config: MatcherConfig,
    losses: LossConfig,
    carried: Sequence[Tensor | None],
) -> list[Assignment]:
    """Match the predictions of every decoder layer with the objects.

    Args:
        logits: L of [B, A, C] class logits.
        boxes: L of [B, A, 10 or more] anchor states of the same layers.
        carried: L of [B, A] confidences that instances brought from the frame before, 0 = new; None = all are new.
    """
    num_anchors, num_classes = logits[0].shape[1:]
    weights = object_weights(targets.boxes, targets.labels, config)
    cost_weights = weights * constant(config.cost_weights, weights)
    costs = []
    for layer_logits, layer_boxes, confidence in zip(logits, boxes, carried, strict=True):
        layer_boxes = layer_boxes[..., :NUM_BOX_TARGETS]
        cost = config.class_weight * class_cost(layer_logits, targets.labels, losses)
        cost = cost + config.box_weight * box_cost(layer_boxes, targets.boxes, cost_weights)
        if confidence is not None and config.continuity:
            cost = cost - continuity_bonus(layer_boxes, targets.boxes, confidence, config)
        costs.append(cost)
    return [
        Assignment(rows, scatter_to_rows(targets.labels, rows, num_anchors, num_classes), weights)
        for rows in match(torch.stack(costs), targets.counts)
    ]


def assign(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    config: MatcherConfig,
    losses: LossConfig,
    carried: Tensor | None = None,
) -> Assignment:
    """The same for one decoder layer."""
    return assign_layers([logits], [boxes], targets, config, losses, [carried])[0]
