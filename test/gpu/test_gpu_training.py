"""A training step on the device against the same step on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.config import AggregationConfig, BackboneConfig, ImageConfig, preset
from sparse4d_core.model_io import map_tensors
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.preprocess import collate, preprocess
from sparse4d_core.training.batches.targets import Targets
from sparse4d_core.training.objective.frame_objective import TrainingObjective
from sparse4d_core.training.schedule import training_config

pytestmark = pytest.mark.gpu

# Without dropout and noisy queries: both devices compute the same.
MODEL = replace(
    preset("demo"),
    image=ImageConfig((96, 64), original_wh=(96, 64)),
    backbone=BackboneConfig(depth=18, base_width=8, norm_eval=True),
    num_anchors=24,
    num_decoder_layers=2,
    aggregation=AggregationConfig(num_levels=3, attention_drop=0.0),
    temporal=replace(preset("demo").temporal, num_instances=12),
    attention_drop=0.0,
)
TRAINING = replace(training_config("demo"), denoising=None)


def targets() -> Targets:
    generator = torch.Generator().manual_seed(5)
    boxes, counts = [], (3, 1)
    scale = torch.tensor([40, 40, 2, 3, 1, 1, 3, 2, 2])  # x y z, length width height, yaw, vx vy
    least = torch.tensor([-20, -20, -1, 1, 1, 1, 0, 0, 0])
    for count in counts:
        boxes.append(torch.rand(count, 9, generator=generator) * scale + least)
    return Targets.of(boxes, [torch.arange(n) for n in counts], [torch.arange(n) for n in counts])


def model_that_decides() -> Sparse4D:
    """Random weights under which no two instances are alike (of equal ones each device would keep others), confident
    enough for their boxes to count (`LossConfig.score_threshold`)."""
    torch.manual_seed(1)
    model = Sparse4D(MODEL, "clean").train()
    with torch.no_grad():
        model.decoder.instance_feature.normal_()
        for layer in model.decoder.layers:
            layer.refine.cls_layers[-1].bias += 3
    return model


def step(device: str) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of the second of two frames, batch 2."""
    model = model_that_decides().to(device)
    objective = TrainingObjective(model, TRAINING)
    random_state = torch.get_rng_state()
    first, second = (collate([preprocess(frame, MODEL)] * 2).to(device) for frame in ring_frames(MODEL, 2, cameras=2))
    state = objective(first, map_tensors(targets(), lambda tensor: tensor.to(device))).state
    result = objective(second, map_tensors(targets(), lambda tensor: tensor.to(device)), state)
    losses = {name: value for name, value in result.losses.items()}
    sum(losses.values()).backward()
    assert device != "cpu" or torch.equal(torch.get_rng_state(), random_state), "each device would draw its own numbers"
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {name: float(value.detach()) for name, value in losses.items()}, gradients


def test_training_step_equals_the_cpu(device):
    losses, gradients = step(device)
    expected_losses, expected_gradients = step("cpu")
    assert losses.keys() == expected_losses.keys() and len(losses) > 3 and min(losses.values()) > 0
    np.testing.assert_allclose(list(losses.values()), list(expected_losses.values()), rtol=2e-3, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, expected in expected_gradients.items():
        difference = (gradients[name] - expected).norm()
        assert difference <= 0.02 * expected.norm() + 1e-6, name
    assert any(gradient.abs().max() > 0 for gradient in gradients.values())
