"""The operators as torch sees them: registration, gradients, autocast, fake tensors, precision, bad input."""

from __future__ import annotations

import contextlib

import pytest
import torch

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install hypothesis")  # GPU hosts may lack it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import cuda_ops
from cuda_ops import kernels_loaded, reference
from cuda_ops.layout import integers
from ops.inputs import fused_arguments, plain_arguments
from ops.paths import DEVICES, PATHS, aggregation, fused, on, plain, to

OPERATORS = {
    "plain": (plain, reference.deformable_aggregation, plain_arguments, (0, 3, 4)),
    "fused": (fused, reference.fused_deformable_aggregation, fused_arguments, (0, 3, 6)),
}
PUBLIC = {"plain": cuda_ops.deformable_aggregation, "fused": cuda_ops.fused_deformable_aggregation}
SCHEMAS = {
    "plain": torch.ops.sparse4d.deformable_aggregation.default,
    "fused": torch.ops.sparse4d.fused_deformable_aggregation.default,
}
BACKWARD_SCHEMAS = {
    "plain": torch.ops.sparse4d.deformable_aggregation_backward.default,
    "fused": torch.ops.sparse4d.fused_deformable_aggregation_backward.default,
}


def _gradients(implementation, arguments, differentiable, device="cpu", rounded=None):
    """Output and gradients, on the CPU, in a random direction, whose numbers the dtype `rounded` can hold."""
    arguments = to(device, arguments)
    arguments = [a.detach().clone().requires_grad_(i in differentiable) for i, a in enumerate(arguments)]
    output = implementation(*arguments)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(rounded or output.dtype)
    direction = direction.to(output)
    gradients = torch.autograd.grad(output, [arguments[i] for i in differentiable], direction)
    return [output.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


def _with_tables_of_integers(arguments):
    features, shapes, starts, *rest = arguments
    return features, integers("spatial_shapes", shapes), integers("scale_start_index", starts), *rest


def test_public_functions_use_the_kernels():
    assert kernels_loaded()
    for name, public in PUBLIC.items():
        operator, definition, make, _ = OPERATORS[name]
        arguments = make(anchors=90)
        result = public(*arguments)
        assert torch.equal(result, operator(*arguments)) and not torch.equal(result, definition(*arguments))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name, device):
    _, _, make, differentiable = OPERATORS[name]
    with on(device) as torch_device:
        arguments = to(torch_device, _with_tables_of_integers(make()))
        for i in differentiable:
            arguments[i].requires_grad_()
        torch.library.opcheck(SCHEMAS[name], tuple(arguments))


@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, True), (False, False, False)])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_backward(name, wanted):
    operator, _, make, _ = OPERATORS[name]
    arguments = _with_tables_of_integers(make())
    torch.library.opcheck(BACKWARD_SCHEMAS[name], (torch.ones_like(operator(*arguments)), *arguments, wanted))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
def test_gradcheck_in_double_precision(name, device):
    operator, _, make, differentiable = OPERATORS[name]
    arguments = make(dtype=torch.float64, batch=1, anchors=3, points=2, channels=8, groups=2)
    with on(device) as torch_device:
        arguments = [a.requires_grad_(i in differentiable) for i, a in enumerate(to(torch_device, arguments))]
        nondeterminism = 1e-12 if device == "cuda" else 0.0  # atomic additions in any order
        assert torch.autograd.gradcheck(operator, arguments, eps=1e-7, atol=1e-5, nondet_tol=nondeterminism)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_second_derivative_is_refused_by_name(name):
    operator, _, make, _ = OPERATORS[name]
    features, *rest = make()
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(operator(features, *rest).sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives are not implemented; .* cuda_ops.reference"):
        gradient.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_kernel_equals_reference_on_random_shapes(name, device, data):
    """In double precision, any shapes: also channels that fill no vector, one pixel maps, nothing at all."""
    operator, definition, make, differentiable = OPERATORS[name]
    integer = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    cameras, levels, groups = integer(0, 4), integer(1, 3), integer(1, 4)
    sizes = [[(integer(1, 9), integer(1, 9)) for _ in range(levels)] for _ in range(cameras)]
    arguments = make(
        batch=integer(0, 3), anchors=integer(0, 20), points=integer(0, 4), sizes=sizes or [[(3, 3)] * levels],
        channels=groups * integer(1, 21), groups=groups, dtype=torch.float64, seed=integer(0, 99),
    )  # fmt: skip
    with on(device) as torch_device:
        actual = _gradients(operator, arguments, differentiable, torch_device)
    expected = _gradients(definition, arguments, differentiable)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def test_fused_equals_projection_then_plain():
    features, shapes, starts, key_points, projection, image_wh, weights = fused_arguments(anchors=50)
    location = reference.project_points(key_points, projection, image_wh)
    inside = ((location > 0) & (location < 1)).all(-1)
    assert 0.05 < inside.float().mean() < 0.95, "the scene must have points inside and outside"
    ordered = weights.permute(0, 1, 4, 2, 3, 5).contiguous()
    result = fused(features, shapes, starts, key_points, projection, image_wh, weights)
    torch.testing.assert_close(result, plain(features, shapes, starts, location, ordered), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
def test_bfloat16_is_as_exact_as_its_storage(name, device):
    """Against the reference on the same rounded features: one rounding of the result, sums in float32."""
    operator, definition, make, differentiable = OPERATORS[name]
    arguments = make(dtype=torch.bfloat16, anchors=40, channels=64)
    with on(device) as torch_device:
        actual = _gradients(operator, arguments, differentiable, torch_device)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
def test_every_feature_type_against_double_precision(name, device, dtype):
    """On the same rounded features: the results' own rounding, and the rounding of sums in float32 (or float64)."""
    operator, definition, make, differentiable = OPERATORS[name]
    if dtype == torch.float16 and device != "cuda":
        pytest.skip("float16 is for CUDA only")
    arguments = make(dtype=dtype, anchors=40, channels=64)
    with on(device) as torch_device:
        actual = _gradients(operator, arguments, differentiable, torch_device)
    wide = [a.double() if a.is_floating_point() else a for a in arguments]
    expected = _gradients(definition, wide, differentiable, rounded=dtype)
    for a, e in zip(actual, expected, strict=True):
        sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        assert (a - e).abs().max() <= (2 * torch.finfo(a.dtype).eps + 64 * sums) * e.abs().max()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_view_with_an_odd_offset(name, device):
    """Contiguous, but not where wide loads would want it."""
    operator, _, make, _ = OPERATORS[name]
    features, *rest = make(channels=64)
    longer = torch.cat([features.new_zeros(1), features.flatten()])
    with on(device) as torch_device:
        *arguments, whole, longer = to(torch_device, [*rest, features, longer])
        odd = longer[1:].view_as(whole)
        assert odd.is_contiguous() and odd.data_ptr() % 16
        actual, expected = operator(odd, *arguments), operator(whole, *arguments)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATORS)
def test_autocast_lowers_features_only(name, device):
    operator, _, make, _ = OPERATORS[name]
    with on(device) as torch_device:
        features, *rest = to(torch_device, make())
        with torch.autocast(torch_device, dtype=torch.bfloat16):
            output = operator(features, *rest)
        assert output.dtype == torch.bfloat16
        assert torch.equal(output, operator(features.bfloat16(), *rest))


@pytest.mark.parametrize("device", [device for device in DEVICES if isinstance(device, str)])
@pytest.mark.parametrize("name", OPERATORS)
def test_result_does_not_depend_on_threads(name, device):
    operator, _, make, differentiable = OPERATORS[name]
    arguments, before = make(anchors=90, channels=256, groups=8), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with on(device):
                results.append(_gradients(operator, arguments, differentiable))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 0.0, 1.0])
def test_undefined_locations_count_nothing(path, value):
    features, shapes, starts, location, weights = plain_arguments()
    location[:, :, :, :, 0] = 0.5
    location[0, :, :, :, 0] = value
    with aggregation(path) as implementation:
        output, *gradients = _gradients(implementation, (features, shapes, starts, location, weights), (0, 3, 4))
    assert output[0].eq(0).all() and output[1].ne(0).any()
    assert all(gradient[0].eq(0).all() for gradient in gradients)


@pytest.mark.parametrize("path", PATHS)
def test_rows_that_no_map_uses_get_zero_gradient(path):
    features, shapes, starts, location, weights = plain_arguments()
    padded = torch.cat([features, torch.full_like(features[:, :5], float("nan"))], 1)
    with aggregation(path) as implementation:
        _, gradient, *_ = _gradients(implementation, (padded, shapes, starts, location, weights), (0, 3, 4))
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
    "spatial_shapes: expected cameras x levels x 2 = \\[2, 2, 2\\] integers": (1, lambda t: t[:1]),
    "spatial_shapes: expected positive": (1, lambda t: t * 0),
    "spatial_shapes: expected integers, got torch.float32": (1, lambda t: t.float()),
    "spatial_shapes: expected integers, got str": (1, lambda t: ["2", "3"]),
    "spatial_shapes: expected integers or a CPU tensor": (1, lambda t: t.to("meta")),
    "scale_start_index: expected cameras x levels": (2, lambda t: t[:, :1]),
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
        plain(*_with(*BAD[message]))


def test_fused_refuses_gradients_it_does_not_compute():
    arguments = list(fused_arguments())
    arguments[4].requires_grad_()
    with pytest.raises(ValueError, match="projection, image_wh: .* detach"):
        fused(*arguments)


@pytest.mark.parametrize("device", [DEVICES[0], DEVICES[-1]])
@pytest.mark.parametrize("name", PUBLIC)
def test_torch_compile_without_graph_break(name, device):
    """The public function, forward and backward."""
    public, (_, _, make, differentiable) = PUBLIC[name], OPERATORS[name]
    features, shapes, starts, *rest = make()
    tables = shapes.tolist(), starts.tolist()
    with on(device) as torch_device:
        tensors = to(torch_device, (features, *rest))
        leaves = [tensors[max(i - 2, 0)].requires_grad_() for i in differentiable]
        call = lambda features, *rest: public(features, *tables, *rest) * 2  # noqa: E731
        compiled, eager = torch.compile(call, backend="aot_eager", fullgraph=True)(*tensors), call(*tensors)
        torch.testing.assert_close(compiled, eager)
        gradients = [torch.autograd.grad(output.sum(), leaves) for output in (compiled, eager)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", PUBLIC)
def test_export_keeps_the_operator_and_its_tables(name):
    """Tables are constants of the graph, not inputs that a device would have to be found for."""

    features, shapes, starts, *rest = _with_tables_of_integers(OPERATORS[name][2]())

    class Module(torch.nn.Module):
        def forward(self, features, *rest):
            return PUBLIC[name](features, shapes, starts, *rest)

    graph = torch.export.export(Module(), (features, *rest)).graph
    (node,) = (node for node in graph.nodes if node.target is SCHEMAS[name])
    assert (list(node.args[1]), list(node.args[2])) == (shapes, starts)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_device_of_a_trace_may_be_cuda(name):
    """Fake CUDA tensors, as compilation and export use them; a machine without a GPU has them too."""
    features, shapes, starts, *rest = _with_tables_of_integers(OPERATORS[name][2]())
    with FakeTensorMode():
        tensors = [torch.empty(t.shape, device="cuda") for t in (features, *rest)]
        output = SCHEMAS[name](tensors[0], shapes, starts, *tensors[1:])
        gradients = BACKWARD_SCHEMAS[name](output, tensors[0], shapes, starts, *tensors[1:], [True] * 3)
    assert output.device.type == "cuda" and output.shape == (2, 7, 32)
    assert [g.shape for g in gradients] == [tensors[0].shape, tensors[1].shape, tensors[-1].shape]


@pytest.mark.parametrize("name", SCHEMAS)
def test_backward_on_cuda_is_not_deterministic_and_says_so(name):
    features, shapes, starts, *rest = _with_tables_of_integers(OPERATORS[name][2]())
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        for device, expectation in (
            ("cpu", contextlib.nullcontext()),
            ("cuda", pytest.raises(RuntimeError, match="deformable_aggregation_backward_cuda .* deterministic")),
        ):
            with FakeTensorMode(), expectation:
                tensors = [torch.empty(t.shape, device=device) for t in (features, *rest)]
                grad_output = torch.empty(2, 7, 32, device=device)
                BACKWARD_SCHEMAS[name](grad_output, tensors[0], shapes, starts, *tensors[1:], [True] * 3)
    finally:
        torch.use_deterministic_algorithms(deterministic)
