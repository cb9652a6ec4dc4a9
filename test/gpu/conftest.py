"""Tests that only a GPU can answer. `make gpu` runs them on it, and CI runs them on the CPU in its place.

The environment variable SPARSE4D_GPU_DEVICE chooses the device: cuda, cuda:N, or cpu to rehearse. Without it they run
where there is a GPU, and are skipped elsewhere. Nothing but torch, NumPy, OpenCV, Pillow, SciPy and pytest is needed.
"""

from __future__ import annotations

import os

import pytest
import torch

from cuda_ops.build import prepare
from sparse4d_core.benchmark.gpu import DEVICE_VARIABLE


@pytest.fixture(scope="session")
def device() -> str:
    """Where the tests run, with the operator's kernels in use."""
    chosen = os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "")
    if not chosen:
        pytest.skip("needs a GPU: make gpu")
    said: list[str] = []
    assert prepare(chosen, said.append), said
    return chosen


@pytest.fixture(scope="session")
def gpu(device) -> str:
    """The same for what has no counterpart on the CPU."""
    if not device.startswith("cuda"):
        pytest.skip("needs a GPU: streams and graphs")
    return device


@pytest.fixture(autouse=True)
def exact_products():
    """No TF32: it would hide errors behind its own."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions
