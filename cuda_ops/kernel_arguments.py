"""The operator's arguments as the kernels read them (csrc/shared/arguments.h), for callers that go past torch: the
emulation of the tests and the benchmark's comparison kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

FEATURE_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def pack_arguments(
    tensors: Mapping[str, Tensor], source: tuple[Tensor, ...], tables: tuple[Tensor, Tensor]
) -> tuple[ctypes.Array, Tensor]:
    """The bytes of an `Arguments` and the table of maps that it points to, which must live as long.

    Args:
        tensors: features [B, pixels, C], weights (6 dimensions), and as needed output, grad_output, grad_features,
            grad_weights, grad_location.
        source: (locations [B, A, P, N, 2],) or (key points [B, A, P, 3], projection [B, N, 4, 4], image_wh [B, N, 2]).
        tables: spatial_shapes [N, L, 2] and scale_start_index [N, L], int64 on the host.
    """
    features, weights, fused = tensors["features"], tensors["weights"], len(source) == 3
    points, cameras = (source[0].shape[2], source[1].shape[1]) if fused else source[0].shape[2:4]
    shapes, starts = tables
    maps = torch.cat([starts[..., None], shapes], -1).contiguous()
    b, a, *rest, _ = weights.stride()
    strides = [b, a, rest[2], rest[0], rest[1]] if fused else [b, a, *rest]  # batch, anchor, point, camera, level

    def pointer(name: str) -> int:
        return tensors[name].data_ptr() if name in tensors else 0

    words = [len(features), weights.shape[1], points, cameras, starts.shape[1], weights.shape[5], features.shape[2]]
    words += [features.shape[1], maps.data_ptr(), *strides, pointer("features"), pointer("weights")]
    words += [0, *(t.data_ptr() for t in source)] if fused else [source[0].data_ptr(), 0, 0, 0]
    words += [pointer(name) for name in ("output", "grad_output", "grad_features")]
    words += [1, pointer("grad_weights"), pointer("grad_location")]  # 1: channel blocks, of the CPU kernels
    return (ctypes.c_int64 * len(words))(*words), maps
