"""The published design of the operator on a GPU, one atomic addition per channel and sample, to compare speeds with.

Compiled apart from the operator (cuda_ops/csrc/cuda/atomic_forward.cu) and called past torch.
"""

from __future__ import annotations

import ctypes
import pathlib
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor

from cuda_ops.build import CSRC
from cuda_ops.kernel_arguments import pack_arguments
from cuda_ops.toolchain import find_nvcc, gencode_flags
from cuda_ops.workload import Inputs


def compile_published_kernel(folder: pathlib.Path, architecture: str) -> ctypes.CDLL:
    """The kernel as a library for one compute capability, as in "90".

    Raises:
        RuntimeError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda")
    target = folder / "atomic_forward.so"
    flags = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", *gencode_flags([architecture])]
    command = [nvcc, *flags, str(CSRC / "cuda/atomic_forward.cu"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc failed: {done.stderr.strip()}")
    return ctypes.CDLL(str(target))


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
