"""Whole frames of a model on the clock, stage by stage, path beside path."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from tqdm import tqdm

from cuda_ops.measurement import markdown_table, peak_memory

from ..config import preset
from ..export.manifest import read_manifest
from ..inference.artefact_checks import FORMATS, check_model
from ..inference.pipeline import Pipeline
from ..inference.process_settings import keep_freed_memory
from ..network.state import TemporalState
from .pytorch_path import PyTorchPath
from .ring_frames import ring_frames

STAGES = ("preprocess", "backbone", "decoder", "network", "decode")  # network: both in one, captured


@dataclass(frozen=True)
class PathOptions:
    """One row of the table."""

    model: str
    device: str
    precision: str | None  # None: the PyTorch path
    compile: bool = False
    threads: int | None = None
    artefact: str | None = None  # folder of an exported step, in the place of the network

    @property
    def name(self) -> str:
        if self.artefact is not None:
            return f"{backend_of(self.artefact)} {self.precision} {self.artefact}"
        if self.precision is None:
            return "pytorch float32"
        return f"{self.precision} compiled" if self.compile else self.precision


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
                backend=backend_of(options.artefact),
                artefact=options.artefact,
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
        return peak_memory(lambda: runner.pipeline.step(runner.frames[-1], runner.state), str(runner.pipeline.device))


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


def artefact_paths(model: str, folders: Sequence[str], threads: int | None = None) -> list[PathOptions]:
    """The package's own paths first, then exported steps.

    Raises:
        ValueError: a folder that is no artefact, or of another model.
    """
    paths = [PathOptions(model, "cpu", precision, threads=threads) for precision in ("float32", "bfloat16")]
    for folder in folders:
        manifest = read_manifest(folder)
        check_model(manifest, preset(model), "clean")
        paths.append(PathOptions(model, "cpu", manifest.precision, threads=threads, artefact=folder))
    return paths


def backend_of(folder: str | None) -> str:
    """What runs it: torch where there is no artefact."""
    if folder is None:
        return "torch"
    manifest = read_manifest(folder)
    backend = next((name for name, form in FORMATS.items() if form == manifest.format), None)
    if backend is None:
        raise ValueError(f"backends: {folder} is of the format {manifest.format}, which no backend runs")
    return backend


def fastest(rows: list[dict]) -> str:
    """The path of the lowest median."""
    return min(rows, key=lambda row: row["total_ms"])["path"]


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    return markdown_table(rows, ".1f")
