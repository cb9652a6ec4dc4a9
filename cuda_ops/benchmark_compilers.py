"""The CPU kernels as two compilers build them, timed in turns: `python -m cuda_ops.benchmark_compilers`.

Each compiler builds a copy of this package in a folder of its own; a process per build times the same calls, the two in
turns, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from tqdm import tqdm

from .benchmark import Row
from .measurement import make_room, markdown_table

PACKAGE = pathlib.Path(__file__).resolve().parent
OPERATIONS = ("forward", "fused forward", "backward")
DTYPES = ("float32", "bfloat16")
CALLS = 3  # a turn; the fastest counts


def serve() -> None:
    """The worker: a line `[kernels, operation, dtype]` of the input is answered with milliseconds of processor time."""
    from . import cpu_kernels

    torch.set_num_threads(1)
    runs = {(operation, dtype): _run(operation, getattr(torch, dtype)) for operation in OPERATIONS for dtype in DTYPES}
    print(json.dumps(cpu_kernels.available()), flush=True)
    for line in sys.stdin:
        kernels, operation, dtype = json.loads(line)
        with cpu_kernels.using(kernels):
            print(min(_milliseconds(runs[operation, dtype]) for _ in range(CALLS)), flush=True)


def _run(operation: str, dtype: torch.dtype) -> Callable[[], object]:
    from . import deformable_aggregation, fused_deformable_aggregation
    from .workload import Workload, make_inputs

    inputs = make_inputs(Workload(), 0, dtype, "cpu")
    if operation == "forward":
        return lambda: deformable_aggregation(*inputs.plain())
    if operation == "fused forward":
        return lambda: fused_deformable_aggregation(*inputs.fused())
    leaves = [tensor.requires_grad_() for tensor in (inputs.features, inputs.location, inputs.weights)]
    output = deformable_aggregation(*inputs.plain())
    grad = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True)


def _milliseconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return (time.process_time() - start) * 1e3


def build_copy(compiler: str, folder: pathlib.Path) -> None:
    """Copies this package into a folder and builds its kernels there.

    Raises:
        RuntimeError: the compiler could not build them.
    """
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    # No library of the user's cache is to be taken for one of this compiler.
    program = os.path.abspath(shutil.which(compiler))  # it runs in another folder
    environment = os.environ | {"CXX": program, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "cuda_ops.build", "--verbose"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"compilers: {compiler} cannot build the kernels: {(done.stdout + done.stderr).strip()}")


class Worker:
    """The process that times the build of the package in a folder.

    Attributes:
        kernels: instruction sets that it has for this processor, best first.
    """

    def __init__(self, folder: pathlib.Path):
        program = f"from cuda_ops.{pathlib.Path(__file__).stem} import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.kernels: list[str] = json.loads(self._process.stdout.readline())

    def milliseconds(self, kernels: str, operation: str, dtype: str) -> float:
        """One turn."""
        self._process.stdin.write(json.dumps([kernels, operation, dtype]) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def workers_of(compilers: Sequence[str]) -> Iterator[list[Worker]]:
    """A worker for each compiler's build; both are gone afterwards."""
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        workers = []
        for index, compiler in enumerate(tqdm(compilers, desc="builds", disable=None)):
            folder = pathlib.Path(root) / str(index)
            build_copy(compiler, folder)
            workers.append(Worker(folder))
            stack.callback(workers[-1].close)
        yield workers


def compare(compilers: Sequence[str], turns: int) -> list[Row]:
    """A row for each set of kernels, operation and type: the fastest of all turns of each compiler, and their ratio."""
    rows = []
    with workers_of(compilers) as workers:
        jobs = [(k, o, d) for k in workers[0].kernels for o in OPERATIONS for d in DTYPES]
        for job in tqdm(jobs, unit="row", desc="compilers", disable=None):
            times = [[worker.milliseconds(*job) for worker in workers] for _ in range(turns)]
            first, second = map(min, zip(*times, strict=True))
            named = dict(zip((f"{name}_ms" for name in compilers), (first, second), strict=True))
            rows.append(
                dict(zip(("kernels", "operation", "dtype"), job, strict=True)) | named | {"ratio": second / first}
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where a compiler could not build; 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ops.benchmark_compilers",
        description="Build the CPU kernels with two compilers and time both in turns, on one thread, at the sizes of "
        "v3_r50, for every instruction set of this processor.",
        epilog="example: python -m cuda_ops.benchmark_compilers --compilers g++ clang++ --out compilers.json",
    )
    parser.add_argument("--compilers", nargs=2, default=("g++", "clang++"), help="default: g++ clang++")
    parser.add_argument("--turns", type=int, default=8, help="of each; the fastest counts (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE", help="write the result as JSON")
    options = parser.parse_args(arguments)
    missing = [name for name in options.compilers if shutil.which(name) is None]
    if missing or options.turns < 1:
        parser.error(f"compilers: {', '.join(missing)} not found" if missing else "turns: expected at least 1")
    if options.out:
        try:
            make_room(options.out)
        except OSError as error:
            parser.error(f"--out: {error}")
    try:
        rows = compare(options.compilers, options.turns)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown_table(rows, ".3g"))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
