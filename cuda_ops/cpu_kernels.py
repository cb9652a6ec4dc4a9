"""Which instruction set the CPU kernels use: the best that the processor has, unless $SPARSE4D_CPU_KERNELS names one.

The variable is read once, at the first call of an operator. All give the same numbers but for rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from .library import kernels_loaded

VARIABLE = "SPARSE4D_CPU_KERNELS"


def available() -> list[str]:
    """Those that this processor runs, best first, of avx512, avx2 and generic; none where no kernels are built."""
    return torch.ops.sparse4d.cpu_kernels() if kernels_loaded() else []


def in_use() -> str:
    """The one that operators on CPU tensors use; empty where no kernels are built."""
    return torch.ops.sparse4d.cpu_kernels_in_use() if kernels_loaded() else ""


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Operators of all threads use these kernels in the meantime.

    Raises:
        ValueError: the processor does not run them.
    """
    if not kernels_loaded():
        raise RuntimeError("no kernels are built; run: python -m cuda_ops.build")
    before = torch.ops.sparse4d.use_cpu_kernels(name)
    try:
        yield
    finally:
        torch.ops.sparse4d.use_cpu_kernels(before)
