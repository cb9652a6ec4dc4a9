"""What an image encoder in bfloat16 costs on the recorded sequence: scores, centres, labels, ids of confident objects.

The recorded weights are random, so confidences lie close together. Where two of them tie, sorting may exchange the two
rows, and with them the new ids that count rows; where two classes of an object tie, either is its label.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters
from golden_sequence import num_frames, recorded_input, recorded_model

from sparse4d_core.inference.decode import decode
from sparse4d_core.inference.image_encoder import ImageEncoder
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.types import Detections

SCORE, CENTRE, CONFIDENT = 0.02, 0.05, 0.3  # scores; metres; objects with a score above it are compared


@pytest.mark.parametrize(("file", "precision"), golden_parameters("sequence_v3", ["bfloat16"]))
def test_golden(golden, file, precision):
    data = Golden(golden, file)
    model = recorded_model(data)
    expected = run(data, model, torch.float32)
    actual = run(data, model, getattr(torch, precision))
    same_object: dict[int, int] = {}  # id in float32 -> id in lower precision, for the whole sequence
    compared = 0
    for (full, class_scores), (half, _) in zip(expected, actual, strict=True):
        assert np.abs(full.scores - half.scores).max() <= SCORE, "sorted scores"
        for row in np.flatnonzero(full.scores > CONFIDENT):
            partner = partner_of(full, row, half)
            best, second = class_scores[full.ids[row]][:2]
            assert full.labels[row] == half.labels[partner] or best - second <= SCORE
            assert same_object.setdefault(int(full.ids[row]), int(half.ids[partner])) == half.ids[partner]
            compared += 1
    exchanged = {a: b for a, b in same_object.items() if a != b}
    assert compared > 0
    assert len(set(same_object.values())) == len(same_object), "two objects under one id"
    assert len(exchanged) <= 0.1 * len(same_object)
    assert all(abs(a - b) <= 3 for a, b in exchanged.items()), f"ids of rows that were no neighbours: {exchanged}"


def run(data: Golden, model: Sparse4D, dtype: torch.dtype) -> list[tuple[Detections, dict[int, np.ndarray]]]:
    """Detections of every frame, and for each id its class scores, best first."""
    encoder, state, frames = ImageEncoder(model, dtype), None, []
    for frame in range(num_frames(data)):
        inputs = recorded_input(data, frame, model.config)
        with torch.inference_mode():
            output, state = model.decode_features(encoder(inputs.images), inputs, state)
            scores = output.class_logits[-1][0].sigmoid().sort(dim=-1, descending=True).values
        class_scores = dict(zip(output.instance_ids[0].tolist(), scores.numpy(), strict=True))
        frames.append((decode(output, model.config)[0], class_scores))
    return frames


def partner_of(full: Detections, row: int, half: Detections) -> int:
    """The row in lower precision: nearest centre among those of the same score."""
    distance = np.linalg.norm(half.boxes[:, :3] - full.boxes[row, :3], axis=1)
    distance[np.abs(half.scores - full.scores[row]) > SCORE] = np.inf
    nearest = int(distance.argmin())
    assert distance[nearest] <= CENTRE, f"row {row}: nearest object of the same score is {distance[nearest]:.3f} m away"
    return nearest
