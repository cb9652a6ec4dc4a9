"""What only a GPU can show of the operators: streams, and the replay of a captured graph."""

from __future__ import annotations

import pytest
import torch

from ops.inputs import fused_arguments, plain_arguments
from ops.paths import fused, on, plain, to

pytestmark = pytest.mark.gpu
OPERATORS = {"plain": (plain, plain_arguments), "fused": (fused, fused_arguments)}
CYCLES = 50_000_000  # of waiting, some 30 ms: what is queued behind it has not run when the host goes on


@pytest.fixture
def device():
    with on("cuda") as name:
        yield name


@pytest.mark.parametrize("name", OPERATORS)
def test_the_current_stream_is_used(name, device):
    """Features are written late on a side stream: kernels on any other stream would read what was there before."""
    operator, make = OPERATORS[name]
    arguments, later = to(device, make(seed=1)), to(device, make(seed=2))[0]
    expected = operator(later, *arguments[1:])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        arguments[0].copy_(later)
        output = operator(*arguments)
    stream.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_waits_for_the_device(name, device):
    operator, make = OPERATORS[name]
    arguments = to(device, make())
    arguments[0].requires_grad_()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        operator(*arguments).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_captured_graph_computes_with_new_numbers(name, device):
    operator, make = OPERATORS[name]
    arguments, later = to(device, make(seed=1)), to(device, make(seed=2))
    expected = operator(*later)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        operator(*arguments)  # warms up
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = operator(*arguments)
    for tensor, new in zip(arguments, later, strict=True):
        if tensor.is_cuda:
            tensor.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(output, expected)
