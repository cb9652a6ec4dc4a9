"""Train a preset on nuScenes, or on anything in its format (rendered scenes, recorded bags)."""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys
from dataclasses import asdict, replace

import torch
from torch import distributed

from ..atomic_write import write_json
from ..config import PRESETS, preset
from ..data.nuscenes.dataset import NuScenesDataset
from .batches.keyframes import Keyframes, check_trainable
from .batches.loader import Streams, make_loader
from .objective.frame_objective import PRECISIONS
from .run.processes import Processes, start_processes
from .run.trainer import RunSettings, Trainer, TrainingDivergedError
from .schedule import TrainingConfig, training_config
from .starting_model import build_model

log = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  python -m sparse4d_core.training.train --model demo --dataroot out/world --version v1.0-mini --out out/run
  torchrun --nproc-per-node=8 -m sparse4d_core.training.train --model v3_r50 --dataroot data/nuscenes \\
      --version v1.0-trainval --split train --out out/v3_r50 --device cuda --precision float16
  the first command again with --resume: continues where the run was interrupted

RUN holds config.json, log.jsonl, tensorboard/, checkpoints/ and at the end model.pt, the weights to use.
"""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.training.train",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    add("--dataroot", required=True, type=pathlib.Path, help="folder with samples/ and the tables' folder")
    add("--version", default="v1.0-mini", help="name of the tables' folder (default %(default)s)")
    add("--split", help="official split, such as train or mini_train (default: all scenes)")
    add("--out", required=True, type=pathlib.Path, metavar="RUN", help="folder of the run")
    add("--resume", action="store_true", help="continue the run in RUN exactly where its newest checkpoint is")
    add("--init", type=pathlib.Path, metavar="FILE", help="start from a checkpoint of the same preset (fine-tuning)")
    add(
        "--backbone",
        type=pathlib.Path,
        metavar="FILE",
        help="weights of another task: ImageNet, FCOS3D, nuImages, DD3D",
    )
    add("--anchors", type=pathlib.Path, metavar="FILE", help="anchors.npy from python -m sparse4d_core.data.anchors")
    add("--iterations", type=int, help="optimiser steps (default: the preset's)")
    add("--batch-size", type=int, help="samples per optimiser step, over all processes (default: the preset's)")
    add("--accumulation", type=int, default=1, help="batches per optimiser step and process (default %(default)s)")
    add("--lr", type=float, help="learning rate (default: the preset's)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default %(default)s")
    add("--precision", choices=list(PRECISIONS), default="float32", help="of backbone and neck (default %(default)s)")
    add("--threads", type=int, help="CPU threads of the network (default: PyTorch's choice)")
    add("--workers", type=int, default=1, help="processes that read and augment images (default %(default)s)")
    add("--seed", type=int, default=0, help="default %(default)s")
    add("--checkpoint-minutes", type=float, default=5.0, help="minutes between checkpoints (default %(default)s)")
    return parser


def chosen_training(args: argparse.Namespace) -> TrainingConfig:
    """The preset's training with what the command line changes."""
    training = training_config(args.model)
    if args.lr is not None:
        training = replace(training, optimizer=replace(training.optimizer, lr=args.lr))
    if args.batch_size is not None:
        training = replace(training, schedule=replace(training.schedule, batch_size=args.batch_size))
    return training


def num_iterations(training: TrainingConfig, samples: int, asked: int | None) -> int:
    if asked is not None:
        return asked
    schedule = training.schedule
    return schedule.iterations or schedule.epochs * max(1, samples // schedule.batch_size)


def train(args: argparse.Namespace, processes: Processes) -> None:
    config, training = preset(args.model), chosen_training(args)
    data = NuScenesDataset(args.dataroot, args.version, split=args.split)
    check_trainable(data)
    streams = Streams.divide(training.schedule.batch_size, processes.world_size, args.accumulation)
    loader = make_loader(Keyframes(data), config, training, streams, processes, args.seed, args.workers)
    settings = RunSettings(
        out=args.out,
        iterations=num_iterations(training, len(data.keyframes), args.iterations),
        accumulation=args.accumulation,
        precision=args.precision,
        seed=args.seed,
        checkpoint_seconds=60 * args.checkpoint_minutes,
    )
    model = build_model(config, args.seed, args.anchors, args.init, args.backbone)
    torch.manual_seed(args.seed + processes.rank)
    trainer = Trainer(model, training, loader, settings, processes)
    if args.resume:
        if not trainer.resume():
            log.warning("resume: no intact checkpoint in %s; starting anew", args.out)
    elif trainer.store.exists():
        raise ValueError(f"out: {args.out} holds a run already; continue it with --resume or give another folder")
    if processes.is_first:
        record = {"command": sys.argv, "model": asdict(config), "training": asdict(training)}
        write_json(args.out / "config.json", record, indent=1)
    trainer.run()


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        train(args, start_processes(args.device))
    except (ValueError, OSError, TrainingDivergedError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
