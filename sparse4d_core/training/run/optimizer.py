"""AdamW with a smaller rate for the backbone, linear warm-up, cosine annealing, moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..schedule import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Two parameter groups: the backbone, and all the rest. Frozen parameters are in neither."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    backbone = [parameter for name, parameter in trained if name.startswith("backbone.")]
    rest = [parameter for name, parameter in trained if not name.startswith("backbone.")]
    on_cpu = all(parameter.device.type == "cpu" for _, parameter in trained)
    return torch.optim.AdamW(
        [
            {"params": rest, "lr": config.lr, "lr_factor": 1.0},
            {"params": backbone, "lr": config.lr * config.backbone_lr_factor, "lr_factor": config.backbone_lr_factor},
        ],
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
        fused=on_cpu or None,  # several times as fast as weight by weight; GPUs take all at once by themselves
    )


def learning_rate(iteration: int, total: int, config: OptimizerConfig) -> float:
    """Rate of the step number `iteration` (from 0) of `total`: linear warm-up below a cosine."""
    floor = config.lr * config.min_lr_ratio
    annealed = floor + (config.lr - floor) * (1 + math.cos(math.pi * min(iteration / max(total, 1), 1.0))) / 2
    if iteration >= config.warmup_iterations:
        return annealed
    missing = (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio)
    return annealed * (1 - missing)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of all parameters and buffers (batch norm statistics included); `module` holds it.

    The decay grows with the number of updates n, min(decay, (1 + n) / (10 + n)), so that early weights are forgotten;
    the first update copies.
    """

    def update(averages: list[Tensor], values: list[Tensor], _: Tensor | int) -> None:
        n = int(average.n_averaged)  # it stays on the host; the argument is a copy on the weights' device
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, values, n)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    average.module.eval().requires_grad_(False)
    return average
