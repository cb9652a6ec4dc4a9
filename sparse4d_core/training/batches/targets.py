"""What a batch is trained towards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...geometry import encode_boxes

NUM_BOX_TARGETS = 10  # x y z, log length, log width, log height, sin yaw, cos yaw, vx, vy
PADDING = -1  # label and instance id of rows behind a sample's objects


@dataclass(frozen=True)
class Targets:
    """Objects of every sample of a batch, in the model frame at the sample's stamp; n = the most that a sample holds.

    Shorter samples are padded, so that a device never has to report a number of rows before it can go on.
    """

    boxes: Tensor  # [B, n, 10] float32: the numbers that are learned; NaN = unknown velocity, zero = padding
    labels: Tensor  # [B, n] int64, index into CLASS_NAMES; -1 = padding
    instance_ids: Tensor  # [B, n] int64, constant over a scene; -1 = padding
    counts: tuple[int, ...]  # objects of every sample; on the host
    depth: list[Tensor] | None = None  # levels of [B, N, h, w] float32 metres from lidar, -1 = none

    @staticmethod
    def of(
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        instance_ids: Sequence[Tensor],
        depth: list[Tensor] | None = None,
    ) -> Targets:
        """Targets of B samples, checked.

        Args:
            boxes: B of [n, 9] float32: x y z (centre, m), length width height (m), yaw (rad), vx vy (m/s, NaN =
                unknown: it is not learned).
            labels, instance_ids: B of [n] int64.

        Raises:
            ValueError: shapes that do not fit, sizes that are not positive, classes that are not learned.
        """
        for index, (rows, classes, ids) in enumerate(zip(boxes, labels, instance_ids, strict=True)):
            _check(index, rows, classes, ids)
        most = max(map(len, boxes), default=0)
        return Targets(
            torch.stack([pad(encode_boxes(rows), (0, 0, 0, most - len(rows))) for rows in boxes]),
            torch.stack([pad(classes, (0, most - len(classes)), value=PADDING) for classes in labels]),
            torch.stack([pad(ids, (0, most - len(ids)), value=PADDING) for ids in instance_ids]),
            tuple(map(len, boxes)),
            depth,
        )

    @property
    def valid(self) -> Tensor:
        """[B, n] bool: rows that are objects."""
        return self.labels >= 0


def _check(index: int, boxes: Tensor, labels: Tensor, ids: Tensor) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 9 or not len(boxes) == len(labels) == len(ids):
        raise ValueError(
            f"boxes: sample {index} has shape {tuple(boxes.shape)} with {len(labels)} labels and {len(ids)} ids; "
            "expected [n, 9] and n of each"
        )
    if not (boxes[:, 3:6] > 0).all():
        raise ValueError(f"boxes: sample {index} holds sizes that are not positive; drop these annotations")
    if (labels < 0).any():
        raise ValueError(f"labels: sample {index} holds classes that are not learned; drop these annotations")


def collate_targets(targets: Sequence[Targets]) -> Targets:
    """One batch from several; depth is kept only if all have it."""
    if not targets:
        raise ValueError("targets: expected at least one sample, got none")
    most = max(target.boxes.shape[1] for target in targets)
    padded = [(target, most - target.boxes.shape[1]) for target in targets]
    with_depth = all(target.depth is not None for target in targets)
    return Targets(
        torch.cat([pad(target.boxes, (0, 0, 0, rows)) for target, rows in padded]),
        torch.cat([pad(target.labels, (0, rows), value=PADDING) for target, rows in padded]),
        torch.cat([pad(target.instance_ids, (0, rows), value=PADDING) for target, rows in padded]),
        tuple(count for target in targets for count in target.counts),
        [torch.cat(levels) for levels in zip(*(t.depth for t in targets), strict=True)] if with_depth else None,
    )
