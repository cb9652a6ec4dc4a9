"""AdamW and Muon with a smaller rate for the backbone, linear warm-up, cosine annealing, moving average of weights."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..schedule import OptimizerConfig

# With fewer rows or columns a matrix is an embedding of a few numbers, or a head of a few: AdamW's.
MUON_SMALLEST = 32


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal: a step of a matrix has all its singular values alike.

    So what a few large directions of the gradient hide is learned along with them. The kernel of a convolution counts
    as a matrix [out, in × height × width]; `torch.optim.Muon` takes none. A step is as large as one of AdamW in the
    mean square, so that both share rate and weight decay.

    Source: K. Jordan et al., Muon (2024); the size of a step: arXiv 2502.16982, equation 4.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float, momentum: float):
        super().__init__(groups, {"weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            alike = defaultdict(list)  # matrices of one shape are made orthogonal together
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self._update(parameter, group["momentum"]).bfloat16().flatten(1)
                    alike[update.shape].append((parameter, update))
            for shape, steps in alike.items():
                parameters, updates = zip(*steps, strict=True)
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, direction in zip(parameters, orthogonal(torch.stack(updates)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction.reshape(parameter.shape), alpha=-size)

    def _update(self, parameter: Tensor, momentum: float) -> Tensor:
        """Of Nesterov's momentum."""
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
        state["mean"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["mean"], momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, rows, columns] in bfloat16: each with its singular vectors and all singular values near 1 (0.7 to 1.2).

    Five steps of a Newton-Schulz iteration, for which bfloat16 is exact enough.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        factor = torch.baddbmm(square, square, square, beta=-4.775, alpha=2.0315)
        wide = torch.baddbmm(wide, factor, wide, beta=3.4445)
    return wide.mT if tall else wide


def make_optimizers(model: nn.Module, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """AdamW of all trained parameters, or without the matrices, which Muon then has. Each has two groups: all but the
    backbone, and the backbone. Frozen parameters are in none.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = [name for name, p in trained.items() if config.muon_momentum is not None and _is_matrix(name, p)]
    on_cpu = all(parameter.device.type == "cpu" for parameter in trained.values())
    adamw = torch.optim.AdamW(
        _groups({name: p for name, p in trained.items() if name not in matrices}, config),
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
        fused=on_cpu or None,  # several times as fast as weight by weight; GPUs take all at once by themselves
    )
    if not matrices:
        return [adamw]
    muon = Muon(_groups({name: trained[name] for name in matrices}, config), config.weight_decay, config.muon_momentum)
    return [adamw, muon]


def _groups(parameters: dict[str, Tensor], config: OptimizerConfig) -> list[dict[str, Any]]:
    backbone = [parameter for name, parameter in parameters.items() if name.startswith("backbone.")]
    rest = [parameter for name, parameter in parameters.items() if not name.startswith("backbone.")]
    return [
        {"params": rest, "lr": config.lr, "lr_factor": 1.0},
        {"params": backbone, "lr": config.lr * config.backbone_lr_factor, "lr_factor": config.backbone_lr_factor},
    ]


def _is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether it maps features to features: no bias, no head of a few numbers, not the anchors' own features."""
    if parameter.ndim < 2 or name.endswith("instance_feature"):
        return False
    return min(len(parameter), parameter[0].numel()) >= MUON_SMALLEST


def learning_rate(iteration: int, total: int, config: OptimizerConfig) -> float:
    """Rate of the step number `iteration` (from 0) of `total`: linear warm-up below a cosine."""
    floor = config.lr * config.min_lr_ratio
    annealed = floor + (config.lr - floor) * (1 + math.cos(math.pi * min(iteration / max(total, 1), 1.0))) / 2
    if iteration >= config.warmup_iterations:
        return annealed
    missing = (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio)
    return annealed * (1 - missing)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = rate * group["lr_factor"]


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What it has learned of its parameters; weight decay, momentum and the like stay those of this training, which
    `load_state_dict` would take from the state as well."""
    own = optimizer.state_dict()["param_groups"]
    groups = [{**group, "params": saved["params"]} for group, saved in zip(own, state["param_groups"], strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


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
