"""The CUDA kernels run on the host: `deformable_aggregation` with gradients, float64/32, bfloat16 and float16.

`ORDER.seed` draws the order in which the threads run; `ORDER.vector_atomics` takes the code for GPUs that add 16 bytes
at a time; `skip_barrier` makes one barrier do nothing.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import pathlib
import subprocess
from dataclasses import dataclass

import torch
from torch import Tensor

from cuda_ops.kernel_arguments import FEATURE_TYPES, pack_arguments
from cuda_ops.library import CSRC, build_roots, source_files

_HERE = pathlib.Path(__file__).parent


@dataclass
class Order:
    seed: int = 0
    vector_atomics: bool = False


ORDER = Order()


def skip_barrier(file: str, line: int) -> None:
    """The `__syncthreads` in that line of a kernel's file does nothing from now on: for a process of its own."""
    for vector_atomics in (False, True):
        _library(vector_atomics).skip_barrier(ctypes.c_char_p(file.encode()), line)


@functools.cache
def _library(vector_atomics: bool) -> ctypes.CDLL:
    sources = [*source_files(), _HERE / "cuda_on_host.h", _HERE / "cuda_on_host.cpp"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    library = build_roots()[0] / f"cuda_on_host-{key}-{int(vector_atomics)}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{CSRC}"]
        flags += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # a device refuses such addresses, too
        flags.append(f"-DSPARSE4D_VECTOR_ATOMICS={int(vector_atomics)}")
        made = library.with_suffix(f".{os.getpid()}.so")
        subprocess.run(["g++", *flags, str(_HERE / "cuda_on_host.cpp"), "-o", str(made)], check=True)
        made.replace(library)
    return ctypes.CDLL(str(library))


def _call(
    backward: bool, source: tuple[Tensor, ...], tables: tuple[Tensor, Tensor], tensors: dict[str, Tensor]
) -> None:
    array, maps = pack_arguments(tensors, source, tables)
    library, dtype = _library(ORDER.vector_atomics), FEATURE_TYPES[tensors["features"].dtype]
    assert ctypes.sizeof(array) == library.size_of_arguments()
    library.run_on_host(int(backward), dtype, int(len(source) == 3), array, ctypes.c_uint64(ORDER.seed))
    del maps


def atomic_forward(features, spatial_shapes, scale_start_index, sampling_location, weights) -> Tensor:
    """The kernel that the benchmark compares with."""
    output = weights.new_zeros(len(features), weights.shape[1], features.shape[2])
    tensors = {"features": features, "weights": weights, "output": output}
    array, maps = pack_arguments(tensors, (sampling_location,), (spatial_shapes, scale_start_index))
    _library(ORDER.vector_atomics).run_atomic_forward(array)
    del maps
    return output


class _OnHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, shapes, starts, weights, *where):
        ctx.save_for_backward(features, shapes, starts, weights, *where)
        output = features.new_empty(len(features), weights.shape[1], features.shape[2])
        _call(False, where, (shapes, starts), {"features": features, "weights": weights, "output": output})
        return output

    @staticmethod
    def backward(ctx, grad_output):
        features, shapes, starts, weights, *where = ctx.saved_tensors
        gradients = {
            "grad_features": torch.zeros_like(features, dtype=weights.dtype),
            "grad_weights": torch.zeros_like(weights),
            "grad_location": torch.zeros_like(where[0]),
        }
        tensors = {"features": features, "weights": weights, "grad_output": grad_output.contiguous(), **gradients}
        _call(True, tuple(where), (shapes, starts), tensors)
        grad_features, grad_weights, grad_location = gradients.values()
        return grad_features.to(features.dtype), None, None, grad_weights, grad_location, *[None] * (len(where) - 1)


def deformable_aggregation(features, spatial_shapes, scale_start_index, sampling_location, weights) -> Tensor:
    """The plain operator."""
    return _OnHost.apply(features, spatial_shapes, scale_start_index, weights, sampling_location)


def fused_deformable_aggregation(
    features, spatial_shapes, scale_start_index, key_points, projection, image_wh, weights
) -> Tensor:
    """The fused operator."""
    return _OnHost.apply(features, spatial_shapes, scale_start_index, weights, key_points, projection, image_wh)
