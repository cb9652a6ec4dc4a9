"""Measures the operator against its PyTorch paths: `python -m cuda_ops.benchmark`."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from . import cpu_kernels, deformable_aggregation, flatten_maps, fused_deformable_aggregation, kernels_loaded, reference
from .measurement import (
    cache_ceiling,
    flop_ceiling,
    hardware,
    interleaved_medians,
    make_room,
    markdown_table,
    peak_memory,
    read_ceiling,
)
from .workload import Inputs, Workload, make_inputs

GROWTH = {"anchors": (300, 900, 1800, 3600), "cameras": (1, 3, 6, 12), "batch": (1, 2, 4, 8)}
SETS = 3  # of 92 MB each in float32: more than the caches hold
FLOORS = {"forward": 15, "backward": 8}
"""Times as fast as either PyTorch path, at the published sizes on the CPU, below which something is wrong. On a GPU
such a call is mostly its launch, and the ratio says little of the kernels."""
Row = dict[str, float | int | str | None]
Run = Callable[[int], object]


def growth_row(workload: Workload, device: str) -> Row:
    """Forward at another size: times only."""
    sets = [make_inputs(workload, seed, torch.float32, device) for seed in range(2)]
    runs = _forward_runs(sets, fused=False)
    with torch.no_grad():
        times = interleaved_medians(runs, len(sets), [4, 1, 1, 4, 4], device)
    return _row("forward", workload, torch.float32, times)


def forward_row(workload: Workload, dtype: torch.dtype, device: str, repeats: int, fused: bool = False) -> Row:
    """Forward against the PyTorch paths (which sample bfloat16 features as float32)."""
    sets = [make_inputs(workload, seed, dtype, device) for seed in range(SETS)]
    runs = _forward_runs(sets, fused)
    with torch.no_grad():
        times = interleaved_medians(runs, SETS, [4 * repeats, repeats, repeats, 4 * repeats, 4 * repeats], device)
        memory = [peak_memory(lambda run=run: run(0), device) for run in runs[:2]]
        output = runs[0](0)
    row = _row("fused forward" if fused else "forward", workload, dtype, times)
    return row | _traffic(sets[0], times[0]) | _memory(memory, output.numel() * output.element_size())


def _forward_runs(sets: Sequence[Inputs], fused: bool) -> list[Run]:
    """The kernel, the PyTorch path, the one that batches the cameras, and the layout that only the kernel needs: from
    contiguous maps, and from maps with their channels last, as the image encoder here gives them."""
    channels_last = [[_channels_last(m) for m in inputs.maps] for inputs in sets]
    layouts: list[Run] = [lambda i: flatten_maps(sets[i].maps), lambda i: flatten_maps(channels_last[i])]
    if not fused:
        return [
            lambda i: deformable_aggregation(*sets[i].plain()),
            lambda i: reference.deformable_aggregation(*sets[i].plain()),
            lambda i: reference.batched_deformable_aggregation(*sets[i].batched()),
            *layouts,
        ]

    def batched(i: int) -> Tensor:
        location = reference.project_points(*sets[i].view())
        return reference.batched_deformable_aggregation(sets[i].maps, location, sets[i].weights)

    return [
        lambda i: fused_deformable_aggregation(*sets[i].fused()),
        lambda i: reference.fused_deformable_aggregation(*sets[i].fused()),
        batched,
        *layouts,
    ]


def _channels_last(maps: Tensor) -> Tensor:
    """[B, N, C, h, w], the same numbers."""
    return maps.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, maps.shape[:2])


def backward_row(workload: Workload, dtype: torch.dtype, device: str, repeats: int) -> Row:
    """Gradients of features, locations and weights."""
    sets = [make_inputs(workload, seed, dtype, device) for seed in range(2)]
    graphs = [_backward_runs(inputs) for inputs in sets]
    runs: list[Run] = [lambda i, which=which: graphs[i][which]() for which in range(4)]
    times = interleaved_medians(runs, 2, [4 * repeats, repeats, repeats, 4 * repeats], device)
    memory = [peak_memory(lambda run=run: run(0), device) for run in runs[:2]]
    outputs = sum(t.numel() * t.element_size() for t in (sets[0].features, sets[0].location, sets[0].weights))
    return _row("backward", workload, dtype, times) | _memory(memory, outputs)


def _backward_runs(inputs: Inputs) -> list[Callable[[], tuple[Tensor, ...]]]:
    """Backward passes in the order of `_forward_runs`; that of the layout is a view."""
    for tensor in (inputs.features, inputs.location, inputs.weights, *inputs.maps):
        tensor.requires_grad_()
    tensors, maps = [inputs.location, inputs.weights], inputs.maps
    outputs = [
        (deformable_aggregation(*inputs.plain()), [inputs.features, *tensors]),
        (reference.deformable_aggregation(*inputs.plain()), [inputs.features, *tensors]),
        (reference.batched_deformable_aggregation(*inputs.batched()), [*maps, *tensors]),
        (flatten_maps(maps)[0], maps),
    ]
    calls = []
    for output, leaves in outputs:
        grad = torch.ones_like(output)
        calls.append(lambda o=output, g=grad, leaves=leaves: torch.autograd.grad(o, leaves, g, retain_graph=True))
    return calls


def _row(name: str, w: Workload, dtype: torch.dtype, times: Sequence[float]) -> Row:
    seconds, torch_seconds, batched_seconds, layout_seconds, *channels_last = times
    return {
        "operation": name,
        "visible": "all" if w.everywhere else "ring",
        "dtype": str(dtype).removeprefix("torch."),
        "kernels": "",
        "batch": w.batch,
        "cameras": w.cameras,
        "anchors": w.anchors,
        "kernel_ms": seconds * 1e3,
        "layout_ms": layout_seconds * 1e3,
        "layout_channels_last_ms": channels_last[0] * 1e3 if channels_last else None,
        "pytorch_ms": torch_seconds * 1e3,
        "batched_ms": batched_seconds * 1e3,
        "speedup": torch_seconds / seconds,
        "batched_speedup": batched_seconds / seconds,
        "batched_speedup_with_layout": batched_seconds / (seconds + layout_seconds),
    }


def _traffic(inputs: Inputs, seconds: float) -> Row:
    """Bytes of features that the samples ask for (caches serve repeats), and two operations per multiply-add."""
    channels, element = inputs.features.shape[2], inputs.features.element_size()
    values = inputs.samples() * 4 * channels
    return {"gigabytes_per_s": values * element / seconds / 1e9, "gigaflops": values * 2 / seconds / 1e9}


def _memory(peaks: Sequence[int | None], outputs: int) -> Row:
    kernel, torch_path = (None if peak is None else max(peak - outputs, 0) / 1e6 for peak in peaks)
    return {"kernel_extra_mb": kernel, "pytorch_extra_mb": torch_path}


def _with_kernels(name: str, job: Callable[[], Row], device: str) -> Row:
    """The row with the CPU kernels of that name."""
    with cpu_kernels.using(name) if device == "cpu" else contextlib.nullcontext():
        return job() | {"kernels": name}


def measure(device: str, repeats: int, growth: bool) -> list[Row]:
    """All rows of the table, with a progress bar."""
    low, few = torch.bfloat16, max(repeats // 2, 1)
    published, everywhere = Workload(), Workload(everywhere=True)
    basic: list[Callable[[], Row]] = [
        lambda: forward_row(published, torch.float32, device, repeats),
        lambda: backward_row(published, torch.float32, device, few),
    ]
    others = [
        lambda: forward_row(published, low, device, repeats),
        lambda: forward_row(published, torch.float32, device, repeats, fused=True),
        lambda: forward_row(published, low, device, repeats, fused=True),
        lambda: forward_row(everywhere, torch.float32, device, repeats),
        lambda: forward_row(everywhere, low, device, repeats),
        lambda: backward_row(published, low, device, few),
        lambda: backward_row(everywhere, torch.float32, device, few),
    ]
    if device.startswith("cuda"):
        others.append(lambda: forward_row(published, torch.float16, device, repeats))
        others.append(lambda: forward_row(published, torch.float16, device, repeats, fused=True))
        others.append(lambda: forward_row(everywhere, torch.float16, device, repeats))
    for name, values in GROWTH.items() if growth else ():
        for value in values:
            workload = published.with_size(name, value)
            others.append(lambda workload=workload: growth_row(workload, device))
    best, *slower = cpu_kernels.available() if device == "cpu" else ["cuda"]
    jobs = [(best, job) for job in basic + others] + [(name, job) for name in slower for job in basic]
    return [_with_kernels(name, job, device) for name, job in tqdm(jobs, unit="row", desc="operator")]


def below_floor(rows: Sequence[Row]) -> list[str]:
    """A sentence for every row at the published sizes that is not as many times as fast as FLOORS asks for."""
    sentences = []
    for row in rows:
        floor = FLOORS.get(str(row["operation"]))
        published = row["visible"] == "ring" and (row["batch"], row["cameras"], row["anchors"]) == (1, 6, 900)
        ratio = min(row["speedup"], row["batched_speedup"])
        if floor is not None and published and ratio < floor:
            name = f"{row['operation']} in {row['dtype']} with the {row['kernels']} kernels"
            sentences.append(f"{name}: {ratio:.1f} times as fast as PyTorch, expected at least {floor} times")
    return sentences


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return markdown_table(rows, ".4g")


def _device(text: str) -> str:
    """As argparse takes it."""
    if re.fullmatch(r"cpu|cuda(:\d+)?", text) is None:
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:NUMBER, got {text!r}")
    number, count = int(text.partition(":")[2] or 0), torch.cuda.device_count()
    if text != "cpu" and number >= count:
        raise argparse.ArgumentTypeError(f"{text} is not there: GPUs that torch sees: {count}")
    return text


def _positive(text: str) -> int:
    """As argparse takes it."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 where the CPU kernels are slower than they must be; 2 for wrong usage and where there are none."""
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ops.benchmark",
        description="Time deformable aggregation against two PyTorch paths in the same run, at the sizes of v3_r50 "
        "(900 anchors, 13 points, 6 cameras, 4 levels, 256 channels, 8 groups), and its growth. "
        "'ring': key points of anchors within 55 m as six cameras see them; 'all': every point in every camera. "
        "pytorch: one grid_sample for each camera and level, on the operator's layout; batched: one for each level, on "
        "contiguous maps, as the published code samples; layout: the step from such maps, or from maps with channels "
        "last, to the operator's, once a frame. On the CPU every instruction set that it has is measured "
        f"(${cpu_kernels.VARIABLE} chooses one for other programs). Times vary with what else the machine does, ratios "
        f"less. On the CPU, ratios below {FLOORS['forward']} (forward) or {FLOORS['backward']} (backward) end with "
        "status 1.",
        epilog="example: python -m cuda_ops.benchmark --threads 2 --out benchmarks/results/my_machine-operator.json",
    )
    parser.add_argument(
        "--device",
        type=_device,
        help="cpu, cuda or cuda:NUMBER (default: the GPU where there are kernels for it, else the CPU)",
    )
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--repeats", type=_positive, default=5, help="runs of the PyTorch paths; kernels four times as many"
    )
    parser.add_argument("--no-growth", action="store_true", help="leave out the growth over anchors, cameras, batch")
    parser.add_argument("--out", type=pathlib.Path, help="write the result as JSON")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device or ("cuda" if torch.cuda.is_available() and kernels_loaded("cuda") else "cpu")
    if not kernels_loaded(device):
        parser.error(f"there are no kernels for {device}; run: python -m cuda_ops.build")
    if options.out:
        try:
            make_room(options.out)
        except OSError as error:
            parser.error(f"--out: {error}")
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
        "rows": measure(device, options.repeats, not options.no_growth),
    }
    print(f"{result['hardware']}, torch {result['torch']}")
    print("ceilings: " + ", ".join(f"{name} {value:.4g}" for name, value in result["ceilings"].items()))
    print(table(result["rows"]))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    slow = below_floor(result["rows"]) if device == "cpu" else []
    for sentence in slow:
        print(sentence, file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
