"""Without compiled kernels everything works on the PyTorch path, and the log says so once."""

from __future__ import annotations

import pathlib
import subprocess
import sys

SCRIPT = """
import logging, sys
from unittest import mock
import torch
import cuda_ops
logging.basicConfig(format="%(levelname)s %(message)s")
with mock.patch.object(sys.modules["cuda_ops.deformable_aggregation"], "find_library", {find}):
    features = torch.ones(1, 4, 2)
    location, weights = torch.full((1, 3, 1, 1, 2), 0.5), torch.ones(1, 3, 1, 1, 1, 1)
    for _ in range(2):
        output = cuda_ops.deformable_aggregation(
            features, torch.tensor([[[2, 2]]]), torch.tensor([[0]]), location, weights
        )
    assert output.shape == (1, 3, 2) and output.eq(1).all(), output
    assert not cuda_ops.kernels_loaded()
"""


def _warnings(find: str) -> list[str]:
    root = pathlib.Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", SCRIPT.format(find=find)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("WARNING")]


def test_nothing_built():
    (line,) = _warnings("lambda: None")
    assert "python -m cuda_ops.build" in line


def test_library_that_does_not_load(tmp_path):
    broken = tmp_path / "sparse4d_ops.so"
    broken.write_bytes(b"not a library")
    (line,) = _warnings(f"lambda: __import__('pathlib').Path({str(broken)!r})")
    assert "does not load" in line
