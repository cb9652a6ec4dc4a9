"""Pictures for TensorBoard: the boxes predicted for a training sample beside the annotated ones."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ...config import Sparse4DConfig
from ...geometry import decode_boxes
from ...model_io import ModelOutput
from ...visualization import GROUND_TRUTH_COLOR, class_color, draw_boxes
from ..batches.batch import Batch


@torch.no_grad()
def overlay(batch: Batch, output: ModelOutput, config: Sparse4DConfig, threshold: float = 0.3) -> np.ndarray:
    """First sample of the batch: cameras side by side, annotations grey, predictions in the colour of their class.

    Returns:
        [H, W, 3] uint8 BGR.
    """
    logits = output.class_logits[-1][0, : config.num_anchors].sigmoid()
    score, label = logits.max(-1)
    shown = score > threshold
    boxes = decode_boxes(output.anchors[-1][0, : config.num_anchors])[shown].float().cpu().numpy()
    colors = [class_color(config.class_names[index]) for index in label[shown].tolist()]
    truth = decode_boxes(batch.targets.boxes[0, : batch.targets.counts[0]]).cpu().numpy()
    tiles = []
    for image, projection in zip(batch.inputs.images[0].cpu(), batch.inputs.projection[0].cpu().numpy(), strict=True):
        tile = _picture(image, config)
        # The projection is camera matrix and pose in one: as a pose, with the identity as camera matrix.
        draw_boxes(tile, truth, [GROUND_TRUTH_COLOR] * len(truth), np.eye(3), projection, thickness=1)
        draw_boxes(tile, boxes, colors, np.eye(3), projection, thickness=1)
        tiles.append(tile)
    per_row = max(1, len(tiles) // 2)
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % per_row)
    rows = [cv2.hconcat(tiles[i : i + per_row]) for i in range(0, len(tiles), per_row)]
    return cv2.vconcat(rows)


def _picture(image: torch.Tensor, config: Sparse4DConfig) -> np.ndarray:
    """Normalised planes [3, H, W] back to BGR."""
    pixels = image.permute(1, 2, 0).numpy() * config.image.std + config.image.mean
    pixels = pixels[..., ::-1] if config.image.to_rgb else pixels
    return np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8))
