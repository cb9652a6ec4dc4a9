"""Feature pyramid (Lin et al., CVPR 2017): every level sees the coarser ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ...config import NeckConfig


class FPN(nn.Module):
    """Backbone stages to `num_levels` maps of equal width, finest first.

    Stages from `start_level` on are used. Levels beyond them are stride-2 convolutions on the last output, without
    an activation in between.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, config: NeckConfig):
        super().__init__()
        used = tuple(in_channels)[config.start_level :]
        if not 0 < len(used) <= config.num_levels:
            raise ValueError(
                f"neck: {len(used)} backbone stages from start_level {config.start_level} on do not fit "
                f"num_levels {config.num_levels}; expected 1 to {config.num_levels} stages"
            )
        self.start_level = config.start_level
        self.num_inputs = config.start_level + len(used)
        self.lateral_convs = nn.ModuleList(_convolution(channels, out_channels, 1) for channels in used)
        strides = [1] * len(used) + [2] * (config.num_levels - len(used))
        self.fpn_convs = nn.ModuleList(_convolution(out_channels, out_channels, 3, stride) for stride in strides)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:  # of [B, C_i, h_i, w_i] -> of [B, C, h_l, w_l]
        if len(stages) != self.num_inputs:
            raise ValueError(f"stages: expected {self.num_inputs} feature maps, got {len(stages)}")
        levels = [lateral(x) for lateral, x in zip(self.lateral_convs, stages[self.start_level :], strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + F.interpolate(levels[i], size=levels[i - 1].shape[-2:], mode="nearest")
        outputs = [conv(level) for conv, level in zip(self.fpn_convs, levels, strict=False)]
        for conv in self.fpn_convs[len(levels) :]:
            outputs.append(conv(outputs[-1]))
        return outputs


def _convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A bare convolution under the name `conv`, as in published checkpoints."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(OrderedDict(conv=conv))
