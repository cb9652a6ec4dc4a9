"""The CPU kernels: random problems with every instruction set, compiler and processor at hand; the choice of them."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch

from cuda_ops import cpu_kernels, deformable_aggregation
from cuda_ops.library import CSRC, build_roots, source_files
from ops.inputs import plain_arguments
from ops.paths import CPU_KERNELS

HERE = pathlib.Path(__file__).parent
PROBLEMS = ["300", "1"]  # number, seed
SANITIZERS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def program(source: str, compiler: str, *flags: str) -> pathlib.Path:
    """A test program with the kernels, compiled once per state of the sources."""
    command = [compiler, "-std=c++17", "-O2", "-Wno-psabi", *flags, f"-I{CSRC}"]
    kernels = [path for path in source_files() if path.parent.name in ("cpu", "shared")]
    content = b"".join(path.read_bytes() for path in (*kernels, HERE / source)) + " ".join(command).encode()
    target = build_roots()[0] / f"{pathlib.Path(source).stem}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        files = [str(HERE / source), *(str(path) for path in kernels if path.suffix == ".cpp")]
        subprocess.run([*command, *files, "-o", str(target)], check=True)
    return target


def run(*command: str | pathlib.Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


fuzz = functools.partial(program, "fuzz_cpu_kernels.cpp")


@pytest.fixture(scope="module")
def generic_results(tmp_path_factory) -> pathlib.Path:
    """What the generic kernels of this machine, compiled by g++, make of the problems."""
    path = tmp_path_factory.mktemp("fuzz") / "generic"
    run(fuzz("g++"), *PROBLEMS, "write", path)
    return path


@needs("g++")
def test_no_read_or_write_leaves_its_tensor():
    output = run(fuzz("g++", *SANITIZERS), *PROBLEMS)
    assert output.startswith(f"300 problems: {' '.join(CPU_KERNELS)};"), output


@needs("g++")
def test_every_instruction_set_computes_the_same(generic_results):
    output = run(fuzz("g++"), *PROBLEMS, "check", generic_results)
    assert output.startswith(f"300 problems: {' '.join(CPU_KERNELS)};"), output
    if len(CPU_KERNELS) > 1:  # they are other code: there is a difference to be seen
        assert float(re.search(r"float32 (\S+),", output)[1]) > 0


@needs("g++", "clang++")
def test_clang_computes_the_same(generic_results):
    output = run(fuzz("clang++"), *PROBLEMS, "check", generic_results)
    assert output.startswith(f"300 problems: {' '.join(CPU_KERNELS)};"), output


@needs("objdump")
@pytest.mark.parametrize("compiler", [pytest.param(name, marks=needs(name)) for name in ("g++", "clang++")])
@pytest.mark.skipif("avx512" not in CPU_KERNELS, reason="not compiled for x86-64 with AVX-512")
def test_the_code_is_of_the_instruction_set_that_it_is_named_after(compiler):
    """Without the compiler's own way to ask for one, baseline code would be called avx512."""
    listing = run("objdump", "-d", "--no-show-raw-insn", "-C", fuzz(compiler))
    registers = {}
    for function in listing.split("\n\n"):
        name = re.search(r"<(?:void )?sparse4d::(generic|avx2|avx512)::forward_rows<float", function)
        if name:
            registers.setdefault(name[1], set()).update(re.findall(r"%([xyz])mm", function))
    assert "z" in registers["avx512"] and "y" in registers["avx2"] and registers["generic"] == {"x"}
    assert "z" not in registers["avx2"]


@needs("g++", "qemu-x86_64")
@pytest.mark.parametrize(("processor", "kernels"), [("max", "avx2 generic"), ("Nehalem", "generic")])
def test_processors_with_less(generic_results, processor, kernels):
    """The choice between the kernels, and AVX2, which machines with AVX-512 would never run by themselves. (QEMU's
    largest processor has AVX2 and, until QEMU 9, no AVX-512.)"""
    output = run("qemu-x86_64", "-cpu", processor, fuzz("g++"), "100", "1", "check", generic_results)
    assert kernels in output.split(";")[0], output


@needs("g++", "aarch64-linux-gnu-g++", "qemu-aarch64")
def test_arm_computes_the_same(generic_results):
    output = run("qemu-aarch64", fuzz("aarch64-linux-gnu-g++", "-static"), *PROBLEMS, "check", generic_results)
    assert output.startswith("300 problems: generic;"), output


@needs("g++")
def test_memory_that_is_short_is_an_exception():
    output = run(program("out_of_memory.cpp", "g++", "-O0", "-Wl,--wrap=aligned_alloc", "-Wl,--wrap=free"))
    assert int(output.split()[0]) >= 10 * len(CPU_KERNELS)


SHORT_OF_MEMORY = """
import resource, torch
import cuda_ops
torch.set_num_threads(1)
rows = 150_000_000
features = torch.empty(1, rows, 1, dtype=torch.bfloat16).requires_grad_()  # 300 MB of addresses, hardly a page used
location, weights = torch.full((1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1, 1)
output = cuda_ops.deformable_aggregation(features, [10_000, 15_000], [0], location, weights)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, resource.RLIM_INFINITY))  # the gradient, not the sums
try:
    output.backward(torch.ones_like(output))
except RuntimeError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_memory_that_is_short_reaches_python_as_an_exception():
    assert resource.RLIMIT_AS is not None
    output = run(sys.executable, "-c", SHORT_OF_MEMORY)
    assert (
        output.startswith("OutOfMemoryError deformable_aggregation: not enough memory") and "set_num_threads" in output
    )


def test_the_choice_of_kernels():
    assert cpu_kernels.in_use() == CPU_KERNELS[0] and CPU_KERNELS[-1] == "generic"
    for name in CPU_KERNELS:
        with cpu_kernels.using(name):
            assert cpu_kernels.in_use() == name
    with pytest.raises(ValueError, match=f"name: expected one that this processor runs \\({', '.join(CPU_KERNELS)}\\)"):
        with cpu_kernels.using("sse2"):
            pass
    assert cpu_kernels.in_use() == CPU_KERNELS[0]


@pytest.mark.skipif(len(CPU_KERNELS) < 2, reason="this processor runs the generic kernels only")
def test_the_choice_takes_effect():
    """Backward sums differ in their order, so that other kernels leave other last digits."""
    features, shapes, starts, location, weights = plain_arguments(anchors=200, channels=256)
    weights.requires_grad_()
    results = []
    for name in CPU_KERNELS:
        with cpu_kernels.using(name):
            output = deformable_aggregation(features, shapes, starts, location, weights)
            results.append(torch.autograd.grad(output.square().sum(), weights)[0])
    assert not torch.equal(results[0], results[-1])
    torch.testing.assert_close(results[0], results[-1], rtol=1e-4, atol=1e-3)


def test_the_environment_chooses_the_kernels():
    command = [sys.executable, "-c", "from cuda_ops import cpu_kernels; print(cpu_kernels.in_use())"]
    expected = {"generic": "generic", "avx1024": CPU_KERNELS[0]}
    processes = {
        name: subprocess.Popen(command, env={**os.environ, cpu_kernels.VARIABLE: name}, text=True, stdout=-1, stderr=-1)
        for name in expected
    }
    for name, process in processes.items():
        output, errors = process.communicate()
        assert output.strip() == expected[name], errors
        warned = f"{cpu_kernels.VARIABLE}: expected one that this processor runs" in errors
        assert warned == (name == "avx1024")
