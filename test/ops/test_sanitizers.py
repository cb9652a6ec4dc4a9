"""The CPU kernels on random problems under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess

import pytest

from cuda_ops.library import CSRC, build_roots, source_files

FUZZ = pathlib.Path(__file__).with_name("fuzz_cpu_kernels.cpp")


def _program() -> pathlib.Path:
    """The sanitized program, compiled once per state of the sources."""
    sources = [*(path for path in source_files() if path.parent.name in ("cpu", "shared")), FUZZ]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    program = build_roots()[0] / f"fuzz-{key}"
    if not program.is_file():
        program.parent.mkdir(parents=True, exist_ok=True)
        kernels = [str(CSRC / f"cpu/{name}.cpp") for name in ("generic", "avx2", "avx512")]
        flags = ["-std=c++17", "-O1", "-g", "-Wno-psabi", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        subprocess.run(["g++", *flags, f"-I{CSRC}", str(FUZZ), *kernels, "-o", str(program)], check=True)
    return program


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ with libasan")
def test_no_read_or_write_leaves_its_tensor():
    result = subprocess.run([str(_program()), "400", "1"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("400 problems"), result.stdout
