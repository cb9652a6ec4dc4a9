"""Measures the operator against its PyTorch path: `python -m cuda_ops.benchmark`."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from . import deformable_aggregation, fused_deformable_aggregation, kernels_loaded, reference
from .measurement import (
    cache_ceiling,
    flop_ceiling,
    hardware,
    interleaved_medians,
    markdown_table,
    peak_memory,
    read_ceiling,
)
from .workload import Inputs, Workload, make_inputs

GROWTH = {"anchors": (300, 900, 1800, 3600), "cameras": (1, 3, 6, 12), "batch": (1, 2, 4, 8)}
SETS = 3  # of 92 MB each in float32: more than the caches hold
Row = dict[str, float | int | str | None]


def growth_row(workload: Workload, device: str) -> Row:
    """Forward at another size: times only."""
    sets = [make_inputs(workload, seed, torch.float32, device) for seed in range(2)]
    runs = [
        lambda i, run=run: run(*sets[i].plain()) for run in (deformable_aggregation, reference.deformable_aggregation)
    ]
    with torch.no_grad():
        seconds, torch_seconds = interleaved_medians(runs, len(sets), [4, 1], device)
    return _row("forward", workload, torch.float32, seconds, torch_seconds)


def forward_row(workload: Workload, dtype: torch.dtype, device: str, repeats: int, fused: bool = False) -> Row:
    """Forward against the PyTorch path (which samples bfloat16 features as float32)."""
    sets = [make_inputs(workload, seed, dtype, device) for seed in range(SETS)]
    if fused:
        kernel: Callable = lambda i: fused_deformable_aggregation(*sets[i].fused())  # noqa: E731
        torch_path: Callable = lambda i: reference.fused_deformable_aggregation(*sets[i].fused())  # noqa: E731
    else:
        kernel = lambda i: deformable_aggregation(*sets[i].plain())  # noqa: E731
        torch_path = lambda i: reference.deformable_aggregation(*sets[i].plain())  # noqa: E731
    with torch.no_grad():
        seconds, torch_seconds = interleaved_medians([kernel, torch_path], SETS, [4 * repeats, repeats], device)
        memory = [peak_memory(lambda run=run: run(0), device) for run in (kernel, torch_path)]
        output = kernel(0)
    row = _row("fused forward" if fused else "forward", workload, dtype, seconds, torch_seconds)
    return row | _traffic(sets[0], seconds) | _memory(memory, output.numel() * output.element_size())


def backward_row(workload: Workload, dtype: torch.dtype, device: str, repeats: int) -> Row:
    """Gradients of features, locations and weights."""
    sets = [make_inputs(workload, seed, dtype, device) for seed in range(2)]
    graphs = [_graphs(inputs) for inputs in sets]
    kernel, torch_path = (lambda i, which=which: graphs[i][which]() for which in (0, 1))
    seconds, torch_seconds = interleaved_medians([kernel, torch_path], 2, [4 * repeats, repeats], device)
    memory = [peak_memory(lambda run=run: run(0), device) for run in (kernel, torch_path)]
    outputs = sum(t.numel() * t.element_size() for t in (sets[0].features, sets[0].location, sets[0].weights))
    row = _row("backward", workload, dtype, seconds, torch_seconds)
    return row | _memory(memory, outputs)


def _graphs(inputs: Inputs) -> list[Callable[[], tuple[Tensor, ...]]]:
    leaves = [t.requires_grad_() for t in (inputs.features, inputs.location, inputs.weights)]
    calls = []
    for implementation in (deformable_aggregation, reference.deformable_aggregation):
        output = implementation(*inputs.plain())
        grad = torch.ones_like(output)
        calls.append(lambda o=output, g=grad: torch.autograd.grad(o, leaves, g, retain_graph=True))
    return calls


def _row(name: str, w: Workload, dtype: torch.dtype, seconds: float, torch_seconds: float) -> Row:
    return {
        "operation": name,
        "visible": "all" if w.everywhere else "ring",
        "dtype": str(dtype).removeprefix("torch."),
        "batch": w.batch,
        "cameras": w.cameras,
        "anchors": w.anchors,
        "kernel_ms": seconds * 1e3,
        "pytorch_ms": torch_seconds * 1e3,
        "speedup": torch_seconds / seconds,
    }


def _traffic(inputs: Inputs, seconds: float) -> Row:
    """Bytes of features that the samples ask for (caches serve repeats), and two operations per multiply-add."""
    channels, element = inputs.features.shape[2], inputs.features.element_size()
    values = inputs.samples() * 4 * channels
    return {"gigabytes_per_s": values * element / seconds / 1e9, "gigaflops": values * 2 / seconds / 1e9}


def _memory(peaks: Sequence[int | None], outputs: int) -> Row:
    kernel, torch_path = (None if peak is None else max(peak - outputs, 0) / 1e6 for peak in peaks)
    return {"kernel_extra_mb": kernel, "pytorch_extra_mb": torch_path}


def measure(device: str, repeats: int, growth: bool) -> list[Row]:
    """All rows of the table, with a progress bar."""
    low = torch.bfloat16
    published, everywhere = Workload(), Workload(everywhere=True)
    jobs = [
        lambda: forward_row(published, torch.float32, device, repeats),
        lambda: forward_row(published, low, device, repeats),
        lambda: forward_row(published, torch.float32, device, repeats, fused=True),
        lambda: forward_row(everywhere, torch.float32, device, repeats),
        lambda: forward_row(everywhere, low, device, repeats),
        lambda: backward_row(published, torch.float32, device, max(repeats // 2, 1)),
        lambda: backward_row(published, low, device, max(repeats // 2, 1)),
        lambda: backward_row(everywhere, torch.float32, device, max(repeats // 2, 1)),
    ]
    if device.startswith("cuda"):
        jobs.append(lambda: forward_row(published, torch.float16, device, repeats))
        jobs.append(lambda: forward_row(everywhere, torch.float16, device, repeats))
    for name, values in GROWTH.items() if growth else ():
        for value in values:
            workload = published.with_size(name, value)
            jobs.append(lambda workload=workload: growth_row(workload, device))
    return [job() for job in tqdm(jobs, unit="row", desc="operator")]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return markdown_table(rows, ".4g")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ops.benchmark",
        description="Time deformable aggregation against its PyTorch path in the same run, at the sizes of v3_r50 "
        "(900 anchors, 13 points, 6 cameras, 4 levels, 256 channels, 8 groups), and its growth. "
        "'ring': key points of anchors within 55 m as six cameras see them; 'all': every point in every camera.",
        epilog="example: python -m cuda_ops.benchmark --threads 2 --out benchmarks/results/my_machine-operator.json",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the PyTorch path; kernels four times as many")
    parser.add_argument("--no-growth", action="store_true", help="leave out the growth over anchors, cameras, batch")
    parser.add_argument("--out", type=pathlib.Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if not kernels_loaded():
        parser.error("no kernels are built for this torch; run: python -m cuda_ops.build")
    device = arguments.device
    result = {
        "hardware": hardware(device),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "load_average": os.getloadavg()[0],  # above zero at the start: others were running too
        "ceilings": {
            "memory_gigabytes_per_s": read_ceiling(device) / 1e9,
            "cache_gigabytes_per_s": cache_ceiling(device) / 1e9,
            "matmul_gigaflops": flop_ceiling(device) / 1e9,
        },
        "rows": measure(device, arguments.repeats, not arguments.no_growth),
    }
    print(f"{result['hardware']}, torch {result['torch']}")
    print("ceilings: " + ", ".join(f"{name} {value:.4g}" for name, value in result["ceilings"].items()))
    print(table(result["rows"]))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
