"""The CPU kernels on random problems under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from cuda_ops.library import CSRC

FUZZ = pathlib.Path(__file__).with_name("fuzz_cpu_kernels.cpp")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ with libasan")
def test_no_read_or_write_leaves_its_tensor(tmp_path):
    program = tmp_path / "fuzz"
    kernels = [str(CSRC / f"cpu_{name}.cpp") for name in ("generic", "avx2", "avx512")]
    flags = ["-std=c++17", "-O1", "-g", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["g++", *flags, f"-I{CSRC}", str(FUZZ), *kernels, "-o", str(program)], check=True)
    result = subprocess.run([str(program), "400", "1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("400 problems"), result.stdout
