"""Convolutions of the image encoder as oneDNN runs them best on CPUs: addition and ReLU in the same pass.

At the end of a residual block plain modules pass over memory three times (convolution, addition, ReLU), and PyTorch
hands 1x1 convolutions of one thread to a matrix product of half the speed. Values differ by rounding only; the modules
they stand in for are the reference (test/core/inference/test_image_encoder.py).
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.backbones.fpn import FPN
from ..network.backbones.resnet import BasicBlock, Bottleneck, ResNet
from ..network.linear import private_operator_runs


@cache
def has_fused_convolution(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolution runs here in this type, alone and with an addition.

    It has no way around instructions that a processor lacks for bfloat16 or float16, as PyTorch's plain one has.
    """
    image = torch.ones(1, 1, 1, 1, device="cpu", dtype=dtype)
    plain = nn.utils.skip_init(nn.Conv2d, 1, 1, 1, device="cpu", dtype=dtype)  # draws no random numbers
    convolution = FusedConvolution(plain, relu=True)
    return private_operator_runs("mkldnn::_convolution_pointwise", lambda: convolution(convolution(image), image))


class FusedConvolution(nn.Module):
    """relu(conv(x) + other); both the addition and the ReLU are optional. Inference only, batch norm folded before."""

    def __init__(self, conv: nn.Conv2d, relu: bool = False):
        super().__init__()
        self.weight, self.bias, self.relu = conv.weight, conv.bias, relu
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], other like the result [B, out, h, w]."""
        run = torch.ops.mkldnn._convolution_pointwise
        relu = "relu" if self.relu else None
        if other is None:
            return run(x, self.weight, self.bias, *self.geometry, relu or "none", [], "")
        return run.binary(x, other, self.weight, self.bias, *self.geometry, "add", 1.0, relu, [], "")


class FusedBlock(nn.Module):
    """A residual block: ReLU inside its convolutions, the skip branch added by the last one."""

    def __init__(self, block: BasicBlock | Bottleneck):
        super().__init__()
        convolutions = [block.conv1, block.conv2] + ([block.conv3] if isinstance(block, Bottleneck) else [])
        self.convolutions = nn.ModuleList(FusedConvolution(conv, relu=True) for conv in convolutions)
        self.downsample = None if block.downsample is None else FusedConvolution(block.downsample[0])

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        *first, last = self.convolutions
        for convolution in first:
            x = convolution(x)
        return last(x, identity)


class FusedFPN(nn.Module):
    """The feature pyramid; the coarser level is added by the lateral convolution."""

    def __init__(self, neck: FPN):
        super().__init__()
        self.start_level = neck.start_level
        self.lateral = nn.ModuleList(FusedConvolution(sequence.conv) for sequence in neck.lateral_convs)
        self.output = nn.ModuleList(FusedConvolution(sequence.conv) for sequence in neck.fpn_convs)

    def forward(self, stages: list[Tensor]) -> list[Tensor]:  # finest first, in and out
        used = list(zip(self.lateral, stages[self.start_level :], strict=True))
        levels: list[Tensor] = []
        for lateral, x in reversed(used):
            coarser = F.interpolate(levels[0], size=x.shape[-2:], mode="nearest") if levels else None
            levels.insert(0, lateral(x, coarser))
        outputs = [convolution(level) for convolution, level in zip(self.output, levels, strict=False)]
        for convolution in self.output[len(levels) :]:
            outputs.append(convolution(outputs[-1]))
        return outputs


def fuse_convolutions(encoder: nn.Module) -> None:
    """Puts fused modules in place of what they can replace in `encoder.backbone` and `encoder.neck`.

    Batch norms must be folded. Blocks with deformable convolutions keep their structure; their plain convolutions, like
    those of other backbones, run on oneDNN one by one.
    """
    if isinstance(encoder.backbone, ResNet):
        encoder.backbone.conv1 = FusedConvolution(encoder.backbone.conv1, relu=True)
        encoder.backbone.relu = nn.Identity()
    encoder.neck = FusedFPN(encoder.neck)
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, (BasicBlock, Bottleneck)) and type(child.conv2) is nn.Conv2d:
                setattr(parent, name, FusedBlock(child))
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and not isinstance(child.padding, str):
                setattr(parent, name, FusedConvolution(child))
