"""oneDNN's linear layers against PyTorch's, and when they stand back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from sparse4d_core.network.linear import Linear, has_onednn, use_onednn

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this torch is built without oneDNN's fused layers")


@needs_onednn
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 3, 128), (7, 512, 10), (2, 256, 416)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_pytorch(dtype, tolerance, rows, inner, outer, bias):
    layer = Linear(inner, outer, bias=bias, dtype=dtype)
    x = torch.randn(2, rows, inner, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.inference_mode():
        assert use_onednn(x, layer.weight)
        expected = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
        torch.testing.assert_close(layer(x).double(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(layer(x[:, ::2]), layer(x)[:, ::2], rtol=tolerance, atol=tolerance)


def test_training_keeps_pytorchs_layer_and_its_gradients():
    layer = Linear(8, 4)
    x = torch.randn(2, 3, 8)
    assert not use_onednn(x, layer.weight)
    layer(x).square().sum().backward()
    assert torch.isfinite(layer.weight.grad).all() and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("x", [torch.randn(0, 8), torch.randn(3, 8).double(), torch.randn(3, 8).half()])
def test_stands_back_where_onednn_has_no_kernel(x):
    layer = Linear(8, 4, dtype=x.dtype)
    with torch.inference_mode():
        assert not use_onednn(x, layer.weight)
        assert layer(x).shape == (*x.shape[:-1], 4)


def refuse(*_):
    raise TypeError("expected at most 5 arguments")


@pytest.mark.parametrize(
    ("operators", "reason"),
    [(SimpleNamespace(), "_linear_pointwise"), (SimpleNamespace(_linear_pointwise=refuse), "at most 5 arguments")],
    ids=["gone", "changed"],
)
@needs_onednn
def test_a_torch_without_the_private_operator_takes_the_plain_path_and_says_so_once(
    monkeypatch, caplog, operators, reason
):
    layer, x = Linear(8, 4), torch.randn(3, 8)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    has_onednn.cache_clear()
    try:
        with torch.inference_mode():
            for _ in range(2):
                assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
        (line,) = caplog.messages
        assert "mkldnn::_linear_pointwise cannot be used" in line and reason in line
    finally:
        has_onednn.cache_clear()
