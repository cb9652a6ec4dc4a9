"""What a batch is trained towards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ...geometry import encode_boxes

NUM_BOX_TARGETS = 10  # x y z, log length, log width, log height, sin yaw, cos yaw, vx, vy


@dataclass
class Targets:
    """Objects of every sample of a batch, in the model frame at the sample's stamp."""

    boxes: list[Tensor]  # B of [n, 9] float32: x y z (centre, m), length width height (m), yaw (rad), vx vy (m/s)
    labels: list[Tensor]  # B of [n] int64, index into CLASS_NAMES; -1 = a class that is not learned
    instance_ids: list[Tensor]  # B of [n] int64, constant over a scene
    depth: list[Tensor] | None = None  # levels of [B, N, h, w] float32 metres from lidar, -1 = none

    def __post_init__(self):
        for index, (boxes, labels, ids) in enumerate(zip(self.boxes, self.labels, self.instance_ids, strict=True)):
            if boxes.dim() != 2 or boxes.shape[1] != 9 or not len(boxes) == len(labels) == len(ids):
                raise ValueError(
                    f"boxes: sample {index} has shape {tuple(boxes.shape)} with {len(labels)} labels and {len(ids)} "
                    "ids; expected [n, 9] and n of each"
                )
            if not (boxes[:, 3:6] > 0).all():
                raise ValueError(f"boxes: sample {index} holds sizes that are not positive; drop these annotations")

    def encoded(self) -> list[Tensor]:
        """B of [n, 10]: the numbers the network learns. A velocity that is NaN stays NaN: it is not learned."""
        return [encode_boxes(boxes) for boxes in self.boxes]

    def to(self, device: torch.device | str) -> Targets:
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self, **{name: None if value is None else [v.to(device) for v in value] for name, value in moved.items()}
        )


def collate_targets(targets: Sequence[Targets]) -> Targets:
    """One batch from the targets of single samples; depth is kept only if every sample has it."""
    if not targets:
        raise ValueError("targets: expected at least one sample, got none")
    with_depth = all(target.depth is not None for target in targets)
    return Targets(
        boxes=[boxes for target in targets for boxes in target.boxes],
        labels=[labels for target in targets for labels in target.labels],
        instance_ids=[ids for target in targets for ids in target.instance_ids],
        depth=[torch.cat(levels) for levels in zip(*(target.depth for target in targets), strict=True)]
        if with_depth
        else None,
    )
