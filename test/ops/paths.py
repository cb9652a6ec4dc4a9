"""The implementations that must agree: every test of numbers runs on each."""

from __future__ import annotations

import torch

from cuda_ops import reference
from cuda_ops.build import build
from ops import cuda_on_host

build()


def _compiled(features, spatial_shapes, scale_start_index, sampling_location, weights):
    return torch.ops.sparse4d.deformable_aggregation(
        features, spatial_shapes, scale_start_index, sampling_location, weights
    )


PATHS = {
    "reference": reference.deformable_aggregation,
    "cpu_kernel": _compiled,
    "cuda_kernel_on_host": cuda_on_host.deformable_aggregation,
}
