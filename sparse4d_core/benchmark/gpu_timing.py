"""Times on a GPU, by events around replays of CUDA graphs: the operator beside other designs, and whole frames."""

from __future__ import annotations

import ctypes
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from cuda_ops import deformable_aggregation, flatten_maps, fused_deformable_aggregation, reference
from cuda_ops.graph_timing import median_milliseconds
from cuda_ops.layout import integers
from cuda_ops.workload import Inputs, Workload, make_inputs

from ..inference.device.cuda_graph import StepGraph
from ..inference.memories import State
from ..inference.pipeline import Pipeline
from ..types import Frame
from .gpu_library import compile_apart
from .published_kernel import PUBLISHED_KERNEL, published_forward
from .pytorch_path import PyTorchPath
from .read_ceilings import READ_KERNEL, read_ceilings
from .ring_frames import ring_frames

QUICK = Workload(anchors=20, points=3, cameras=2, channels=32, groups=4, image_wh=(64, 32))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDING = 2e-4  # of sums of products of order one in float32, in any order
Row = dict[str, object]
Job = tuple[str, Callable[[], object]]


def ceiling_facts(device: str) -> dict[str, float]:
    """What the device reads from its second-level cache and from its memory at most, in 1e9 bytes a second.

    Raises:
        BuildError: there is no nvcc, or it failed.
    """
    return read_ceilings(_library(READ_KERNEL, device), device)


def operator_rows(device: str, quick: bool) -> list[Row]:
    """Median milliseconds with warm and with cold caches, at the sizes of v3_r50.

    Forwards also have the rate, in 1e9 bytes a second, at which they read the corners of their samples with warm
    caches; an operation that does not run here has `not_run` with the reason in place of times.
    """
    on_gpu = device.startswith("cuda")
    rows: list[Row] = []
    with torch.no_grad():
        for everywhere in (False,) if quick else (False, True):
            workload = QUICK if quick else Workload(everywhere=everywhere)
            visible = {"visible": "all" if everywhere else "ring"}
            for dtype in DTYPES if on_gpu else DTYPES[:2]:
                inputs = make_inputs(workload, 0, dtype, device)
                named = visible | {"dtype": str(dtype).removeprefix("torch.")}
                corner_bytes = 4 * inputs.samples() * workload.channels * dtype.itemsize
                for job in _kernels(inputs):
                    if everywhere and job[0].startswith("fused"):
                        continue  # it has the ring's points, whatever the locations are
                    row = _timed(job, device, quick)
                    if job[0].endswith("forward"):
                        row["read_gb_per_s"] = corner_bytes / row["warm_ms"] * 1e-6
                    rows.append(row | named)
                rows += [_timed(job, device, quick) | named for job in _pytorch(inputs)]
            rows.append(_published(workload, device, quick) | visible | {"dtype": "float32"})
    if not on_gpu:
        rows.append({"operation": "every operation in float16", "not_run": "the CPU kernels have no float16"})
    return rows


def _timed(job: Job, device: str, quick: bool) -> Row:
    name, run = job
    row: Row = {"operation": name, "warm_ms": median_milliseconds(run, device, False, 2 if quick else 50)}
    if not quick:
        row["cold_ms"] = median_milliseconds(run, device, True)
    return row


def _kernels(inputs: Inputs) -> Iterator[Job]:
    yield "forward", lambda: deformable_aggregation(*inputs.plain())
    yield "fused forward", lambda: fused_deformable_aggregation(*inputs.fused())
    features, shapes, starts, *others = inputs.plain()
    tables = integers("spatial_shapes", shapes), integers("scale_start_index", starts)
    arguments = (torch.ones_like(deformable_aggregation(*inputs.plain())), features, *tables, *others)
    backward = torch.ops.sparse4d.deformable_aggregation_backward
    yield "backward", lambda: backward(*arguments, (True, True, True))


def _pytorch(inputs: Inputs) -> Iterator[Job]:
    """The published PyTorch path: one grid_sample a level for all cameras. And the layout that the operator needs."""
    yield (
        "PyTorch forward, cameras in one batch",
        lambda: reference.batched_deformable_aggregation(*inputs.batched()),
    )
    yield "layout", lambda: flatten_maps(inputs.maps)[0]


def _published(workload: Workload, device: str, quick: bool) -> Row:
    name = "forward, published design with atomic additions"
    if not device.startswith("cuda"):
        return {"operation": name, "not_run": "needs a GPU"}
    inputs = make_inputs(workload, 0, torch.float32, device)
    try:
        run, output = published_forward(_library(PUBLISHED_KERNEL, device), inputs)
    except RuntimeError as error:
        return {"operation": name, "not_run": str(error)}
    run()
    torch.testing.assert_close(output, deformable_aggregation(*inputs.plain()), rtol=ROUNDING, atol=ROUNDING)
    return _timed((name, run), device, quick)


def _library(name: str, device: str) -> ctypes.CDLL:
    """A kernel of the benchmark, compiled for this GPU; once it is loaded its file may go."""
    major, minor = torch.cuda.get_device_capability(device)
    with tempfile.TemporaryDirectory() as folder:
        return compile_apart(name, pathlib.Path(folder), f"{major}{minor}")


def frame_rows(device: str, quick: bool) -> list[Row]:
    """Median milliseconds of a continuing frame and its stages: the model on the PyTorch path, then ours, eager and
    captured, in every precision. `ahead_ms` is from frame to frame where another thread prepares the next, as in the
    node."""
    on_gpu = device.startswith("cuda")
    rows: list[Row] = []
    for model in ("demo",) if quick else ("demo", "v3_r50"):
        plain = PyTorchPath.from_preset(model, device=device, allow_untrained=True)
        named: Row = {"model": model, "precision": "float32", "step": "PyTorch path"}
        rows.append(named | _median_frame(plain, 2 if quick else 40))
        for precision in ("float32", "bfloat16", "float16") if on_gpu else ("float32",):
            for captured in (False, True):
                named = {"model": model, "precision": precision, "step": "captured" if captured else "eager"}
                rows.append(named | _frame(model, device, precision, captured, 2 if quick else 40))
        named = {"model": model, "precision": "float16", "step": "compiled and captured"}
        rows.append(named | _frame(model, device, "float16", True, 40, compile=True))
    return rows


def _frame(model: str, device: str, precision: str, captured: bool, count: int, compile: bool = False) -> Row:
    if captured and not device.startswith("cuda"):
        return {"not_run": "needs a GPU: a CUDA graph"}
    pipeline = Pipeline.from_preset(model, device=device, precision=precision, compile=compile, allow_untrained=True)
    if captured and not compile:  # the graph alone
        pipeline._graph = StepGraph(pipeline._network, pipeline._settled)
    return _median_frame(pipeline, count)


def _median_frame(pipeline: Pipeline, count: int) -> Row:
    """The same continuing frame again and again."""
    frames = ring_frames(pipeline.config, 2)
    if pipeline.device.type == "cuda":
        pipeline.warm_up([(image.shape[1], image.shape[0]) for image in frames[0].images])
    state = pipeline.step(frames[0]).state
    times: list[dict[str, float]] = []
    for _ in range(count):
        start = time.perf_counter()
        result = pipeline.step(frames[1], state)
        times.append({"total": (time.perf_counter() - start) * 1e3} | result.timings_ms)
    row: Row = {f"{stage}_ms": statistics.median(t[stage] for t in times) for stage in times[0]}
    return row | {"ahead_ms": _milliseconds_ahead(pipeline, frames[1], state, count)}


def _milliseconds_ahead(pipeline: Pipeline, frame: Frame, state: State, count: int) -> float:
    """A frame's share of `count` frames in a row, each prepared while the network has the one before."""
    with ThreadPoolExecutor(1) as other:
        following = other.submit(pipeline.prepare, frame)
        following.result()
        start = time.perf_counter()
        for _ in range(count):
            prepared, following = following.result(), other.submit(pipeline.prepare, frame)
            pipeline.run(prepared, state)
        seconds = time.perf_counter() - start
        following.result()
    return seconds / count * 1e3
