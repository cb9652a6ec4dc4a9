"""Linear layers that run on oneDNN in inference.

PyTorch multiplies float32 matrices with MKL, which uses half the vector width on processors of other makers: on an AMD
EPYC (Zen 5) oneDNN is 2.3 times as fast. It has no gradient, so training keeps PyTorch's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN_DTYPES = (torch.float32, torch.bfloat16)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, on oneDNN where nothing needs a gradient. x [..., in], weight [out, in] -> [..., out]."""
    if use_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def use_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can stand in: eager inference on the CPU in one of its types, and torch was built with it."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in ONEDNN_DTYPES
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and has_onednn()
    )


def has_onednn() -> bool:
    """oneDNN's fused layers: torch 2.1 and later on x86-64 and ARM."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """``torch.nn.Linear`` through :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
