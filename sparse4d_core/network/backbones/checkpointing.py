"""Activation checkpointing of a block with batch norm, without counting the batch twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, whose activations are recomputed in the backward pass instead of kept."""
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(block)))


@contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norm normalises with the batch as in the first pass but leaves its running statistics alone.

    The kernel has to save the same tensors both times, so the update stays in place with momentum zero.
    """
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
