"""Without kernels for a device its tensors take the PyTorch path; the log says so once, and what to do."""

from __future__ import annotations

import logging
import pathlib
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cuda_ops
from cuda_ops import library, reference
from cuda_ops.layout import integers
from ops.inputs import fused_arguments, plain_arguments

SCRIPT = """
import logging, pathlib, sys
from unittest import mock
import torch
import cuda_ops
from cuda_ops import library
logging.basicConfig(format="%(levelname)s %(message)s")
for path in sys.argv[1:]:
    found = library.Library(pathlib.Path(path)) if path else None
    library.forget_library()
    with mock.patch.object(library, "find_library", lambda: found):
        features = torch.ones(1, 4, 2)
        location, weights = torch.full((1, 3, 1, 1, 2), 0.5), torch.ones(1, 3, 1, 1, 1, 1)
        for _ in range(2):
            output = cuda_ops.deformable_aggregation(features, [[[2, 2]]], [[0]], location, weights)
        assert output.shape == (1, 3, 2) and output.eq(1).all(), output
        assert not cuda_ops.kernels_loaded()
"""


def test_nothing_built_or_nothing_that_loads(tmp_path):
    """No library, one that is none, and one of another torch, which needs a symbol that this one does not have."""
    broken, strange, source = tmp_path / "broken.so", tmp_path / "strange.so", tmp_path / "strange.cpp"
    broken.write_bytes(b"not a library")
    source.write_text("void symbol_of_another_torch(); struct S { S() { symbol_of_another_torch(); } } s;")
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", strange], check=True)
    root = pathlib.Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SCRIPT, "", broken, strange]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nothing, not_loaded, undefined = (line for line in done.stderr.splitlines() if line.startswith("WARNING"))
    assert "no kernels are built for torch" in nothing and "build them with: python -m cuda_ops.build" in nothing
    assert "does not load" in not_loaded and "run: python -m cuda_ops.build" in not_loaded
    assert "does not load" in undefined and "symbol_of_another_torch" in undefined


@pytest.fixture
def cuda(monkeypatch, caplog):
    """A library as found on a machine with a GPU, which is not there: `cuda(architectures, gpu)`."""

    def set_up(architectures: tuple[str, ...], gpu: tuple[int, int]) -> list[logging.LogRecord]:
        monkeypatch.setattr(library, "_load", lambda: library.Library(pathlib.Path("made.so"), architectures))
        monkeypatch.setattr(library, "has_cuda_kernels", lambda: bool(architectures))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu)
        library._usable.cache_clear()
        return caplog.records

    yield set_up
    library._usable.cache_clear()


def _calls(monkeypatch, make, name: str) -> list[str]:
    """Which implementation the public function calls for CUDA tensors, twice."""
    calls = []
    for module, path in ((reference, "reference"), (torch.ops.sparse4d, "kernels")):
        monkeypatch.setattr(module, name, lambda *_, path=path: calls.append(path), raising=False)
    features, shapes, starts, *rest = make()
    tables = integers("spatial_shapes", shapes), integers("scale_start_index", starts)
    with FakeTensorMode():
        tensors = [torch.empty(t.shape, device="cuda") for t in (features, *rest)]
        for _ in range(2):
            getattr(cuda_ops, name)(tensors[0], *tables, *tensors[1:])
    return calls


OPERATORS = {"deformable_aggregation": plain_arguments, "fused_deformable_aggregation": fused_arguments}


@pytest.mark.parametrize("name", OPERATORS)
def test_cuda_tensors_with_a_library_for_the_cpu(monkeypatch, cuda, name):
    """On a GPU the kernels' operator would raise NotImplementedError at the first frame."""
    records = cuda((), (9, 0))
    assert _calls(monkeypatch, OPERATORS[name], name) == ["reference", "reference"]
    assert library.kernels_loaded("cpu")
    (record,) = records
    assert "made.so is for the CPU only; install nvcc of" in record.message
    assert "run: python -m cuda_ops.build" in record.message and "tensors on cuda:0 take the slow" in record.message


@pytest.mark.parametrize("name", OPERATORS)
def test_cuda_tensors_with_kernels_for_their_gpu(monkeypatch, cuda, name):
    records = cuda(("80", "86"), (8, 9))
    assert _calls(monkeypatch, OPERATORS[name], name) == ["kernels", "kernels"] and not records


def test_kernels_for_other_gpus_only(monkeypatch, cuda):
    """A launch would fail with 'no kernel image is available'."""
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    records = cuda(("80", "86"), (9, 0))
    assert _calls(monkeypatch, plain_arguments, "deformable_aggregation") == ["reference", "reference"]
    assert "made.so has no kernels for compute capability 9.0; run: python -m cuda_ops.build" in records[0].message


def test_kernels_for_the_gpus_that_a_variable_names(monkeypatch, cuda):
    """A build alone would give the same library again."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 8.6")
    records = cuda(("80", "86"), (9, 0))
    assert not library.kernels_loaded("cuda:0")
    assert "9.0; add it to TORCH_CUDA_ARCH_LIST, which is '8.0 8.6', or unset that, and run: " in records[0].message


def test_a_device_without_kernels(cuda):
    records = cuda(("80",), (8, 0))
    assert not library.kernels_loaded("mps") and not library.kernels_loaded("mps")
    (record,) = records
    assert "for the CPU and CUDA only, not for mps" in record.message
