"""A computation in float64 throughout, to tell which of two float32 results is the right one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sparse4d_core.model_io import map_tensors


@contextmanager
def float64_throughout() -> Iterator[None]:
    """What is made inside is float64, and what asks for float32 gets float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def in_float64(value: Any) -> Any:
    """The numbers of nested dataclasses, tuples and lists in float64; integers and masks stay."""
    return map_tensors(value, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
