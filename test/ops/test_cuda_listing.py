"""What the compiler made of the CUDA kernels: instructions, registers, spills and atomics, read off its listings.

No GPU is needed for it. A change that makes the inner loop longer, spills registers or turns reductions into atomics
that return a value fails here.
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sysconfig
from typing import NamedTuple

import pytest

from cuda_ops.build import find_nvcc
from cuda_ops.library import CSRC

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")]


class Multiprocessor(NamedTuple):
    """Limits of one multiprocessor (CUDA C++ Programming Guide, technical specifications per compute capability)."""

    threads: int
    shared: int  # bytes
    registers: int = 65536


ARCHITECTURES = {
    "80": Multiprocessor(2048, 164 * 1024),
    "87": Multiprocessor(1536, 164 * 1024),
    "89": Multiprocessor(1536, 100 * 1024),
    "90": Multiprocessor(2048, 228 * 1024),
    "100": Multiprocessor(2048, 228 * 1024),
    "120": Multiprocessor(1536, 100 * 1024),
}
THREADS = 128  # of a block
RESERVED_SHARED = 1024  # bytes of a block's shared memory that the system takes
MIN_IN_FLIGHT = 128 * 1024  # bytes
MAX_INSTRUCTIONS = 50  # PTX, a sample: 4 loads of features, 16 multiply-adds, and what leads to them
FUSED_FLOAT = r"forward_kernelIfNS0_15ProjectedPointsIfEELi4E"  # part of the mangled name: float32, 4 channels a load


class Kernel(NamedTuple):
    name: str
    registers: int
    shared: int  # bytes
    spilled: int  # bytes stored and loaded


def run_nvcc(source: pathlib.Path, target: pathlib.Path, architecture: str) -> str:
    """`source` as `target`, PTX or cubin by its suffix, for one architecture; what ptxas reports."""
    command = [find_nvcc(), "-std=c++17", "-O3", f"-arch=sm_{architecture}", f"-{target.suffix[1:]}", "-Xptxas", "-v"]
    done = subprocess.run([*command, str(source), "-o", str(target)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def kernels(report: str) -> list[Kernel]:
    pattern = (
        r"entry function '(?P<name>\w+)'.*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers.*?(?P<shared>\d+) bytes smem"
    )
    return [
        Kernel(m["name"], int(m["registers"]), int(m["shared"]), int(m["stores"]) + int(m["loads"]))
        for m in re.finditer(pattern, report, re.DOTALL)
    ]


@pytest.fixture(scope="module")
def ptx(tmp_path_factory):
    """The kernels in PTX: of 8.x, and of 9.0 and later, which reduce four gradients at once (backward.cuh)."""
    made = {family: tmp_path_factory.mktemp("listing") / f"kernels_{family}.ptx" for family in ("80", "90")}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda family: run_nvcc(CSRC / "cuda/kernels.cu", made[family], family), made))
    return made


@pytest.fixture(scope="module")
def compiled(ptx):
    """architecture -> (cubin, kernels), from the PTX of its family: what differs between them is up to ptxas."""

    def compile_for(architecture: str) -> tuple[pathlib.Path, list[Kernel]]:
        source = ptx["80" if int(architecture) < 90 else "90"]
        cubin = source.with_name(f"kernels_{architecture}.cubin")
        return cubin, kernels(run_nvcc(source, cubin, architecture))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(zip(ARCHITECTURES, pool.map(compile_for, ARCHITECTURES), strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_register_is_spilled(compiled, architecture):
    _, found = compiled[architecture]
    assert len(found) == 32  # 4 types, locations given or projected, two widths, two directions
    assert [kernel for kernel in found if kernel.spilled] == []


def instructions(lines: list[str]) -> list[str]:
    return [line for line in map(str.strip, lines) if line.endswith(";") and not line.startswith((".", "//"))]


def inner_loops(listing: str, kernel: str) -> list[list[str]]:
    """Instructions of the loops of a kernel that hold no other loop."""
    body = re.search(rf"\.entry \w*{kernel}\w*\(.*?\n}}\n", listing, re.DOTALL)[0].splitlines()
    label = {m[1]: i for i, line in enumerate(body) if (m := re.match(r"(\$L\w+):", line.strip()))}
    jumps = [(label[m[1]], i) for i, line in enumerate(body) if (m := re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line))]
    loops = [(start, end) for start, end in jumps if start < end]
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return [instructions(body[start : end + 1]) for start, end in inner]


def sample_loop(listing: str) -> list[str]:
    """The loop over samples, which takes four at a time; what is left after it stands in a row."""
    loops = [loop for loop in inner_loops(listing, FUSED_FLOAT) if any("ld.global.v4" in line for line in loop)]
    assert len(loops) == 1, "one loop over the samples"
    return loops[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_enough_is_read_at_once(compiled, ptx, architecture, record_property):
    """Bytes that the forward has under way on a multiprocessor: what hides the latency of memory.

    Not the share of its threads: on an H100 a quarter of them with four samples each was faster than half of them with
    one (fused forward in turns: float32 32 and 34 us, float16 23 and 27 us).
    """
    limits, (_, found) = ARCHITECTURES[architecture], compiled[architecture]
    kernel = next(kernel for kernel in found if re.search(FUSED_FLOAT, kernel.name))
    by_registers = limits.registers // (-(-kernel.registers // 8) * 8 * THREADS)
    by_shared = limits.shared // (kernel.shared + RESERVED_SHARED)
    blocks = min(by_registers, by_shared, limits.threads // THREADS)
    loads = sum("ld.global.v4" in line for line in sample_loop(ptx["80"].read_text()))
    in_flight = blocks * THREADS * loads * 16
    record_property("bytes", in_flight)
    assert in_flight >= MIN_IN_FLIGHT, (kernel, by_registers, by_shared, loads)


def test_a_sample_costs_few_instructions(ptx, record_property):
    loop = sample_loop(ptx["80"].read_text())
    samples = sum("ld.global.v4" in line for line in loop) / 4  # four corners each
    record_property("instructions", len(loop) / samples)
    assert len(loop) / samples <= MAX_INSTRUCTIONS, "\n".join(loop)
    assert not any(re.match(r"(div|rem|cvt)\.", line) for line in loop)


def find_nvdisasm() -> str | None:
    inside = sorted(pathlib.Path(sysconfig.get_paths()["platlib"]).glob("nvidia/*/bin/nvdisasm"))
    return shutil.which("nvdisasm") or (str(inside[-1]) if inside else None)


@pytest.mark.skipif(find_nvdisasm() is None, reason="needs nvdisasm: pip install nvidia-cuda-nvdisasm")
@pytest.mark.parametrize(("architecture", "wide"), [("80", False), ("90", True), ("120", True)])
def test_gradients_are_reduced_without_returning_a_value(compiled, architecture, wide):
    cubin, _ = compiled[architecture]
    listing = subprocess.run([find_nvdisasm(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    operations = set(re.findall(r"\b(REDG?|ATOMG?)\.E\.\S+", listing))
    assert operations and not any(operation.startswith("ATOM") for operation in operations), operations
    assert bool(re.search(r"REDG?\.E\.ADD\.F32x4", listing)) == wide
