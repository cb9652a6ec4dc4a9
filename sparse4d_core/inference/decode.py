"""From the last layer's output to boxes, best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..config import Sparse4DConfig
from ..geometry import decode_boxes
from ..model_io import ModelOutput
from ..types import CLASS_NAMES, Detections
from .duplicates import without_duplicates

VZ_BOX = 9  # column of a decoded box: vertical velocity


def best_of(output: ModelOutput, config: Sparse4DConfig) -> BestInstances:
    """The best boxes of the last layer, on the device."""
    num = config.num_anchors  # noisy queries behind them are no detections
    quality = output.quality[-1]
    return best_instances(
        output.class_logits[-1][:, :num],
        output.anchors[-1][:, :num],
        None if quality is None else quality[:, :num],
        output.instance_ids,
        config.num_output,
    )


def published(found: Detections, config: Sparse4DConfig) -> Detections:
    """What leaves the pipeline: no vertical velocity that nobody trained, no object twice where the preset says so."""
    if not config.vertical_velocity:
        boxes = found.boxes.copy()
        boxes[:, VZ_BOX] = 0
        found = replace(found, boxes=boxes)
    return found if config.min_separation is None else without_duplicates(found, config.min_separation)


@dataclass(frozen=True)
class BestInstances:
    """The M best boxes of every sample, best first, as tensors."""

    boxes: Tensor  # [B, M, 10] float32, see types.py
    scores: Tensor  # [B, M]
    labels: Tensor  # [B, M] int64
    class_scores: Tensor  # [B, M] without quality, in the order before it counted
    rows: Tensor  # [B, M] int64: the instance that each box is of
    ids: Tensor | None  # [B, M] int64
    order: Tensor | None  # [B, M] int64: place of each row among `class_scores`; None where they are the scores


def best_instances(
    class_logits: Tensor, anchor: Tensor, quality: Tensor | None, ids: Tensor | None, num_output: int
) -> BestInstances:
    """The `num_output` best boxes of every sample. Tensors alone: this part can be captured and exported.

    With ids every instance gives one box, of its best class; without, every (instance, class) pair may give one.
    With quality the scores are multiplied by the probability of centerness and sorted again, and `class_scores` keeps
    the scores before that *in their old order* (published behaviour; the tracking threshold relies on it).

    Args:
        class_logits: [B, A, classes].
        anchor: [B, A, 11] anchor states.
        quality: [B, A, 2] (centerness, yawness) logits.
        ids: [B, A] int64.
    """
    scores = class_logits.sigmoid()
    if ids is not None:
        best, classes = scores.max(-1)
        scores, rows = best.topk(min(num_output, best.shape[1]), dim=1)
        labels = classes.gather(1, rows)
        ids = ids.gather(1, rows)
    else:
        num_classes = scores.shape[2]
        scores, pairs = scores.flatten(1).topk(min(num_output, scores[0].numel()), dim=1)
        rows, labels = pairs // num_classes, pairs % num_classes
    class_scores, order = scores, None
    if quality is not None:
        scores, order = (scores * quality[..., 0].sigmoid().gather(1, rows)).sort(dim=1, descending=True)
        rows, labels = rows.gather(1, order), labels.gather(1, order)
        ids = None if ids is None else ids.gather(1, order)
    boxes = decode_boxes(anchor.gather(1, rows[..., None].expand(-1, -1, anchor.shape[-1])).float())
    return BestInstances(boxes, scores, labels, class_scores, rows, ids, order)


def detections_of(
    best: BestInstances, score_threshold: float | None, class_names: tuple[str, ...] = CLASS_NAMES
) -> list[Detections]:
    """One transfer to the host, then plain arrays per sample; without the rows whose class score is below the
    threshold."""
    kept = ~(best.class_scores < (-1.0 if score_threshold is None else score_threshold))  # NaN stays, for the check
    kept = kept if best.order is None else kept.gather(1, best.order)
    columns = {
        "boxes": best.boxes,
        "scores": best.scores,
        "labels": best.labels,
        "class_scores": None if best.order is None else best.class_scores,
        "ids": best.ids,
    }
    present = {name: column for name, column in columns.items() if column is not None}
    *arrays, kept = _to_host([*present.values(), kept])
    return [
        Detections(
            **{name: array[b][mask] for name, array in zip(present, arrays, strict=True)}, class_names=class_names
        )
        for b, mask in enumerate(kept)
    ]


def _to_host(columns: Sequence[Tensor]) -> list[np.ndarray]:
    """Arrays of tensors [B, M, ...] of any types: their bytes, side by side, travel in one copy."""
    batch, rows = columns[0].shape[:2]
    parts = [column.reshape(batch, rows, -1).contiguous().view(torch.uint8) for column in columns]
    packed = torch.cat(parts, dim=-1).cpu()
    split = packed.split([part.shape[-1] for part in parts], dim=-1)
    return [
        part.contiguous().view(column.dtype).view(column.shape).numpy()
        for part, column in zip(split, columns, strict=True)
    ]
