"""The operator on the device against its definition in float64 on the CPU."""

from __future__ import annotations

import pytest
import torch
from ops.inputs import fused_arguments, plain_arguments
from torch import Tensor

import cuda_ops
from cuda_ops import reference

pytestmark = pytest.mark.gpu

OPERATORS = {
    name: (getattr(cuda_ops, function), getattr(reference, function), make, differentiable)
    for name, function, make, differentiable in (
        ("plain", "deformable_aggregation", plain_arguments, (0, 3, 4)),
        ("fused", "fused_deformable_aggregation", fused_arguments, (0, 3, 6)),
    )
}
# Share of the largest value that an error may have: sums in the wide type in any order, then one rounding.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.bfloat16: 2**-7,
    torch.float16: 2**-10,
}
SIZES = {"batch": 2, "anchors": 70, "points": 5, "channels": 64, "groups": 8}


def on(device: str, arguments, dtype=None) -> list:
    """The arguments with their tensors of numbers there; tables stay on the host."""
    return [a.to(device, dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments]


def gradients(function, arguments, differentiable) -> list[Tensor]:
    """Output and gradients in float64 on the CPU, along a direction that is the same everywhere."""
    leaves = [a.detach().requires_grad_(i in differentiable) if isinstance(a, Tensor) else a
              for i, a in enumerate(arguments)]  # fmt: skip
    output = function(*leaves)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output)
    found = torch.autograd.grad(output, [leaves[i] for i in differentiable], direction)
    return [value.detach().double().cpu() for value in (output, *found)]


def assert_close(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        tolerance = TOLERANCES[dtype] * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCES[dtype], atol=tolerance)


def case(name: str, dtype: torch.dtype, device: str):
    if dtype == torch.float16 and not device.startswith("cuda"):
        pytest.skip("the CPU kernels have no float16")
    operator, definition, make, differentiable = OPERATORS[name]
    arguments = make(dtype=dtype, seed=3, **SIZES)
    return operator, definition, arguments, differentiable


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_forward_and_backward(device, name, dtype):
    operator, definition, arguments, differentiable = case(name, dtype, device)
    actual = gradients(operator, on(device, arguments), differentiable)
    expected = gradients(definition, on("cpu", arguments, torch.float64), differentiable)
    assert_close(actual, expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operator_on_misaligned_views(device, name, dtype):
    """Tensors that start one element into their memory: no vector of the hardware's begins there."""
    operator, _, arguments, differentiable = case(name, dtype, device)
    aligned = on(device, arguments)

    def shifted(tensor):
        view = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=device)[1:].view(tensor.shape)
        return view.copy_(tensor)

    moved = [shifted(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in aligned]
    assert moved[0].data_ptr() % 16 != 0
    assert_close(gradients(operator, moved, differentiable), gradients(operator, aligned, differentiable), dtype)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_on_a_side_stream(gpu, name):
    """It runs in the caller's stream: behind what was put there before, which takes its time."""
    operator, _, arguments, differentiable = case(name, torch.float32, gpu)
    given = on(gpu, arguments)
    expected = gradients(operator, given, differentiable)
    side = torch.cuda.Stream(gpu)
    side.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(side):
        late = [torch.zeros_like(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in given]
        torch.cuda._sleep(50_000_000)
        for empty, value in zip(late, given, strict=True):
            if empty is not value:
                empty.copy_(value)
        actual = gradients(operator, late, differentiable)
    torch.cuda.current_stream(gpu).wait_stream(side)
    assert_close(actual, expected, torch.float32)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_in_a_graph(gpu, name):
    """A replay reads what lies in the tensors then."""
    operator, _, arguments, _ = case(name, torch.float32, gpu)
    given = on(gpu, arguments)
    other = on(gpu, OPERATORS[name][2](dtype=torch.float32, seed=4, **SIZES))
    with torch.no_grad(), torch.cuda.device(gpu):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            operator(*given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = operator(*given)
        for fixed, value in zip(given, other, strict=True):
            if isinstance(fixed, Tensor) and fixed.is_floating_point():
                fixed.copy_(value)
        graph.replay()
        assert_close([output.double().cpu()], [operator(*other).double().cpu()], torch.float32)
