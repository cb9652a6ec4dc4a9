"""VoVNet-99 with effective squeeze-and-excitation (Lee & Park, "CenterMask", CVPR 2020).

Parameter names are those of the public "V-99-eSE" checkpoints: a convolution and its norm are called
`<module>_<index>/conv` and `<module>_<index>/norm`, for example `stage3.OSA3_1.layers.0.OSA3_1_0/conv.weight`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import BackboneConfig
from .checkpointing import run_checkpointed

STEM_CHANNELS = (64, 64, 128)
STAGE_WIDTH = (128, 160, 192, 224)  # of the 3x3 convolutions inside an aggregation module
STAGE_CHANNELS = (256, 512, 768, 1024)  # of the stage's output
STAGE_MODULES = {99: (1, 3, 9, 3), 57: (1, 1, 4, 3), 39: (1, 1, 2, 2)}
LAYERS_PER_MODULE = 5


class VoVNet(nn.Module):
    """Images [B, 3, H, W] to the outputs of stages 2 to 5, strides 4, 8, 16, 32.

    `activation_checkpointing` trades time for memory in training: module activations are recomputed backwards.
    """

    def __init__(self, config: BackboneConfig, activation_checkpointing: bool = False):
        super().__init__()
        if config.depth not in STAGE_MODULES:
            raise ValueError(f"depth: VoVNet-{config.depth} is not defined; expected one of {sorted(STAGE_MODULES)}")
        if config.frozen_stages >= 0 or config.norm_eval or any(config.deformable_stages):
            raise ValueError(
                "frozen_stages, norm_eval, deformable_stages: not available for VoVNet; leave the defaults"
            )
        self.activation_checkpointing = activation_checkpointing
        self.out_channels = STAGE_CHANNELS
        self.stem = _stem()
        channels = STEM_CHANNELS[-1]
        for i, modules in enumerate(STAGE_MODULES[config.depth]):
            stage = osa_stage(channels, STAGE_WIDTH[i], STAGE_CHANNELS[i], modules, LAYERS_PER_MODULE, number=i + 2)
            self.add_module(f"stage{i + 2}", stage)
            channels = STAGE_CHANNELS[i]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @property
    def stages(self) -> list[nn.Sequential]:
        return [self.stage2, self.stage3, self.stage4, self.stage5]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for stage in self.stages:
            for module in stage:
                recompute = self.activation_checkpointing and self.training
                x = run_checkpointed(module, x) if recompute else module(x)
            outputs.append(x)
        return outputs


class OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions whose outputs are all concatenated, once, at the end; then the channel gate."""

    def __init__(self, in_channels: int, width: int, out_channels: int, layers: int, name: str, identity: bool):
        super().__init__()
        self.identity = identity
        self.layers = nn.ModuleList(
            conv_norm_relu(in_channels if i == 0 else width, width, 3, name=f"{name}_{i}") for i in range(layers)
        )
        self.concat = conv_norm_relu(in_channels + layers * width, out_channels, 1, name=f"{name}_concat")
        self.ese = EffectiveSqueezeExcitation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features[-1]))
        output = self.ese(self.concat(torch.cat(features, dim=1)))
        return output + x if self.identity else output


class EffectiveSqueezeExcitation(nn.Module):
    """Scales every channel by a gate computed from the spatial mean of all channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))


def osa_stage(in_channels: int, width: int, out_channels: int, modules: int, layers: int, number: int) -> nn.Sequential:
    """One stage: pooling (from stage 3 on) and aggregation modules, all but the first with a skip connection."""
    stage = nn.Sequential()
    if number > 2:
        stage.add_module("Pooling", nn.MaxPool2d(3, stride=2, ceil_mode=True))
    for i in range(modules):
        name = f"OSA{number}_{i + 1}"
        channels = in_channels if i == 0 else out_channels
        stage.add_module(name, OneShotAggregation(channels, width, out_channels, layers, name, identity=i > 0))
    return stage


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, name: str, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv_norm_relu(in_channels, out_channels, kernel_size, name, stride))


def _conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, name: str, stride: int
) -> OrderedDict[str, nn.Module]:
    padding = kernel_size // 2
    return OrderedDict(
        {
            f"{name}/conv": nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
            f"{name}/norm": nn.BatchNorm2d(out_channels),
            f"{name}/relu": nn.ReLU(inplace=True),
        }
    )


def _stem() -> nn.Sequential:
    """Three 3x3 convolutions, stride 4 in all."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for i, (width, stride) in enumerate(zip(STEM_CHANNELS, (2, 1, 2), strict=True)):
        layers.update(_conv_norm_relu(channels, width, 3, f"stem_{i + 1}", stride))
        channels = width
    return nn.Sequential(layers)
