"""Kernels that only the benchmark runs, each compiled apart from the operator and called past torch."""

from __future__ import annotations

import ctypes
import pathlib

from cuda_ops.build import CSRC
from cuda_ops.toolchain import BuildError, find_nvcc, gencode_flags, run_compiler


def compile_apart(name: str, folder: pathlib.Path, architecture: str) -> ctypes.CDLL:
    """`cuda_ops/csrc/cuda/<name>.cu` as a library in `folder`, for one compute capability, as in "90".

    Raises:
        BuildError: there is no nvcc, or it failed.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda")
    target = folder / f"{name}.so"
    flags = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", *gencode_flags([architecture])]
    run_compiler([nvcc, *flags, str(CSRC / f"cuda/{name}.cu"), "-o", str(target)])
    return ctypes.CDLL(str(target))
