"""Threads of the processor that one operation may use."""

from __future__ import annotations

import torch


def limit_threads(count: int) -> None:
    """Lets torch use `count` threads for one operation on the CPU; 0 leaves its own choice."""
    if count > 0:
        torch.set_num_threads(count)
