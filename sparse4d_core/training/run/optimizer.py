"""AdamW with a smaller rate for the backbone, linear warm-up, cosine annealing, and a moving average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from ..schedule import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Two parameter groups: the backbone, and all the rest. Frozen parameters are in neither."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    backbone = [parameter for name, parameter in trained if name.startswith("backbone.")]
    rest = [parameter for name, parameter in trained if not name.startswith("backbone.")]
    return torch.optim.AdamW(
        [
            {"params": rest, "lr": config.lr, "lr_factor": 1.0},
            {"params": backbone, "lr": config.lr * config.backbone_lr_factor, "lr_factor": config.backbone_lr_factor},
        ],
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
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


class MovingAverage:
    """Exponential moving average of all parameters and buffers (batch norm statistics included).

    The decay grows with the number of updates, min(decay, (1 + n) / (10 + n)), so that early weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages = self.model.state_dict(keep_vars=True)
        floating: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                floating[0].append(averages[name])
                floating[1].append(value.to(averages[name].device))
            else:
                averages[name].copy_(value)
        torch._foreach_lerp_(floating[0], floating[1], 1 - decay)

    def state_dict(self) -> dict:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])
