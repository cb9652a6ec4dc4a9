"""Deformable aggregation: one operator, kernels per device, and a readable PyTorch reference."""

from .deformable_aggregation import deformable_aggregation, fused_deformable_aggregation

__all__ = ["deformable_aggregation", "fused_deformable_aggregation"]
