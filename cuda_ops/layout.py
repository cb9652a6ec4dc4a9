"""How the operators want feature maps: all cameras' and levels' pixels in one tensor, and tables of integers to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Table = Tensor | Sequence
"""Integers in (nested) lists and tuples, or an integer tensor on the CPU. They are read on the host: plain integers are
constants of a trace, in which a CPU tensor cannot stand beside CUDA features."""


def integers(name: str, table: Table) -> list[int]:
    """The numbers of a table, row by row; `name` is for the errors.

    Raises:
        TypeError: it holds something else than integers.
        ValueError: it is a tensor that the host cannot read at once.
    """
    if isinstance(table, Tensor):
        if table.device.type != "cpu":
            raise ValueError(
                f"{name}: expected integers or a CPU tensor (it is read on the host), got a tensor on {table.device}; "
                "call .tolist() once when it is made"
            )
        if table.is_floating_point():
            raise TypeError(f"{name}: expected integers, got {table.dtype}")
        return table.flatten().tolist()
    flat: list[int] = []
    for entry in table:
        if isinstance(entry, (int, torch.SymInt)):
            flat.append(entry)
        elif isinstance(entry, (list, tuple, Tensor)):
            flat.extend(integers(name, entry))
        else:
            raise TypeError(f"{name}: expected integers, got {type(entry).__name__}")
    return flat


def flatten_maps(
    maps: Sequence[Tensor],  # L levels of [B, N, C, h, w]
) -> tuple[Tensor, list[list[tuple[int, int]]], list[list[int]]]:
    """The operators' arguments `features`, `spatial_shapes` and `scale_start_index`.

    Returns:
        features [B, sum of pixels, C]: for each camera, for each level, all pixels row-major, channel last;
        [N][L] pairs of height and width; [N][L] first rows.
    """
    cameras = maps[0].shape[1]
    features = torch.cat([m.flatten(-2).transpose(-1, -2) for m in maps], dim=2).flatten(1, 2)
    sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
    starts, row = [], 0
    for _ in range(cameras):
        starts.append([])
        for height, width in sizes:
            starts[-1].append(row)
            row += height * width
    return features, [sizes] * cameras, starts
