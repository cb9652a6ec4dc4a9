"""The public operator: the built kernel where there is one, the PyTorch reference otherwise."""

from __future__ import annotations

from .reference import deformable_aggregation, fused_deformable_aggregation

__all__ = ["deformable_aggregation", "fused_deformable_aggregation"]
