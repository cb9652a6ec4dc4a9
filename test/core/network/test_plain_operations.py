"""The fast operations of a model can be left out, to measure and to compare with plain PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recorded_operators import Recorded

from cuda_ops import kernels_loaded
from sparse4d_core.config import BackboneConfig, Sparse4DConfig, TemporalConfig, preset
from sparse4d_core.model_io import ModelInput, ModelOutput
from sparse4d_core.network.linear import has_onednn
from sparse4d_core.network.sparse4d import Sparse4D

DEFORMABLE = BackboneConfig(depth=50, base_width=8, deformable_stages=(False, False, True, True))
CONFIGS = {
    "v3": replace(
        preset("v3_r50"), backbone=BackboneConfig(depth=18, base_width=8), temporal=TemporalConfig(num_instances=10)
    ),
    "v1": replace(preset("v1_r101_t1"), backbone=DEFORMABLE),
}


def make_model(config: Sparse4DConfig) -> Sparse4D:
    torch.manual_seed(0)
    model = Sparse4D(replace(config, num_anchors=20, num_decoder_layers=2)).eval()
    for parameter in model.decoder.layers.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs() -> ModelInput:
    """Six cameras at one place that look forward (y)."""
    projection = torch.tensor([[32.0, 32, 0, 0], [0, 32, -50, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    return ModelInput(
        torch.randn(1, 6, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        projection.expand(1, 6, 4, 4),
        torch.full((1, 6, 2), 64.0),
        torch.zeros(1, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64)[None],
    )


def run(model: Sparse4D) -> tuple[ModelOutput, set[str]]:
    with torch.inference_mode(), Recorded() as recorded:
        output, _ = model(inputs())
    fast = {name for name in recorded.names if name.startswith(("mkldnn::", "sparse4d::"))}
    return output, fast


@pytest.mark.parametrize("generation", CONFIGS)
def test_plain_operations_give_the_same_without_the_fast_ones(generation):
    fast_model, plain_model = make_model(CONFIGS[generation]), make_model(CONFIGS[generation])
    plain_model.use_plain_operations()
    expected, none = run(plain_model)
    actual, some = run(fast_model)
    assert none == set()
    assert ("mkldnn::_linear_pointwise" in some) == has_onednn()
    operator = "sparse4d::fused_deformable_aggregation"
    assert (operator in some) == (kernels_loaded() and generation == "v3"), "v1 samples with PyTorch's grid sampling"
    torch.testing.assert_close(actual.anchors[-1], expected.anchors[-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(actual.class_logits[-1], expected.class_logits[-1], rtol=1e-3, atol=1e-3)
