"""Times whole frames of a model, stage by stage: `python -m sparse4d_core.benchmark --model v3_r50`."""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import statistics
import time
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

from cuda_ops import kernels_loaded, reference
from cuda_ops.measurement import peak_memory

from . import aggregation
from .config import PRESETS, Sparse4DConfig
from .hardware import describe
from .pipeline import Pipeline, StepResult
from .temporal import TemporalState
from .types import Frame

STAGES = ("preprocess", "backbone", "decoder", "decode")
FRAME_INTERVAL_NS = 500_000_000


class PyTorchPath(Pipeline):
    """The same model as plain PyTorch runs it: batch norms on their own, the operator's reference, float32."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._encoder = self.model.image_features

    def step(self, frame: Frame, state: TemporalState | None = None) -> StepResult:
        plain = reference.fused_deformable_aggregation
        with mock.patch.object(aggregation, "fused_deformable_aggregation", plain):
            return super().step(frame, state)


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


def measure(pipelines: dict[str, Pipeline], frames: list[Frame]) -> list[dict]:
    """Median milliseconds of the step and its stages. Pipelines take turns, frame by frame; two frames warm up."""
    states: dict[str, TemporalState | None] = dict.fromkeys(pipelines)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in pipelines}
    for index, frame in enumerate(tqdm(frames, unit="frame", desc="model")):
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            result = pipeline.step(frame, states[name])
            total = (time.perf_counter() - start) * 1e3
            states[name] = result.state
            if index >= 2:
                times[name].append({"total": total} | result.timings_ms)
    first = next(iter(pipelines))
    rows = []
    for name, pipeline in pipelines.items():
        medians = {key: statistics.median(t[key] for t in times[name]) for key in ("total", *STAGES)}
        memory = peak_memory(lambda p=pipeline, s=states[name]: p.step(frames[-1], s), pipeline.device.type)
        row = {"path": name} | {f"{key}_ms": value for key, value in medians.items()}
        row["speedup"] = statistics.median(t["total"] for t in times[first]) / medians["total"]
        row["peak_memory_mb"] = None if memory is None else memory / 1e6
        rows.append(row)
    return rows


def make_pipelines(model: str, device: str, compile: bool) -> dict[str, Pipeline]:
    """The PyTorch path first, then what this package does."""
    pipelines: dict[str, Pipeline] = {"pytorch float32": PyTorchPath.from_preset(model, device=device)}
    precisions = ("float32", "bfloat16") if device == "cpu" else ("float32", "bfloat16", "float16")
    for precision in precisions:
        pipelines[precision] = Pipeline.from_preset(model, device=device, precision=precision)
    if compile:
        pipelines[f"{precisions[-1]} compiled"] = Pipeline.from_preset(
            model, device=device, precision=precisions[-1], compile=True
        )
    return pipelines


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        lines.append("| " + " | ".join(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark",
        description="Time a model on frames of noise, per stage, against the same model as plain PyTorch runs it "
        "(no folded batch norms, the operator's reference, float32). Paths take turns frame by frame, so other load on "
        "the machine meets all of them.",
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
    pipelines = make_pipelines(arguments.model, arguments.device, arguments.compile)
    facts = describe() | {"threads": torch.get_num_threads(), "kernels": kernels_loaded(), "model": arguments.model}
    facts["load_average"] = os.getloadavg()[0]  # above zero at the start: others were running too
    frames = ring_frames(next(iter(pipelines.values())).config, arguments.frames)
    rows = measure(pipelines, frames)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(rows))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
