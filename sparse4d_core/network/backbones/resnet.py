"""ResNet (He et al., CVPR 2016) with what the published models vary: depth, stride placement, deformable stages.

Parameter names are torchvision's and mmdetection's alike: `conv1`, `bn1`, `layer1.0.conv1`, `layer1.0.downsample.0`.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...config import BackboneConfig
from .checkpointing import run_checkpointed
from .deformable_conv import ModulatedDeformConv2d

STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks in each of the four stages, by depth."""


class ResNet(nn.Module):
    """Images [B, 3, H, W] to the outputs of the four stages, strides 4, 8, 16, 32.

    `activation_checkpointing` trades time for memory in training: block activations are recomputed backwards.
    """

    def __init__(self, config: BackboneConfig, activation_checkpointing: bool = False):
        super().__init__()
        if config.depth not in STAGE_BLOCKS:
            raise ValueError(f"depth: ResNet-{config.depth} is not defined; expected one of {sorted(STAGE_BLOCKS)}")
        self.frozen_stages, self.norm_eval = config.frozen_stages, config.norm_eval
        self.activation_checkpointing = activation_checkpointing
        width = config.base_width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

        block = BasicBlock if config.depth < 50 else Bottleneck
        channels, out_channels = width, []
        for stage, blocks in enumerate(STAGE_BLOCKS[config.depth]):
            layers = []
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(
                    block(
                        channels,
                        width * 2**stage,
                        stride,
                        stride_on_first_conv=config.stride_on_first_conv,
                        deformable=config.deformable_stages[stage],
                    )
                )
                channels = width * 2**stage * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
            out_channels.append(channels)
        self.out_channels = tuple(out_channels)
        self._reset_parameters()
        self._freeze()

    @property
    def stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.bn1(self.conv1(x))
        # ReLU and maximum change places exactly, gradients too. In training it is cheaper behind the pooling, on a
        # quarter of the numbers; in inference it costs nothing inside the convolution.
        x = self.relu(self.maxpool(x)) if self.training else self.maxpool(self.relu(x))
        outputs = []
        for stage in self.stages:
            for block in stage:
                recompute = self.activation_checkpointing and self.training
                x = run_checkpointed(block, x) if recompute else block(x)
            outputs.append(x)
        return outputs

    def train(self, mode: bool = True) -> ResNet:
        """Frozen stages, and with `norm_eval` every batch norm, keep their running statistics in training."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if self.norm_eval:
            for norm in self._norms():
                norm.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.conv1, self.bn1, *self.stages[: self.frozen_stages]]

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def _freeze(self) -> None:
        for module in [*self._frozen_modules(), *(self._norms() if self.norm_eval else [])]:
            module.requires_grad_(False)

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():  # after the loop above, which also reaches the convolutions inside
            if isinstance(module, ModulatedDeformConv2d):
                module.reset_parameters()
        # Every block starts as the identity (Goyal et al. 2017, section 5.1), which steadies training from scratch.
        for stage in self.stages:
            for block in stage:
                nn.init.zeros_(block.last_norm.weight)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; depths 18 and 34."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, stride_on_first_conv: bool, deformable: bool):
        super().__init__()
        if deformable or stride_on_first_conv:
            raise ValueError("deformable_stages, stride_on_first_conv: bottleneck blocks only (depth 50 and more)")
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, width, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + identity)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; depths 50 and more. The 3x3 one may be deformable."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, stride_on_first_conv: bool, deformable: bool):
        super().__init__()
        first_stride, second_stride = (stride, 1) if stride_on_first_conv else (1, stride)
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, first_stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        if deformable:
            self.conv2 = ModulatedDeformConv2d(width, width, 3, second_stride, padding=1)
        else:
            self.conv2 = nn.Conv2d(width, width, 3, second_stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + identity)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The projection of the skip branch, where its shape changes."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
