"""The operators as torch sees them: registration, gradients, autocast, fake tensors, precision, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cuda_ops import kernels_loaded, reference
from ops import paths  # noqa: F401  (builds and loads the kernels)
from ops.inputs import fused_arguments, plain_arguments

PLAIN = torch.ops.sparse4d.deformable_aggregation
FUSED = torch.ops.sparse4d.fused_deformable_aggregation
OPERATORS = {
    "plain": (PLAIN, reference.deformable_aggregation, plain_arguments, (0, 3, 4)),
    "fused": (FUSED, reference.fused_deformable_aggregation, fused_arguments, (0, 3, 6)),
}


def _gradients(implementation, arguments, differentiable):
    arguments = [a.detach().clone().requires_grad_(i in differentiable) for i, a in enumerate(arguments)]
    output = implementation(*arguments)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, [arguments[i] for i in differentiable], direction)


def test_public_functions_use_the_kernels():
    assert kernels_loaded()


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    operator, _, make, differentiable = OPERATORS[name]
    arguments = [a.requires_grad_(i in differentiable) for i, a in enumerate(make())]
    torch.library.opcheck(operator.default, tuple(arguments))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradcheck_in_double_precision(name):
    operator, _, make, differentiable = OPERATORS[name]
    arguments = make(dtype=torch.float64, batch=1, anchors=3, points=2, channels=8, groups=2)
    arguments = [a.requires_grad_(i in differentiable) for i, a in enumerate(arguments)]
    assert torch.autograd.gradcheck(operator, arguments, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_kernel_equals_reference_on_random_shapes(name, data):
    """In double precision, any shapes: also channels that fill no vector, one pixel maps, nothing at all."""
    operator, definition, make, differentiable = OPERATORS[name]
    integer = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    cameras, levels, groups = integer(0, 4), integer(1, 3), integer(1, 4)
    sizes = [[(integer(1, 9), integer(1, 9)) for _ in range(levels)] for _ in range(cameras)]
    arguments = make(
        batch=integer(0, 3), anchors=integer(0, 20), points=integer(0, 4), sizes=sizes or [[(3, 3)] * levels],
        channels=groups * integer(1, 21), groups=groups, dtype=torch.float64, seed=integer(0, 99),
    )  # fmt: skip
    actual = _gradients(operator, arguments, differentiable)
    expected = _gradients(definition, arguments, differentiable)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def test_fused_equals_projection_then_plain():
    features, shapes, starts, key_points, projection, image_wh, weights = fused_arguments(anchors=50)
    location = reference.project_points(key_points, projection, image_wh)
    inside = ((location > 0) & (location < 1)).all(-1)
    assert 0.05 < inside.float().mean() < 0.95, "the scene must have points inside and outside"
    ordered = weights.permute(0, 1, 4, 2, 3, 5).contiguous()
    fused = FUSED(features, shapes, starts, key_points, projection, image_wh, weights)
    torch.testing.assert_close(fused, PLAIN(features, shapes, starts, location, ordered), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_bfloat16_is_as_exact_as_its_storage(name):
    """Against the reference on the same rounded features: one rounding of the result, sums in float32."""
    operator, definition, make, differentiable = OPERATORS[name]
    arguments = make(dtype=torch.bfloat16, anchors=40, channels=64)
    actual = _gradients(operator, arguments, differentiable)
    wide = (arguments[0].float(), *arguments[1:])
    output = definition(*wide)
    assert actual[0].dtype == actual[1].dtype == torch.bfloat16 and actual[3].dtype == torch.float32
    torch.testing.assert_close(actual[0].float(), output, rtol=2**-8, atol=1e-6)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).bfloat16().float()
    inputs = [a.detach().clone().requires_grad_(i in differentiable) for i, a in enumerate(wide)]
    expected = torch.autograd.grad(definition(*inputs), [inputs[i] for i in differentiable], direction)
    torch.testing.assert_close(actual[1].float(), expected[0], rtol=2**-8, atol=1e-5)
    for a, e in zip(actual[2:], expected[1:], strict=True):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_lowers_features_only(name):
    operator, _, make, _ = OPERATORS[name]
    features, *rest = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = operator(features, *rest)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, operator(features.bfloat16(), *rest))


@pytest.mark.parametrize("name", OPERATORS)
def test_result_does_not_depend_on_threads(name):
    operator, _, make, differentiable = OPERATORS[name]
    arguments, before = make(anchors=90, channels=256, groups=8), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(_gradients(operator, arguments, differentiable))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("implementation", [PLAIN, reference.deformable_aggregation], ids=["kernel", "reference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0, 1.0])
def test_undefined_locations_count_nothing(implementation, value):
    features, shapes, starts, location, weights = plain_arguments()
    location[:, :, :, :, 0] = 0.5
    location[0, :, :, :, 0] = value
    output, *gradients = _gradients(implementation, (features, shapes, starts, location, weights), (0, 3, 4))
    assert output[0].eq(0).all() and output[1].ne(0).any()
    assert all(gradient[0].eq(0).all() for gradient in gradients)


def test_rows_that_no_map_uses_get_zero_gradient():
    features, shapes, starts, location, weights = plain_arguments()
    padded = torch.cat([features, torch.full_like(features[:, :5], float("nan"))], 1)
    _, gradient, *_ = _gradients(PLAIN, (padded, shapes, starts, location, weights), (0, 3, 4))
    assert gradient[:, -5:].eq(0).all() and gradient[:, :-5].ne(0).any()


def _with(index: int, change):
    arguments = list(plain_arguments())
    arguments[index] = change(arguments[index])
    return arguments


BAD = {
    "features: expected \\[batch": (0, lambda t: t[0]),
    "features: expected float32": (0, lambda t: t.int()),
    "features: float16": (0, lambda t: t.half()),
    "features: expected a contiguous": (0, lambda t: t.transpose(1, 2).contiguous().transpose(1, 2)),
    "scale_start_index: camera .* needs rows": (0, lambda t: t[:, :-1].contiguous()),
    "spatial_shapes: expected \\[cameras": (1, lambda t: t[:1]),
    "spatial_shapes: expected positive": (1, lambda t: t * 0),
    "spatial_shapes: expected int64": (1, lambda t: t.float()),
    "scale_start_index: expected \\[cameras": (2, lambda t: t[:, :1]),
    "scale_start_index: the maps .* overlap": (2, lambda t: t.clamp(max=3)),
    "scale_start_index: camera 0, level 0 needs": (2, lambda t: t - 1),
    "sampling_location: expected shape": (3, lambda t: t[:, :-1].contiguous()),
    "sampling_location: expected dtype": (3, lambda t: t.double()),
    "weights: expected \\[batch, anchors": (4, lambda t: t[..., 0]),
    "weights: expected shape": (4, lambda t: t[:1].contiguous()),
    "weights: 3 groups": (4, lambda t: t[..., :3].contiguous()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        PLAIN(*_with(*BAD[message]))


def test_fused_refuses_gradients_it_does_not_compute():
    arguments = list(fused_arguments())
    arguments[4].requires_grad_()
    with pytest.raises(ValueError, match="projection, image_wh: .* detach"):
        FUSED(*arguments)


def test_torch_compile_without_graph_break():
    arguments = plain_arguments()
    compiled = torch.compile(lambda *a: PLAIN(*a) * 2, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), PLAIN(*arguments) * 2)
