"""Noisy copies of the objects as extra queries, and how they are carried through time (Sparse4D v3, section 3.1).

Rows are ordered (group, positives then negatives); each group sees only itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..batches.targets import NUM_BOX_TARGETS, PADDING, Targets
from ..schedule import DenoisingConfig, MatcherConfig
from .constants import constant
from .matcher import box_cost, match, scatter_to_rows

NEGATIVE = -3  # class of a noisy row without an object; classes below zero are background to the loss


@dataclass
class Draws:
    """Random numbers of one frame. G = groups, B = batch size, n = objects; row = group * B + sample."""

    positive: Tensor  # [G * B, n, 10] in [0, 1): position of a positive within the noise range
    magnitude: Tensor  # [G * B, n, 10] in [0, 1): how far a negative lies beyond it
    sign: Tensor  # [G * B, n, 10] in [0, 1): above 0.5 is the upper side
    group_order: Tensor  # [G] permutation: group g is carried on where group_order[g] < num_temporal_groups

    @staticmethod
    def random(config: DenoisingConfig, batch: int, objects: int, device: torch.device | str = "cpu") -> Draws:
        shape = (config.num_groups * batch, objects, NUM_BOX_TARGETS)
        numbers = (torch.rand(shape, device=device) for _ in range(3))
        return Draws(*numbers, group_order=torch.randperm(config.num_groups, device=device))


@dataclass
class NoisyQueries:
    """The decoder's extra rows (see decoder.NoisyQueries) and what they are trained towards. D = groups * rows."""

    anchor: Tensor  # [B, D, 11]
    boxes: Tensor  # [B, D, 10] targets; zero for negatives
    classes: Tensor  # [B, D] int64 targets; below zero is background
    instance_ids: Tensor  # [B, D] int64; -1 for negatives
    valid: Tensor  # [B, D] bool; padding is not learned from
    num_groups: int
    carried_groups: Tensor  # indices of the groups that the next frame takes over

    def attention_mask(self, num_anchors: int) -> Tensor:
        """[A + D, A + D] bool, True = blocked: ordinary rows see each other, a noisy row its own group only."""
        rows = self.anchor.shape[1]
        group = torch.arange(rows, device=self.anchor.device) // (rows // self.num_groups)
        group = torch.cat([group.new_full((num_anchors,), -1), group])
        return group[:, None] != group[None]

    def merge(
        self, feature: Tensor, anchor: Tensor, cached: CarriedQueries, same_scene: Tensor
    ) -> tuple[Tensor, Tensor, NoisyQueries]:
        """Replace the first groups by the ones carried from the previous frame, in samples of the `same_scene` [B].

        An object that is still there gives its present box as target; where it vanished the row is background.

        Args:
            feature, anchor: [B, D, C] and [B, D, 11] after the first decoder layer.
            cached: anchors already projected into the present frame.

        Returns:
            feature, anchor and the queries with the merged targets.
        """
        groups = cached.anchor.shape[1]
        past = cached.with_rows(anchor.shape[1] // self.num_groups)
        present_ids, present_boxes = (self._grouped(value)[:, :groups] for value in (self.instance_ids, self.boxes))
        same = past.instance_ids.unsqueeze(-1) == present_ids.unsqueeze(-2)  # [B, K, R, R]
        boxes = same.to(present_boxes.dtype) @ present_boxes
        classes = torch.where(same.any(-1), past.classes, PADDING)

        def replaced(present: Tensor, new: Tensor) -> Tensor:
            grouped = self._grouped(present)
            selected = same_scene.view(-1, *[1] * (grouped.dim() - 1))
            first = torch.where(selected, new.to(grouped.dtype), grouped[:, :groups])
            return torch.cat([first, grouped[:, groups:]], dim=1).flatten(1, 2)

        merged = replace(
            self,
            boxes=replaced(self.boxes, boxes),
            classes=replaced(self.classes, classes),
            instance_ids=replaced(self.instance_ids, past.instance_ids),
            valid=replaced(self.valid, past.valid),
        )
        return replaced(feature, past.feature), replaced(anchor, past.anchor), merged

    def remember(self, feature: Tensor, anchor: Tensor) -> CarriedQueries | None:
        """The groups that the next frame takes over, detached; None if the configuration carries none."""
        if len(self.carried_groups) == 0:
            return None
        values = (feature, anchor, self.classes, self.instance_ids, self.valid)
        return CarriedQueries(*(self._grouped(value)[:, self.carried_groups].detach() for value in values))

    def _grouped(self, value: Tensor) -> Tensor:
        """[B, G * R, ...] -> [B, G, R, ...]."""
        return value.unflatten(1, (self.num_groups, -1))


@dataclass(frozen=True)
class CarriedQueries:
    """Groups of the previous frame, for the next one. K = carried groups, R = rows per group."""

    feature: Tensor  # [B, K, R, C]
    anchor: Tensor  # [B, K, R, 11]
    classes: Tensor  # [B, K, R]
    instance_ids: Tensor  # [B, K, R]
    valid: Tensor  # [B, K, R]

    def move(self, project: Callable[[Tensor], Tensor]) -> CarriedQueries:
        """The same with projected anchors; `project` takes and returns [B, D, 11]."""
        return replace(self, anchor=project(self.anchor.flatten(1, 2)).view_as(self.anchor))

    def with_rows(self, rows: int) -> CarriedQueries:
        """Cut or zero-padded to the number of rows that the present frame's groups have."""

        def fit(value: Tensor) -> Tensor:
            missing = max(0, rows - value.shape[2])
            return pad(value[:, :, :rows], (0, 0) * (value.dim() - 3) + (0, missing))

        return CarriedQueries(**{name: fit(value) for name, value in vars(self).items()})


def num_objects(targets: Targets, config: DenoisingConfig) -> int:
    """Largest number of objects in a sample of the batch, as far as they are used."""
    return min(targets.boxes.shape[1], config.max_objects)


def noisy_queries(
    targets: Targets, config: DenoisingConfig, matcher: MatcherConfig, draws: Draws | None = None
) -> NoisyQueries | None:
    """Extra queries of one frame; None without a single object in the batch."""
    batch, objects = len(targets.counts), num_objects(targets, config)
    if objects == 0:
        return None
    draws = draws or Draws.random(config, batch, objects, targets.boxes.device)
    boxes, classes, ids = (
        value[:, :objects].repeat(config.num_groups, *[1] * (value.dim() - 1))
        for value in (targets.boxes.nan_to_num(0.0), targets.labels, targets.instance_ids)
    )
    anchor, source = _add_noise(boxes, classes, config, draws)
    matched = _match(anchor, boxes, classes, ids, matcher)
    valid = (matched[1] >= 0) | ((matched[1] == NEGATIVE) & (source != PADDING))

    def by_sample(value: Tensor) -> Tensor:
        grouped = value.unflatten(0, (config.num_groups, batch)).transpose(0, 1)
        return grouped.flatten(1, 2)

    anchor = torch.cat([anchor, torch.zeros_like(anchor[..., :1])], dim=-1)  # vertical velocity is not annotated
    return NoisyQueries(
        by_sample(anchor),
        *(by_sample(value) for value in matched),
        valid=by_sample(valid),
        num_groups=config.num_groups,
        carried_groups=draws.group_order.argsort()[: config.num_temporal_groups].sort().values,
    )


def _add_noise(boxes: Tensor, classes: Tensor, config: DenoisingConfig, draws: Draws) -> tuple[Tensor, Tensor]:
    """Noisy boxes [G * B, R, 10] and the class of each row's source object [G * B, R]."""
    scale = constant(config.noise_scale, boxes)
    positives = boxes + (draws.positive * 2 - 1) * scale
    if not config.negatives:
        return positives, classes
    sign = torch.where(draws.sign > 0.5, 1.0, -1.0).to(boxes.dtype)
    negatives = boxes + (draws.magnitude + 1) * sign * scale
    return torch.cat([positives, negatives], dim=1), torch.cat([classes, classes], dim=1)


def _match(
    anchor: Tensor, boxes: Tensor, classes: Tensor, ids: Tensor, config: MatcherConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """The object that lies nearest to each noisy box, one to one within a group and sample."""
    cost = box_cost(anchor, boxes, constant(config.cost_weights, boxes).expand_as(boxes))
    num_rows, num_objects = cost.shape[1:]
    rows = match(cost, [num_objects] * len(cost))
    return (
        scatter_to_rows(boxes, rows, num_rows),
        scatter_to_rows(classes, rows, num_rows, NEGATIVE),
        scatter_to_rows(ids, rows, num_rows, PADDING),
    )
