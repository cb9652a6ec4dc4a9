"""The published design of the operator on a GPU, one atomic addition per channel and sample, to compare speeds with."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ops.kernel_arguments import pack_arguments
from cuda_ops.workload import Inputs

PUBLISHED_KERNEL = "atomic_forward"  # for compile_apart


def published_forward(library: ctypes.CDLL, inputs: Inputs) -> tuple[Callable[[], None], Tensor]:
    """What runs the kernel on float32 inputs of a GPU, in its current stream; and the output [B, A, C] it writes."""
    features, weights = inputs.features, inputs.weights
    output = features.new_zeros(weights.shape[0], weights.shape[1], features.shape[2])
    tensors = {"features": features, "weights": weights, "output": output}
    arguments, maps = pack_arguments(tensors, (inputs.location,), (inputs.spatial_shapes, inputs.scale_start_index))

    def run(_keep: Tensor = maps) -> None:  # the packed arguments point into the table of maps
        output.zero_()
        stream = ctypes.c_void_p(torch.cuda.current_stream(features.device).cuda_stream)
        status = library.atomic_forward(ctypes.byref(arguments), stream)
        if status != 0:
            raise RuntimeError(f"the published kernel did not start: CUDA error {status}")

    return run, output
