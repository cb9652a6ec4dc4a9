"""The implementations that must agree: every test of numbers runs on each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from cuda_ops import cpu_kernels, kernels_loaded, reference
from cuda_ops.build import build
from cuda_ops.layout import integers
from ops import cuda_on_host

build()
assert kernels_loaded()

CPU_KERNELS = cpu_kernels.available()
DEVICES = [*(f"cpu_{name}" for name in CPU_KERNELS), pytest.param("cuda", marks=pytest.mark.gpu)]
"""Where the compiled operators run: on the CPU once with every instruction set that this machine has."""
PATHS = ["reference", *DEVICES, "cuda_on_host"]


@contextlib.contextmanager
def on(device: str) -> Iterator[str]:
    """The torch device of one of DEVICES, its kernels in use meanwhile."""
    if device.startswith("cpu_"):
        with cpu_kernels.using(device.removeprefix("cpu_")):
            yield "cpu"
        return
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    if not kernels_loaded("cuda"):
        pytest.skip("a GPU, but no CUDA kernels; python -m cuda_ops.build says why")
    yield "cuda"


@contextlib.contextmanager
def aggregation(path: str) -> Iterator[Callable[..., torch.Tensor]]:
    """The plain operator on one of PATHS: takes and gives tensors on the CPU."""
    if path == "reference":
        yield reference.deformable_aggregation
    elif path == "cuda_on_host":
        yield _on_host
    else:
        with on(path) as device:
            yield lambda *arguments: plain(*to(device, arguments)).cpu()


def to(device: str, arguments) -> list:
    """The arguments with their tensors on that device; tables stay what they are."""
    return [a.to(device) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]


def plain(features, spatial_shapes, scale_start_index, sampling_location, weights):
    """The compiled operator, whatever the public function would choose."""
    tables = integers("spatial_shapes", spatial_shapes), integers("scale_start_index", scale_start_index)
    return torch.ops.sparse4d.deformable_aggregation(features, *tables, sampling_location, weights)


def fused(features, spatial_shapes, scale_start_index, *others):
    """The compiled fused operator."""
    tables = integers("spatial_shapes", spatial_shapes), integers("scale_start_index", scale_start_index)
    return torch.ops.sparse4d.fused_deformable_aggregation(features, *tables, *others)


def _on_host(features, spatial_shapes, scale_start_index, sampling_location, weights):
    size = weights.shape[3:5]  # cameras, levels
    shapes = torch.tensor(integers("spatial_shapes", spatial_shapes)).view(*size, 2)
    starts = torch.tensor(integers("scale_start_index", scale_start_index)).view(size)
    return cuda_on_host.deformable_aggregation(features, shapes, starts, sampling_location, weights)
