"""Modulated deformable convolution (DCNv2; Zhu et al., "Deformable ConvNets v2", CVPR 2019) in plain PyTorch.

On a GPU torchvision's kernels run where torchvision is installed; the path here is the reference, and what runs
everywhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..linear import linear

log = logging.getLogger(__name__)


class ModulatedDeformConv2d(nn.Module):
    """A convolution whose taps move and fade: `conv_offset` predicts where each tap looks and how much it counts.

    Its channels are read as in the published checkpoints: the first two thirds are interleaved (dy, dx) pairs per
    kernel tap and deformable group, in pixels of the input; the last third goes through a sigmoid and scales the tap.
    """

    onednn = True  # False: plain PyTorch alone: its own matrix product, and no torchvision

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        bias: bool = False,
        deform_groups: int = 1,
    ):
        super().__init__()
        if in_channels % deform_groups:
            raise ValueError(f"deform_groups: {deform_groups} does not divide in_channels {in_channels}")
        self.stride, self.padding, self.deform_groups = stride, padding, deform_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        samples = deform_groups * kernel_size**2
        self.offset_channels = 2 * samples
        self.conv_offset = nn.Conv2d(in_channels, 3 * samples, kernel_size, stride, padding)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """An ordinary convolution at half strength to start from: no offset, every tap modulated by sigmoid(0)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, out_channels, h, w]
        offset, modulation = self.conv_offset(x).tensor_split([self.offset_channels], dim=1)
        geometry = (self.stride, self.padding, self.deform_groups)
        arguments = (x, offset, modulation.sigmoid(), self.weight, self.bias, *geometry)
        if x.is_cuda and self.onednn and torchvision_operator() is not None:
            return torchvision_deform_conv2d(*arguments)
        return modulated_deform_conv2d(*arguments, self.onednn)


@cache
def torchvision_operator() -> Callable[..., Tensor] | None:
    """torchvision.ops.deform_conv2d; None where torchvision is not installed, or was built for another torch."""
    try:
        from torchvision.ops import deform_conv2d
    except ImportError:
        return None
    except (RuntimeError, OSError) as error:  # its library does not fit this torch
        log.warning("deformable convolution: torchvision does not load (%s); the slower path of our own runs", error)
        return None
    return deform_conv2d


def torchvision_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    modulation: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    deform_groups: int,
) -> Tensor:
    """`modulated_deform_conv2d` by torchvision, which finds the number of groups in the shape of `offset`.

    float32 throughout, float64 for float64: in lower precision the positions of the taps would be off by pixels.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x_wide, offset, modulation, weight = (tensor.to(dtype) for tensor in (x, offset, modulation, weight))
    bias = None if bias is None else bias.to(dtype)
    output = torchvision_operator()(
        x_wide, offset, weight, bias, stride=(stride, stride), padding=(padding, padding), mask=modulation
    )
    return output.to(x.dtype)


def modulated_deform_conv2d(
    x: Tensor,  # [B, C, H, W]
    offset: Tensor,  # [B, G * K * 2, h, w], (dy, dx) in pixels of x; G deformable groups, K taps row by row
    modulation: Tensor,  # [B, G * K, h, w]
    weight: Tensor,  # [out, C, kh, kw]
    bias: Tensor | None,  # [out]
    stride: int,
    padding: int,
    deform_groups: int,
    onednn: bool = True,  # see `linear`
) -> Tensor:  # [B, out, h, w]
    """Every tap reads `x` bilinearly at its moved position (zero outside the map); then an ordinary matrix product.

    A bilinear sample is a weighted sum of four rows of the channel-last map, which is what `embedding_bag` computes
    in one pass: nothing of size 4 x taps is stored and positions are exact (grid_sample would normalise them first).
    """
    batch, channels, height, width = x.shape
    out, _, kernel_h, kernel_w = weight.shape
    h, w = offset.shape[-2:]
    taps = kernel_h * kernel_w
    offset = offset.float() if offset.dtype in (torch.float16, torch.bfloat16) else offset
    y, x_pos = _tap_positions(offset.view(batch, deform_groups, taps, 2, h, w), kernel_w, stride, padding)
    rows, row_weights = _bilinear_rows(y, x_pos, height, width)  # [4, B, G, K, h, w]
    row_weights = row_weights * modulation.view(batch, deform_groups, taps, h, w)
    rows = rows + torch.arange(batch, device=x.device).view(-1, 1, 1, 1, 1) * (height * width)

    columns = []  # per group [B * h * w, K, C / G]
    for group, features in enumerate(x.chunk(deform_groups, dim=1)):
        table = features.permute(0, 2, 3, 1).reshape(batch * height * width, -1)
        index = rows[:, :, group].permute(1, 3, 4, 2, 0).reshape(-1, 4)
        scale = row_weights[:, :, group].permute(1, 3, 4, 2, 0).reshape(-1, 4).to(table.dtype)
        sampled = F.embedding_bag(index, table, mode="sum", per_sample_weights=scale)
        columns.append(sampled.view(batch * h * w, taps, -1))
    sampled = columns[0] if deform_groups == 1 else torch.cat(columns, dim=2)
    matrix = weight.permute(0, 2, 3, 1).reshape(out, taps * channels).to(x.dtype)
    return linear(sampled.flatten(1), matrix, bias, onednn).view(batch, h, w, out).permute(0, 3, 1, 2)


def _tap_positions(offset: Tensor, kernel_w: int, stride: int, padding: int) -> tuple[Tensor, Tensor]:
    """Rows and columns in the input map where the taps look; offset [B, G, K, 2, h, w] -> two of [B, G, K, h, w]."""
    taps, h, w = offset.shape[2], offset.shape[-2], offset.shape[-1]
    tap = torch.arange(taps, device=offset.device).view(taps, 1, 1)
    row = torch.arange(h, device=offset.device).view(1, h, 1) * stride - padding + tap // kernel_w
    column = torch.arange(w, device=offset.device).view(1, 1, w) * stride - padding + tap % kernel_w
    return offset[:, :, :, 0] + row, offset[:, :, :, 1] + column


def _bilinear_rows(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four neighbours of each position: row numbers in the flattened map and weights, [4, *positions] each.

    Neighbours outside the map get weight zero; a NaN position gives NaN weights, so that it stays visible.
    """
    y0, x0 = y.floor(), x.floor()
    rows, weights = [], []
    for step_y, weight_y in ((0, 1 - (y - y0)), (1, y - y0)):
        for step_x, weight_x in ((0, 1 - (x - x0)), (1, x - x0)):
            row, column = y0 + step_y, x0 + step_x
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            rows.append(torch.where(inside, row * width + column, 0).long())
            weights.append(weight_y * weight_x * inside)
    return torch.stack(rows), torch.stack(weights)
