"""What training minimises: classification, boxes, their quality, and the same for noisy queries.

Sums over all predictions of a decoder layer divided by the number of objects (Sparse4D v3, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...types import COS_YAW, LOG_LENGTH, SIN_YAW, ModelOutput, X
from ..batches.targets import NUM_BOX_TARGETS, Targets
from ..schedule import LossConfig, MatcherConfig
from .denoising import NoisyQueries
from .matcher import Assignment, assign

CENTERNESS, YAWNESS = 0, 1  # columns of the quality logits
_EPSILON = 1e-12
_YAW = [SIN_YAW, COS_YAW]
_CENTRE = slice(X, LOG_LENGTH)

Losses = dict[str, Tensor]
Average = Callable[[Tensor], Tensor]  # mean of a scalar over the processes


def single_process(count: Tensor) -> Tensor:
    """The mean over one process is its own value."""
    return count


def focal_loss(logits: Tensor, classes: Tensor, config: LossConfig) -> Tensor:
    """Sigmoid focal loss, summed (Lin et al. 2017): logits [n, C], classes [n]; outside of 0 .. C - 1 is background."""
    num_classes = logits.shape[-1]
    target = (classes[:, None] == torch.arange(num_classes, device=classes.device)).to(logits.dtype)
    probability = logits.sigmoid()
    miss = (1 - probability) * target + probability * (1 - target)
    weight = (config.focal_alpha * target + (1 - config.focal_alpha) * (1 - target)) * miss.pow(config.focal_gamma)
    return (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum()


def weighted_l1(boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum of absolute differences [n, 10]; unknown targets (NaN) count as zero."""
    return ((boxes - targets.nan_to_num(0.0)).abs() * weights).sum()


def turn_reversible(targets: Tensor, boxes: Tensor, classes: Tensor, reversible: tuple[int, ...]) -> Tensor:
    """Targets [n, 10] of classes without a front are turned round where the prediction points the other way."""
    if not reversible:
        return targets
    opposite = F.cosine_similarity(targets[:, _YAW], boxes[:, _YAW], dim=-1) < 0
    turned = opposite & torch.isin(classes, classes.new_tensor(reversible))
    yaw = torch.where(turned[:, None], -targets[:, _YAW], targets[:, _YAW])
    return torch.cat([targets[:, :SIN_YAW], yaw, targets[:, COS_YAW + 1 :]], dim=-1)


def centerness_loss(logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """Summed; the target exp(-distance) sends gradient to the box too, as in the published training."""
    centerness = torch.exp(-torch.linalg.vector_norm(targets[:, _CENTRE] - boxes[:, _CENTRE], dim=-1))
    return F.binary_cross_entropy_with_logits(logits, centerness, reduction="sum")


def yawness_loss(logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """Gaussian focal loss, summed: does the box point the way of the object?"""
    probability = logits.sigmoid()
    right = F.cosine_similarity(targets[:, _YAW], boxes[:, _YAW], dim=-1) > 0
    positive = -(probability + _EPSILON).log() * (1 - probability).square()
    negative = -(1 - probability + _EPSILON).log() * probability.square()
    return torch.where(right, positive, negative).sum()


def box_losses(
    boxes: Tensor, targets: Tensor, weights: Tensor, quality: Tensor | None, classes: Tensor, config: LossConfig
) -> Losses:
    """Sums over n matched rows: boxes and targets [n, 10], quality [n, 2] or None (before v3), classes [n]."""
    targets = turn_reversible(targets.nan_to_num(0.0), boxes, classes, config.reversible_classes)
    losses = {"box": config.box_weight * weighted_l1(boxes, targets, weights)}
    if quality is not None:
        losses["cns"] = centerness_loss(quality[:, CENTERNESS], boxes, targets)
        losses["yns"] = yawness_loss(quality[:, YAWNESS], boxes, targets)
    return losses


def layer_losses(
    logits: Tensor,
    anchor: Tensor,
    quality: Tensor | None,
    assignment: Assignment,
    config: LossConfig,
    average: Average = single_process,
) -> Losses:
    """Losses of one decoder layer: logits [B, A, C], anchor [B, A, 11], quality [B, A, 2] or None."""
    boxes = anchor[..., :NUM_BOX_TARGETS]
    matched = (assignment.boxes != 0).any(-1)  # NaN != 0: an object with an unknown velocity counts
    num_objects = average(matched.sum().to(boxes.dtype)).clamp(min=1)
    losses = {"cls": config.class_weight * focal_loss(logits.flatten(0, 1), assignment.classes.flatten(), config)}
    learned = matched & (logits.detach().amax(-1).sigmoid() > config.score_threshold)
    weights = assignment.weights[learned] * boxes.new_tensor(config.box_weights)
    losses |= box_losses(
        boxes[learned],
        assignment.boxes[learned],
        weights,
        None if quality is None else quality[learned],
        assignment.classes[learned],
        config,
    )
    return {name: loss / num_objects for name, loss in losses.items()}


def noisy_losses(
    logits: Tensor, anchor: Tensor, queries: NoisyQueries, config: LossConfig, average: Average = single_process
) -> Losses:
    """Losses of the noisy rows of one decoder layer: logits [B, D, C], anchor [B, D, 11]."""
    valid = queries.valid
    num_valid = average(valid.sum().to(anchor.dtype)).clamp(min=1)
    objects = valid & (queries.classes >= 0)
    boxes = anchor[objects][:, :NUM_BOX_TARGETS]
    weights = boxes.new_tensor(config.box_weights)
    return {
        "cls_dn": config.class_weight * focal_loss(logits[valid], queries.classes[valid], config) / num_valid,
        "box_dn": config.box_weight * weighted_l1(boxes, queries.boxes[objects], weights) / num_valid,
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
        carried: [B, A] confidences from the frame before of the rows behind the first layers (see `assign`).
        denoising: the training has noisy queries, though this batch may have none for want of objects.
    """
    losses: Losses = {}
    num_noisy = 0 if queries is None else queries.anchor.shape[1]
    for layer, (anchor, logits, quality) in enumerate(
        zip(output.anchors, output.class_logits, output.quality, strict=True)
    ):
        rows = anchor.shape[1] - num_noisy
        ordinary = (value if value is None else value[:, :rows] for value in (logits, anchor, quality))
        logits_, anchor_, quality_ = ordinary
        assignment = assign(logits_, anchor_, targets, matcher, config, carried if layer >= num_first_layers else None)
        terms = layer_losses(logits_, anchor_, quality_, assignment, config, average)
        if queries is not None:
            current = queries if layer < num_first_layers or merged is None else merged
            terms |= noisy_losses(logits[:, rows:], anchor[:, rows:], current, config, average)
        elif denoising:
            terms |= no_noisy_losses(anchor, average)
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
