"""What training minimises: classification, boxes, their quality, and the same for noisy queries.

Sums over all predictions of a decoder layer divided by the number of objects (Sparse4D v3, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model_io import ModelOutput
from ...network.instance_memory import take_rows
from ...types import COS_YAW, LOG_LENGTH, SIN_YAW, VZ, X
from ..batches.targets import NUM_BOX_TARGETS, Targets
from ..schedule import LossConfig, MatcherConfig
from .constants import constant
from .denoising import NoisyQueries
from .matcher import Assignment, assign_layers

CENTERNESS, YAWNESS = 0, 1  # columns of the quality logits
_EPSILON = 1e-12
_YAW = slice(SIN_YAW, COS_YAW + 1)
_CENTRE = slice(X, LOG_LENGTH)

Losses = dict[str, Tensor]
Average = Callable[[Tensor], Tensor]  # mean of a scalar over the processes


def single_process(count: Tensor) -> Tensor:
    """The mean over one process is its own value."""
    return count


def focal_loss(logits: Tensor, classes: Tensor, config: LossConfig, counted: Tensor | None = None) -> Tensor:
    """Sigmoid focal loss, summed (Lin et al. 2017): logits [..., C], classes [...]; outside of 0 .. C - 1 is
    background. Rows where `counted` [...] is False add nothing."""
    num_classes = logits.shape[-1]
    target = (classes.unsqueeze(-1) == torch.arange(num_classes, device=classes.device)).to(logits.dtype)
    probability = logits.sigmoid()
    miss = (1 - probability) * target + probability * (1 - target)
    weight = (config.focal_alpha * target + (1 - config.focal_alpha) * (1 - target)) * miss.pow(config.focal_gamma)
    if counted is not None:
        weight = weight * counted.unsqueeze(-1)
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum()


def weighted_l1(boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum of absolute differences [..., 10]; unknown targets (NaN) count as zero."""
    return ((boxes - targets.nan_to_num(0.0)).abs() * weights).sum()


def vertical_velocity_loss(anchor: Tensor, counted: Tensor, config: LossConfig) -> Tensor:
    """Sum of the absolute vertical velocities, which are zero in all data: anchor [..., 11], counted [...] bool."""
    vertical = torch.where(counted, anchor[..., VZ], 0.0)
    return config.box_weight * config.vertical_velocity * vertical.abs().sum()


def turn_reversible(targets: Tensor, boxes: Tensor, classes: Tensor, reversible: tuple[int, ...]) -> Tensor:
    """Targets [..., 10] of classes without a front are turned round where the prediction points the other way."""
    opposite = F.cosine_similarity(targets[..., _YAW], boxes[..., _YAW], dim=-1) < 0
    turned = torch.zeros_like(opposite)
    for label in reversible:
        turned = turned | (opposite & (classes == label))
    yaw = torch.where(turned.unsqueeze(-1), -targets[..., _YAW], targets[..., _YAW])
    return torch.cat([targets[..., :SIN_YAW], yaw, targets[..., COS_YAW + 1 :]], dim=-1)


def centerness_loss(logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """[...]; the target exp(-distance) sends gradient to the box too, as in the published training."""
    centerness = torch.exp(-torch.linalg.vector_norm(targets[..., _CENTRE] - boxes[..., _CENTRE], dim=-1))
    return F.binary_cross_entropy_with_logits(logits, centerness, reduction="none")


def yawness_loss(logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """[...] Gaussian focal loss: does the box point the way of the object?"""
    probability = logits.sigmoid()
    right = F.cosine_similarity(targets[..., _YAW], boxes[..., _YAW], dim=-1) > 0
    positive = -(probability + _EPSILON).log() * (1 - probability).square()
    negative = -(1 - probability + _EPSILON).log() * probability.square()
    return torch.where(right, positive, negative)


def box_losses(
    boxes: Tensor,
    targets: Tensor,
    weights: Tensor,
    quality: Tensor | None,
    classes: Tensor,
    config: LossConfig,
    counted: Tensor | None = None,
) -> Losses:
    """Sums over rows: boxes and targets [..., 10], quality [..., 2] or None (before v3), classes [...].

    counted: [...] bool; other rows add nothing, whatever numbers they hold. None = all count.
    """
    counted = torch.ones_like(classes, dtype=torch.bool) if counted is None else counted
    boxes = torch.where(counted.unsqueeze(-1), boxes, 0.0)
    targets = turn_reversible(targets.nan_to_num(0.0), boxes, classes, config.reversible_classes)
    losses = {"box": config.box_weight * weighted_l1(boxes, targets, weights * counted.unsqueeze(-1))}
    if quality is not None:
        quality = torch.where(counted.unsqueeze(-1), quality, 0.0)
        losses["cns"] = (centerness_loss(quality[..., CENTERNESS], boxes, targets) * counted).sum()
        losses["yns"] = (yawness_loss(quality[..., YAWNESS], boxes, targets) * counted).sum()
    return losses


def layer_losses(
    logits: Tensor,
    anchor: Tensor,
    quality: Tensor | None,
    targets: Targets,
    assignment: Assignment,
    config: LossConfig,
    average: Average = single_process,
) -> Losses:
    """Losses of one decoder layer: logits [B, A, C], anchor [B, A, 11], quality [B, A, 2] or None."""
    matched = assignment.rows < logits.shape[1]  # [B, n]
    num_objects = average(matched.sum().to(anchor.dtype)).clamp(min=1)
    losses = {"cls": config.class_weight * focal_loss(logits, assignment.classes, config)}
    rows = assignment.rows.clamp(max=logits.shape[1] - 1)
    score = logits.detach().amax(-1).sigmoid().gather(1, rows)
    counted = matched & (score > config.score_threshold)
    losses |= box_losses(
        take_rows(anchor[..., :NUM_BOX_TARGETS], rows),
        targets.boxes,
        assignment.weights * constant(config.box_weights, assignment.weights),
        None if quality is None else take_rows(quality, rows),
        targets.labels,
        config,
        counted=counted,
    )
    if config.vertical_velocity:
        losses["box"] = losses["box"] + vertical_velocity_loss(take_rows(anchor, rows), counted, config)
    return {name: loss / num_objects for name, loss in losses.items()}


def noisy_losses(
    logits: Tensor, anchor: Tensor, queries: NoisyQueries, config: LossConfig, average: Average = single_process
) -> Losses:
    """Losses of the noisy rows of one decoder layer: logits [B, D, C], anchor [B, D, 11]."""
    valid = queries.valid
    num_valid = average(valid.sum().to(anchor.dtype)).clamp(min=1)
    objects = (valid & (queries.classes >= 0)).unsqueeze(-1)
    boxes = torch.where(objects, anchor[..., :NUM_BOX_TARGETS], 0.0)
    weights = objects * constant(config.box_weights, boxes)
    box = config.box_weight * weighted_l1(boxes, queries.boxes, weights)
    if config.vertical_velocity:
        box = box + vertical_velocity_loss(anchor, objects.squeeze(-1), config)
    return {
        "cls_dn": config.class_weight * focal_loss(logits, queries.classes, config, counted=valid) / num_valid,
        "box_dn": box / num_valid,
    }


def no_noisy_losses(anchor: Tensor, average: Average) -> Losses:
    """The same terms where no sample has an object: zero, and this process's part in the mean over processes, which
    the others wait for."""
    average(anchor.new_zeros(()))
    return {"cls_dn": anchor.new_zeros(()), "box_dn": anchor.new_zeros(())}


def detection_losses(
    output: ModelOutput,
    targets: Targets,
    matcher: MatcherConfig,
    config: LossConfig,
    queries: NoisyQueries | None = None,
    merged: NoisyQueries | None = None,
    num_first_layers: int = 1,
    average: Average = single_process,
    carried: Tensor | None = None,
    denoising: bool = False,
) -> Losses:
    """Losses of all decoder layers, named `cls_0`, `box_0`, ... as (loss, layer).

    Every batch gives the same terms and takes the same means over the processes, whatever objects it holds.

    Args:
        output: raw outputs of all layers; rows behind the ordinary ones are noisy.
        queries: noisy queries as they were made; they are the targets of the first `num_first_layers` layers.
        merged: the same after the groups of the previous frame took their place.
        average: mean over processes of the number of objects.
        carried: [B, A] confidences from the frame before of the rows behind the first layers (see `assign_layers`).
        denoising: the training has noisy queries, though this batch may have none for want of objects.
    """
    num_layers = len(output.anchors)
    rows = output.anchors[0].shape[1] - (0 if queries is None else queries.anchor.shape[1])
    logits = [value[:, :rows] for value in output.class_logits]
    anchors = [value[:, :rows] for value in output.anchors]
    confidences = [None if layer < num_first_layers else carried for layer in range(num_layers)]
    assignments = assign_layers(logits, anchors, targets, matcher, config, confidences)
    losses: Losses = {}
    for layer in range(num_layers):
        quality = None if output.quality[layer] is None else output.quality[layer][:, :rows]
        terms = layer_losses(logits[layer], anchors[layer], quality, targets, assignments[layer], config, average)
        if queries is not None:
            current = queries if layer < num_first_layers or merged is None else merged
            noisy_logits, noisy_anchor = output.class_logits[layer][:, rows:], output.anchors[layer][:, rows:]
            terms |= noisy_losses(noisy_logits, noisy_anchor, current, config, average)
        elif denoising:
            terms |= no_noisy_losses(anchors[layer], average)
        losses |= {f"{name}_{layer}": loss for name, loss in terms.items()}
    return losses


def depth_loss(depths: list[Tensor], truth: list[Tensor], config: LossConfig) -> Tensor:
    """Dense depth, every level of the same weight.

    Args:
        depths: predictions of every level, [B * N, 1, h, w] or [B, N, h, w] metres.
        truth: lidar depths [B, N, h, w] metres; zero or less where no point fell.
    """
    total = depths[0].new_zeros(())
    for depth, target in zip(depths, truth, strict=True):
        hit = target > 0
        error = (depth.reshape(target.shape).clamp(max=config.max_depth) - target).abs() * hit
        total = total + error.sum() / (hit.sum() * len(truth)).clamp(min=1)
    return config.depth_weight * total
