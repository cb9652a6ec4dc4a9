"""Deformable aggregation: one operator, kernels per device, and a readable PyTorch reference."""

from .deformable_aggregation import (
    deformable_aggregation,
    deformable_aggregation_per_point,
    fused_deformable_aggregation,
)
from .layout import flatten_maps
from .library import kernels_loaded

__all__ = [
    "deformable_aggregation",
    "deformable_aggregation_per_point",
    "flatten_maps",
    "fused_deformable_aggregation",
    "kernels_loaded",
]
