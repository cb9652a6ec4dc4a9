"""Numbers of the configuration as tensors, brought to a device once and not in every step."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def constant(values: tuple, like: Tensor) -> Tensor:
    """The (nested) tuple as a tensor with the type and device of `like`; not to be written to."""
    return _made_once(values, like.device, like.dtype)


@cache
def _made_once(values: tuple, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype).to(device)
