"""Muon: PyTorch's steps for matrices, the same for kernels of convolutions, and which parameters are AdamW's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparse4d_core.config import preset
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training.run.optimizer import Muon, make_optimizers, orthogonal, set_learning_rate
from sparse4d_core.training.schedule import OptimizerConfig, training_config

DEMO = training_config("demo").optimizer
DECAY, MOMENTUM = 0.1, 0.9


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], count: int = 3) -> None:
    """With random gradients, the same for parameters of as many numbers."""
    for number in range(count):
        for parameter in parameters:
            random = torch.Generator().manual_seed(number)
            parameter.grad = torch.randn(parameter.numel(), generator=random).view(parameter.shape)
        optimizer.step()


def muon_of(parameters: list[nn.Parameter], rate: float = 1e-2) -> Muon:
    return Muon([{"params": parameters, "lr": rate}], DECAY, MOMENTUM)


@pytest.mark.parametrize("shape", [(128, 64), (64, 128), (48, 48)])
def test_steps_of_matrices_are_those_of_pytorch(shape):
    start = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    ours, theirs = ([nn.Parameter(start.clone()) for _ in range(2)] for _ in range(2))
    steps(muon_of(ours), ours)
    reference = torch.optim.Muon(theirs, lr=1e-2, weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    steps(reference, theirs)
    for one, other in zip(ours, theirs, strict=True):  # bfloat16 rounds a product of one and one of several differently
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 * (one - start).abs().max().item())


def test_a_kernel_steps_as_its_matrix():
    start = torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(9))
    kernel = nn.Parameter(start.clone(memory_format=torch.channels_last))
    matrix = nn.Parameter(start.flatten(1).clone())
    steps(muon_of([kernel]), [kernel])
    steps(muon_of([matrix]), [matrix])
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(kernel.flatten(1), matrix)


@pytest.mark.parametrize("shape", [(5, 40, 90), (2, 90, 40)])
def test_directions_have_singular_values_near_one(shape):
    scales = torch.logspace(0, 2, 40)  # a gradient in which few directions dominate
    left, _ = torch.linalg.qr(torch.randn(shape[0], shape[1], min(shape[1:])))
    right, _ = torch.linalg.qr(torch.randn(shape[0], shape[2], min(shape[1:])))
    found = orthogonal(((left * scales) @ right.mT).bfloat16()).float()
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() and values.max() < 1.3


def test_a_step_is_as_large_as_one_of_adamw():
    shape = (128, 256)
    sizes = []
    for make in (lambda p: muon_of([p]), lambda p: torch.optim.AdamW([p], lr=1e-2, weight_decay=0.0)):
        parameter = nn.Parameter(torch.zeros(shape))
        steps(make(parameter), [parameter], count=1)
        sizes.append(parameter.square().mean().sqrt().item())
    assert sizes[0] == pytest.approx(0.2 * sizes[1], rel=0.2)  # AdamW's first step is its largest, others about a fifth


def test_which_parameters_are_whose():
    model = Sparse4D(preset("demo"))
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adamw, muon = make_optimizers(model, replace(DEMO, backbone_lr_factor=0.5))
    whose = [[{names[id(p)] for p in group["params"]} for group in one.param_groups] for one in (adamw, muon)]
    assert set.union(*whose[0], *whose[1]) == set(names.values())
    assert sum(len(part) for one in whose for part in one) == len(names), "each once"
    for _, backbone in whose:
        assert backbone and all(name.startswith("backbone.") for name in backbone)
    assert {"backbone.conv1.weight", "backbone.layer4.1.conv2.weight"} <= whose[1][1]
    assert "decoder.layers.1.attention.attn.in_proj_weight" in whose[1][0]
    small = {"decoder.anchor", "decoder.layers.0.refine.cls_layers.6.weight"}
    assert small | {"decoder.layers.1.attention.attn.in_proj_bias"} <= whose[0][0]
    set_learning_rate([adamw, muon], 3e-4)
    assert [group["lr"] for one in (adamw, muon) for group in one.param_groups] == [3e-4, 1.5e-4] * 2


def test_features_of_anchors_are_no_matrix():
    """v1 trains them, a row for each anchor."""
    both = nn.ParameterDict({"instance_feature": torch.zeros(64, 64), "weight": torch.zeros(64, 64)})
    adamw, muon = make_optimizers(both, DEMO)
    assert adamw.param_groups[0]["params"][0] is both["instance_feature"]
    assert muon.param_groups[0]["params"][0] is both["weight"]


def test_published_trainings_have_adamw_alone():
    (optimizer,) = make_optimizers(nn.Linear(64, 64), OptimizerConfig())
    assert type(optimizer) is torch.optim.AdamW
