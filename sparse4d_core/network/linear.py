"""Linear layers that run on oneDNN in inference.

PyTorch multiplies float32 matrices with MKL, which uses half the vector width on processors of other makers: on an AMD
EPYC (Zen 5) oneDNN is 2.3 times as fast. It has no gradient, so training keeps PyTorch's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN_DTYPES = (torch.float32, torch.bfloat16)

log = logging.getLogger(__name__)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, onednn: bool = True) -> Tensor:
    """``F.linear``, on oneDNN where nothing needs a gradient. x [..., in], weight [out, in] -> [..., out].

    onednn: False keeps PyTorch's own product, to compare with.
    """
    if onednn and use_onednn(x, weight):
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


@cache
def has_onednn() -> bool:
    """Whether this torch has oneDNN's linear layer: 2.1 and later on x86-64 and ARM."""
    one = torch.ones(1, 1, device="cpu")
    return private_operator_runs(
        "mkldnn::_linear_pointwise", lambda: torch.ops.mkldnn._linear_pointwise(one, one, None, "none", [], "")
    )


def private_operator_runs(name: str, trial: Callable[[], Tensor]) -> bool:
    """Whether oneDNN is there and `trial`, a call of one of its operators, runs.

    The operators are private: another version of torch may lack them or take other arguments. Then the log gets a line
    and the caller takes PyTorch's plain path.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        with torch.inference_mode():
            trial()
    except Exception as error:  # a missing operator and a changed signature raise different ones
        log.warning("torch %s: operator %s cannot be used, plain PyTorch runs: %s", torch.__version__, name, error)
        return False
    return True


class Linear(nn.Linear):
    """``torch.nn.Linear`` through :func:`linear`."""

    onednn = True  # False: PyTorch's own product

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.onednn)
