"""The CUDA kernels run on the host: `deformable_aggregation` with gradients, float64/32, bfloat16 and float16."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import pathlib
import subprocess

import torch
from torch import Tensor

from cuda_ops.library import CSRC, build_roots, source_files

_HERE = pathlib.Path(__file__).parent
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


@functools.cache
def _library() -> ctypes.CDLL:
    sources = [*source_files(), _HERE / "cuda_on_host.h", _HERE / "cuda_on_host.cpp"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    library = build_roots()[0] / f"cuda_on_host-{key}.so"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{CSRC}"]
        subprocess.run(["g++", *flags, str(_HERE / "cuda_on_host.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def _strides(weights: Tensor, fused: bool) -> list[int]:
    """Of batch, anchor, point, camera, level."""
    b, a, *rest, _ = weights.stride()
    return [b, a, rest[2], rest[0], rest[1]] if fused else [b, a, *rest]


def _call(backward: bool, where: tuple[Tensor, ...], tables: tuple[Tensor, Tensor], tensors: dict[str, Tensor]) -> None:
    """`where`: (location,) or (key points, projection, image_wh)."""
    features, weights, fused = tensors["features"], tensors["weights"], len(where) == 3
    points, cameras = (where[0].shape[2], where[1].shape[1]) if fused else where[0].shape[2:4]
    shapes, starts = tables
    maps = torch.cat([starts[..., None], shapes], -1).contiguous()
    pointer = lambda t: 0 if t is None else t.data_ptr()  # noqa: E731
    sizes = [len(features), weights.shape[1], points, cameras, starts.shape[1], weights.shape[5], features.shape[2]]
    words = [*sizes, features.shape[1], pointer(maps), *_strides(weights, fused), pointer(features), pointer(weights)]
    words += [0, *map(pointer, where)] if fused else [pointer(where[0]), 0, 0, 0]
    names = ("output", "grad_output", "grad_features", None, "grad_weights", "grad_where")
    words += [1 if name is None else pointer(tensors.get(name)) for name in names]
    array = (ctypes.c_int64 * len(words))(*words)
    assert ctypes.sizeof(array) == _library().size_of_arguments()
    _library().run_on_host(int(backward), _TYPES[features.dtype], int(fused), array)


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
            "grad_where": torch.zeros_like(where[0]),
        }
        tensors = {"features": features, "weights": weights, "grad_output": grad_output.contiguous(), **gradients}
        _call(True, tuple(where), (shapes, starts), tensors)
        grad_features, grad_weights, grad_where = gradients.values()
        return grad_features.to(features.dtype), None, None, grad_weights, grad_where, *[None] * (len(where) - 1)


def deformable_aggregation(features, spatial_shapes, scale_start_index, sampling_location, weights) -> Tensor:
    """The plain operator."""
    return _OnHost.apply(features, spatial_shapes, scale_start_index, weights, sampling_location)


def fused_deformable_aggregation(
    features, spatial_shapes, scale_start_index, key_points, projection, image_wh, weights
) -> Tensor:
    """The fused operator."""
    return _OnHost.apply(features, spatial_shapes, scale_start_index, weights, key_points, projection, image_wh)
