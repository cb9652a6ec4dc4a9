"""Does the loader keep up? Frames per second for several numbers of workers, beside what training steps consume.

A frame is one sample: the images of all cameras read, decoded, scaled, augmented and normalised. Workers read ahead
while the network computes, so training never waits where the loader's figure is above the step's.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from ..atomic_write import write_json
from ..command_line import OK, refuse
from ..config import PRESETS, Sparse4DConfig, preset
from ..data.nuscenes.dataset import NuScenesDataset
from ..data.synthetic.dataset_renderer import render_dataset
from ..training.batches.keyframes import Keyframes
from ..training.batches.loader import BatchLoader, Streams, make_loader
from ..training.objective.frame_objective import PRECISIONS
from ..training.run.processes import Processes
from ..training.run.trainer import RunSettings, Trainer
from ..training.schedule import TrainingConfig, training_config
from ..training.starting_model import build_model
from .machine import describe

EXAMPLES = """\
examples:
  python -m sparse4d_core.benchmark.loader_throughput --model v3_r50 --dataroot data/nuscenes --workers 4 8 16 \\
      --batch-size 6 --device cuda --precision float16
  python -m sparse4d_core.benchmark.loader_throughput --model v3_r50 --steps 0      (rendered images, loader alone)
"""


def loader_rate(loader: BatchLoader, batch_size: int, frames: int) -> float:
    """Frames per second over at least `frames` frames, after the workers have started and filled their queues."""
    first = max(1, 2 * loader.workers)  # batches that workers prepare ahead: taking these measures no work
    loader.take(first)
    batches = -(-frames // batch_size) + first
    began = time.perf_counter()
    for _ in range(batches):
        loader.take(1)
    seconds = time.perf_counter() - began
    loader.close()
    return batches * batch_size / seconds


def step_rate(trainer: Trainer, steps: int) -> float:
    """Frames per second that optimiser steps consume, their data at hand; the first step is not counted."""
    batches = trainer.loader.take(trainer.settings.accumulation)
    trainer.loader.take = lambda count: batches
    seconds = [trainer.timed_step() for _ in tqdm(range(steps + 1), unit="step", leave=False)]
    return sum(len(batch.tokens) for batch in batches) / statistics.median(seconds[1:])


def measure(data: NuScenesDataset, args: argparse.Namespace) -> dict:
    """Facts, one row per number of workers, and the step's rate (None where it was not measured)."""
    config, training = preset(args.model), training_config(args.model)
    frames = Keyframes(data)

    def loader(workers: int) -> BatchLoader:
        return make_loader(frames, config, training, Streams(args.batch_size, 1), Processes(), 0, workers)

    step = _measured_step(config, training, loader(0), args) if args.steps else None
    rows = []
    for workers in tqdm(args.workers, unit="setting", leave=False):
        rate = loader_rate(loader(workers), args.batch_size, args.frames)
        rows.append({"workers": workers, "frames_per_s": rate, "of_step": None if step is None else rate / step})
    height, width = data.frame(int(data.keyframes[0])).images[0].shape[:2]
    facts = describe() | {
        "load_average": os.getloadavg()[0],
        "model": args.model,
        "cameras": len(data.camera_names),
        "image_wh": [width, height],
        "batch_size": args.batch_size,
        "device": args.device,
        "precision": args.precision,
    }
    return {"facts": facts, "step_frames_per_s": step, "rows": rows}


def _measured_step(
    config: Sparse4DConfig, training: TrainingConfig, loader: BatchLoader, args: argparse.Namespace
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        settings = RunSettings(pathlib.Path(folder), args.steps, precision=args.precision, picture_every=0)
        processes = Processes(device=torch.device(args.device))
        model = build_model(config, training, seed=0)
        trainer = Trainer(model, training, loader, settings, processes)
        return step_rate(trainer, args.steps)


def table(result: dict) -> str:
    """The result as Markdown."""
    step, device = result["step_frames_per_s"], result["facts"]["device"]
    consumed = "not measured" if step is None else f"{step:.2f} frames/s on {device}"
    lines = [f"a training step consumes: {consumed}", "", "| workers | frames/s | times the step |", "|---|---|---|"]
    for row in result["rows"]:
        times = "-" if row["of_step"] is None else f"{row['of_step']:.1f}"
        lines.append(f"| {row['workers']} | {row['frames_per_s']:.1f} | {times} |")
    if step is not None and device == "cpu":
        lines += ["", "A GPU consumes far more than this CPU: measure there (--device cuda) before trusting the ratio."]
    return "\n".join(lines)


def _data(args: argparse.Namespace, folder: str) -> NuScenesDataset:
    """The data set asked for, or one rendered now in the size of nuScenes."""
    if args.dataroot is not None:
        return NuScenesDataset(args.dataroot, args.version, split=args.split)
    render_dataset(pathlib.Path(folder) / "world", 2, 0, duration=3.0, rate=2)
    return NuScenesDataset(pathlib.Path(folder) / "world", cache=None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark.loader_throughput",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="v3_r50", choices=PRESETS, metavar="PRESET", help="default: %(default)s")
    add("--dataroot", type=pathlib.Path, help="data set (default: twelve rendered frames of 1600x900)")
    add("--version", default="v1.0-mini", help="folder of the tables (default: %(default)s)")
    add("--split", help="official split (default: all scenes)")
    add("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers to try (default: 0 1 2)")
    add("--frames", type=int, default=24, help="frames to load per number (default: %(default)s)")
    add("--batch-size", type=int, default=1, help="frames per batch of one process (default: %(default)s)")
    add("--steps", type=int, default=2, help="training steps to time; 0: the loader alone (default: %(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the steps; default: %(default)s")
    add("--precision", choices=list(PRECISIONS), default="float32", help="of the steps; default: %(default)s")
    add("--threads", type=int, help="CPU threads of the network (default: PyTorch's choice)")
    add("--out", type=pathlib.Path, help="write the result as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(_data(args, folder), args)
        print(", ".join(f"{key} {value}" for key, value in result["facts"].items()))
        print(table(result))
        if args.out:
            write_json(args.out, result, indent=1)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    return OK


if __name__ == "__main__":
    sys.exit(main())
