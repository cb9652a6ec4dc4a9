"""The CUDA kernels: compiled by nvcc for every listed architecture, and run on the host against the reference."""

from __future__ import annotations

import faulthandler
import os
import pathlib
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import cpp_extension

from cuda_ops import reference
from cuda_ops.build import CSRC, CUDA_ARCHITECTURES, compile_cuda_kernels, find_nvcc
from ops import cuda_on_host
from ops.inputs import fused_arguments, plain_arguments

LISTED = {"80", "87", "89", "90", "100", "120"}

KERNELS = {
    "plain": (cuda_on_host.deformable_aggregation, reference.deformable_aggregation, plain_arguments, (0, 3, 4)),
    "fused": (
        cuda_on_host.fused_deformable_aggregation,
        reference.fused_deformable_aggregation,
        fused_arguments,
        (0, 3, 6),
    ),
}


def _gradients(implementation, arguments, differentiable):
    arguments = [a.detach().clone().requires_grad_(i in differentiable) for i, a in enumerate(arguments)]
    output = implementation(*arguments)
    direction = torch.linspace(-1, 1, output.numel()).view(output.shape).to(output.dtype)
    return output.detach(), *torch.autograd.grad(output, [arguments[i] for i in differentiable], direction)


@pytest.fixture(autouse=True)
def order(monkeypatch):
    monkeypatch.setattr(cuda_on_host, "ORDER", cuda_on_host.Order(seed=1))


def _assert_equal_in_double(name, **sizes):
    kernel, definition, make, differentiable = KERNELS[name]
    arguments = make(dtype=torch.float64, **sizes)
    actual = _gradients(kernel, arguments, differentiable)
    expected = _gradients(definition, arguments, differentiable)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=12, deadline=None)
@given(
    anchors=st.integers(0, 3),
    points=st.integers(1, 4),
    groups=st.integers(1, 8),
    group_channels=st.sampled_from([1, 2, 3, 4, 6, 8, 16, 24, 32]),
    levels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_index_arithmetic_on_the_host(name, anchors, points, groups, group_channels, levels, seed):
    sizes = [[(5, 7), (3, 4), (1, 2)][:levels], [(2, 9), (6, 1), (1, 1)][:levels]]
    channels = groups * group_channels
    _assert_equal_in_double(
        name, batch=1, anchors=anchors, points=points, groups=groups, channels=channels, sizes=sizes, seed=seed
    )


@pytest.mark.parametrize("name", KERNELS)
def test_more_points_and_channels_than_threads(name):
    sizes = {"sizes": [[(4, 5)]] * 2, "batch": 1, "anchors": 1}
    _assert_equal_in_double(name, points=150, channels=8, groups=2, **sizes)
    _assert_equal_in_double(name, points=2, channels=1100, groups=2, **sizes)


@pytest.mark.parametrize("vector_atomics", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KERNELS)
def test_feature_types(name, dtype, vector_atomics):
    """Against the reference on the same rounded features; the output is rounded once, sums are float32."""
    cuda_on_host.ORDER.vector_atomics = vector_atomics
    kernel, definition, make, differentiable = KERNELS[name]
    arguments = make(dtype=dtype, batch=1, anchors=4, channels=64)
    wide = (arguments[0].float(), *arguments[1:])
    actual, expected = kernel(*arguments), definition(*wide)
    precision = torch.finfo(dtype).eps
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=precision, atol=1e-5)
    features, *others = _gradients(kernel, arguments, differentiable)[1:]
    reference_features, *reference_others = _gradients(definition, wide, differentiable)[1:]
    torch.testing.assert_close(features.float(), reference_features, rtol=2 * precision, atol=2 * precision)
    for a, e in zip(others, reference_others, strict=True):
        assert (a - e).abs().max() <= (2 * precision + 16 * torch.finfo(torch.float32).eps) * e.abs().max()


@pytest.mark.slow
@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("architecture", sorted(set(CUDA_ARCHITECTURES) - LISTED))  # test_cuda_listing has the others
def test_compiles_for_every_architecture(architecture, tmp_path):
    binary = compile_cuda_kernels(tmp_path, (architecture,), quick=True)
    listing = subprocess.run(["strings", str(binary)], capture_output=True, text=True, check=True).stdout
    assert f"sm_{architecture}" in listing


def _toolkit() -> pathlib.Path:
    """nvcc's own idea of where it is installed; the one on PATH may be a wrapper."""
    plan = subprocess.run([find_nvcc(), "--dryrun", "-c", "none.cu"], capture_output=True, text=True).stderr
    return next(pathlib.Path(line.split("TOP=", 1)[1]) for line in plan.splitlines() if "TOP=" in line)


@pytest.mark.slow
@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_the_binding_compiles(tmp_path):
    """Against torch's own CUDA headers, which CPU wheels carry too but for one that CMake generates (empty here). Its
    two files at once: reading those headers takes most of the time."""
    generated = tmp_path / "c10/cuda/impl/cuda_cmake_macros.h"
    generated.parent.mkdir(parents=True)
    generated.write_text("#pragma once\n")
    includes = [*cpp_extension.include_paths(), _toolkit() / "include", tmp_path]
    command = ["c++", "-std=c++20", "-DSPARSE4D_CUDA", "-fsyntax-only", *(f"-isystem{path}" for path in includes)]
    binding = tmp_path / "binding.cpp"
    binding.write_text("".join(f'#include "{CSRC}/torch/{name}"\n' for name in ("cuda_ops.cpp", "bindings.cpp")))
    done = subprocess.run([*command, str(binding)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_kernel_that_is_compared_with_computes_the_same():
    arguments = plain_arguments(batch=2, anchors=3, channels=12, groups=2)
    expected = reference.deformable_aggregation(*arguments)
    torch.testing.assert_close(cuda_on_host.atomic_forward(*arguments), expected, rtol=1e-5, atol=1e-5)


def _in_a_child(work) -> int:
    """Status of a forked process that runs `work()`: 0 if it returned true, a signal if it crashed."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)  # an exception: indices out of range
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_view_with_an_odd_offset_is_read_one_channel_at_a_time(dtype):
    """On a GPU a misaligned load of 16 bytes would end the context; here it traps."""
    kernel, _, make, _ = KERNELS["plain"]
    features, *others = make(dtype=dtype, batch=1, anchors=3, channels=64)
    odd = torch.cat([features.new_zeros(1), features.flatten()])[1:].view_as(features)
    assert odd.is_contiguous() and odd.data_ptr() % 16

    def agrees() -> bool:
        return torch.allclose(
            kernel(odd, *others), kernel(features, *others), rtol=1e-3 if dtype.itemsize == 2 else 1e-5
        )

    assert _in_a_child(agrees) == 0


def _barriers() -> list[tuple[str, int]]:
    """File and line of every barrier in the kernels."""
    return [
        (path.name, number)
        for path in sorted((CSRC / "cuda").glob("*.cuh"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip().startswith("__syncthreads()")
    ]


@pytest.fixture(scope="module")
def long_lists():
    """Problems for which every loop of the kernels is entered several times, with the right results."""
    kernel, definition, make, differentiable = KERNELS["plain"]
    maps = [[(4, 5), (2, 2), (3, 1)]] * 2
    problems = []
    for channels in (64, 520):  # several slices; several rounds of packs
        arguments = make(dtype=torch.float64, batch=1, anchors=1, points=140, channels=channels, groups=2, sizes=maps)
        problems.append((kernel, arguments, differentiable, _gradients(definition, arguments, differentiable)))
    return problems


def _differs(problems, seeds: int) -> bool:
    for kernel, arguments, differentiable, expected in problems:
        for seed in range(seeds):
            cuda_on_host.ORDER.seed = seed
            actual = _gradients(kernel, arguments, differentiable)
            if not all(torch.allclose(a, e, rtol=1e-9, atol=1e-9) for a, e in zip(actual, expected, strict=True)):
                return True
    return False


def test_with_all_barriers_the_order_of_the_threads_does_not_matter(long_lists):
    assert not _differs(long_lists, seeds=1)


@pytest.mark.parametrize(("file", "line"), _barriers(), ids=lambda value: str(value))
def test_without_a_barrier_the_result_is_wrong(file, line, long_lists):
    """Each barrier is needed, and a missing one is seen: in a process of its own, which may crash."""

    def agrees() -> bool:
        cuda_on_host.skip_barrier(file, line)
        return not _differs(long_lists, seeds=8)

    assert _in_a_child(agrees) != 0, f"{file}:{line}: nothing changed without this barrier"
