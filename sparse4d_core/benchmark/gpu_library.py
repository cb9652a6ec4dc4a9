"""Kernels that only the benchmark runs, each compiled apart from the operator and called past torch."""

from __future__ import annotations

import ctypes
import pathlib
import subprocess

from cuda_ops.build import CSRC
from cuda_ops.toolchain import find_nvcc, gencode_flags


def compile_apart(name: str, folder: pathlib.Path, architecture: str) -> ctypes.CDLL:
    """`cuda_ops/csrc/cuda/<name>.cu` as a library in `folder`, for one compute capability, as in "90".

    Raises:
        RuntimeError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda")
    target = folder / f"{name}.so"
    flags = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", *gencode_flags([architecture])]
    command = [nvcc, *flags, str(CSRC / f"cuda/{name}.cu"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc failed: {done.stderr.strip()}")
    return ctypes.CDLL(str(target))
