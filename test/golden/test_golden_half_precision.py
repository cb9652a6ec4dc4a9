"""What the image encoder in bfloat16 changes on recorded sequences: the first frame of each.

The recorded weights are random, so that confidences lie close together and instances swap places: over several frames
scores then differ by up to 0.033. What holds over time is tested with a trained model
(test/core/inference/test_half_precision.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters
from golden_sequence import recorded_input, recorded_model

from sparse4d_core.inference.decode import best_of, detections_of
from sparse4d_core.inference.image_encoder import ImageEncoder

FEATURES, SCORE = 0.02, 0.005  # seen: 0.011 of a level's largest value, 0.004

SEQUENCES = ("sequence_v3", "sequence_v2")


@pytest.mark.parametrize(("file", "precision"), [p for f in SEQUENCES for p in golden_parameters(f, ["bfloat16"])])
@torch.inference_mode()
def test_golden(golden, file, precision):
    data = Golden(golden, file)
    model = recorded_model(data)
    inputs = recorded_input(data, 0, model.config)
    full, half = (ImageEncoder(model, dtype)(inputs.images) for dtype in (torch.float32, getattr(torch, precision)))
    errors = [float((h - f).abs().max() / f.abs().max()) for f, h in zip(full, half, strict=True)]
    assert all(0 < error <= FEATURES for error in errors), errors
    best = (best_of(model.decode_features(maps, inputs)[0], model.config) for maps in (full, half))
    expected, actual = (detections_of(boxes, model.config.score_threshold) for boxes in best)
    for one, other in zip(expected, actual, strict=True):
        assert np.abs(one.scores - other.scores).max() <= SCORE, "sorted scores"
