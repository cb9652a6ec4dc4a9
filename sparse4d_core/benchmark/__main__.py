"""Times whole frames of a model, stage by stage: `python -m sparse4d_core.benchmark --model v3_r50`."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import pathlib
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

from cuda_ops import kernels_loaded, reference
from cuda_ops.measurement import markdown_table, peak_memory

from ..config import PRESETS, Sparse4DConfig
from ..inference.pipeline import Pipeline, StepResult
from ..inference.process_settings import keep_freed_memory
from ..network import aggregation, linear
from ..network.state import TemporalState
from ..types import Frame
from .machine import describe

STAGES = ("preprocess", "backbone", "decoder", "network", "decode")  # network: both in one, captured
FRAME_INTERVAL_NS = 500_000_000


class PyTorchPath(Pipeline):
    """The same model as plain PyTorch runs it: batch norms on their own, contiguous planes, the operator's reference,
    PyTorch's linear layers, float32."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._encoder = self.model.image_features

    def step(self, frame: Frame, state: TemporalState | None = None) -> StepResult:
        plain = reference.fused_deformable_aggregation
        with (
            mock.patch.object(aggregation, "fused_deformable_aggregation", plain),
            mock.patch.object(linear, "use_onednn", lambda *_: False),
        ):
            return super().step(frame, state)


@dataclass(frozen=True)
class PathOptions:
    """One row of the table."""

    model: str
    device: str
    precision: str | None  # None: the PyTorch path
    compile: bool = False
    threads: int | None = None

    @property
    def name(self) -> str:
        return "pytorch float32" if self.precision is None else self.precision + " compiled" * self.compile


class PathRunner:
    """Runs one path in a process of its own, so that its memory and the allocator's settings are its own.

    `total` is the time on the clock; `processor` the time of all its threads, which other load hardly disturbs.
    """

    current: PathRunner | None = None  # of this process

    def __init__(self, options: PathOptions, num_frames: int):
        if options.threads:
            torch.set_num_threads(options.threads)
        if options.precision is None:
            self.pipeline: Pipeline = PyTorchPath.from_preset(
                options.model, device=options.device, allow_untrained=True
            )
        else:
            keep_freed_memory()  # as the node and the replay do
            self.pipeline = Pipeline.from_preset(
                options.model,
                device=options.device,
                precision=options.precision,
                compile=options.compile,
                allow_untrained=True,
            )
        self.frames = ring_frames(self.pipeline.config, num_frames)
        self.state: TemporalState | None = None

    @staticmethod
    def start(options: PathOptions, num_frames: int) -> None:
        PathRunner.current = PathRunner(options, num_frames)

    @staticmethod
    def step(index: int) -> dict[str, float]:
        """Milliseconds of one frame: total, processor, and the stages."""
        runner = PathRunner.current
        start, processor = time.perf_counter(), time.process_time()
        result = runner.pipeline.step(runner.frames[index], runner.state)
        total, processor = time.perf_counter() - start, time.process_time() - processor
        runner.state = result.state
        return {"total": total * 1e3, "processor": processor * 1e3} | result.timings_ms

    @staticmethod
    def peak_memory() -> int | None:
        runner = PathRunner.current
        return peak_memory(lambda: runner.pipeline.step(runner.frames[-1], runner.state), runner.pipeline.device.type)


def ring_frames(config: Sparse4DConfig, count: int, cameras: int = 6) -> list[Frame]:
    """Frames of noise from a ring of cameras with 70 degrees of view, on a vehicle that drives at 5 m/s."""
    random = np.random.default_rng(0)
    width, height = config.image.original_wh
    focal = width / 2 / math.tan(math.radians(35))
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    poses = []
    for camera in range(cameras):
        c, s = math.cos(2 * math.pi * camera / cameras), math.sin(2 * math.pi * camera / cameras)
        poses.append([[c, -s, 0, 0], [0, 0, -1, 1.5], [s, c, 0, 0], [0, 0, 0, 1]])
    frames = []
    for index in range(count):
        T_global_from_model = np.eye(4)
        T_global_from_model[1, 3] = 5.0 * index * FRAME_INTERVAL_NS * 1e-9
        images = tuple(random.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(cameras))
        frames.append(
            Frame(
                images=images,
                intrinsics=np.repeat(intrinsics[None], cameras, 0),
                T_cam_from_model=np.array(poses, dtype=np.float64),
                T_global_from_model=T_global_from_model,
                stamp_ns=index * FRAME_INTERVAL_NS,
            )
        )
    return frames


def measure(paths: list[PathOptions], num_frames: int) -> list[dict]:
    """Median milliseconds of the step and its stages. Paths take turns, frame by frame; two frames warm up."""
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                ProcessPoolExecutor(1, spawn, initializer=PathRunner.start, initargs=(path, num_frames))
            )
            for path in paths
        ]
        times: list[list[dict[str, float]]] = [[] for _ in paths]
        for index in tqdm(range(num_frames), unit="frame", desc="model"):
            for measured, worker in zip(times, workers, strict=True):
                measured.append(worker.submit(PathRunner.step, index).result())
        memory = [worker.submit(PathRunner.peak_memory).result() for worker in workers]
    medians = [
        {
            key: statistics.median(t[key] for t in measured[2:])
            for key in ("total", "processor", *STAGES)
            if key in measured[-1]
        }
        for measured in times
    ]
    rows = []
    for path, median, peak in zip(paths, medians, memory, strict=True):
        row = {"path": path.name} | {f"{key}_ms": value for key, value in median.items()}
        row["speedup"] = medians[0]["total"] / median["total"]
        row["processor_speedup"] = medians[0]["processor"] / median["processor"]
        row["peak_memory_mb"] = None if peak is None else peak / 1e6
        rows.append(row)
    return rows


def make_paths(model: str, device: str, compile: bool, threads: int | None = None) -> list[PathOptions]:
    """The PyTorch path first, then what this package does."""
    precisions = ("float32", "bfloat16") if device == "cpu" else ("float32", "bfloat16", "float16")
    paths = [PathOptions(model, device, precision, threads=threads) for precision in (None, *precisions)]
    if compile:
        paths.append(PathOptions(model, device, precisions[-1], compile=True, threads=threads))
    return paths


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    return markdown_table(rows, ".1f")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark",
        description="Time a model on frames of noise, per stage, against the same model as plain PyTorch runs it "
        "(no folded batch norms, the operator's reference, float32). Every path has a process of its own; they take "
        "turns frame by frame, so other load on the machine meets all of them.",
        epilog="example: python -m sparse4d_core.benchmark --model demo --frames 20 --out out/bench/model.json",
    )
    parser.add_argument("--model", default="v3_r50", choices=PRESETS, help="preset (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=7, help="frames per path, two of them to warm up")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--out", type=pathlib.Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    if arguments.frames < 3:
        parser.error(f"--frames: expected at least 3 (two warm up), got {arguments.frames}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    facts = describe() | {"threads": torch.get_num_threads(), "kernels": kernels_loaded(), "model": arguments.model}
    facts["load_average"] = os.getloadavg()[0]  # above zero at the start: others were running too
    paths = make_paths(arguments.model, arguments.device, arguments.compile, arguments.threads)
    rows = measure(paths, arguments.frames)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(rows))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
