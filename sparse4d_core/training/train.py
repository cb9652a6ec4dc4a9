"""Train a preset on nuScenes, or on anything in its format (rendered scenes, recorded bags)."""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import replace

import jsonargparse
import torch
from torch import distributed

from ..command_line import OK, refuse
from ..config import PRESETS, Sparse4DConfig, preset
from ..data.nuscenes.dataset import NuScenesDataset
from ..evaluation.scored_model import unscored
from ..types import CLASS_NAMES
from .batches.keyframes import Keyframes, check_trainable
from .batches.loader import Streams, make_loader
from .objective.frame_objective import PRECISIONS
from .recipe import Plan, check_published
from .run.processes import Processes, start_processes
from .run.trainer import RunSettings, Trainer, TrainingDivergedError
from .run.validation import Validation
from .run_record import differences, read_record, write_record
from .schedule import TrainingConfig, for_classes, training_config
from .starting_model import build_model

log = logging.getLogger(__name__)

PROGRAM = "python -m sparse4d_core.training.train"
EXAMPLES = """\
examples:
  python -m sparse4d_core.training.train --model demo --dataroot out/world --version v1.0-mini --out out/run
  torchrun --nproc-per-node=8 -m sparse4d_core.training.train --model v3_r50 --dataroot data/nuscenes \\
      --version v1.0-trainval --split train --out out/v3_r50 --device cuda --precision float16 \\
      --recipe published --anchors out/anchors.npy --backbone weights/resnet50-19c8e357.pth
  the first command again with --resume: continues where the run was interrupted

Every number of the preset and of its training can be given, such as
  --preset.num_anchors 128 --training.optimizer.weight_decay 0.01 --training.augmentation.scale_range [0.4,0.5]
  --training.denoising null
Length in epochs instead of iterations: --training.schedule.iterations null --training.schedule.epochs 20
Own classes, in the names of the data set: --preset.class_names [car,pedestrian,scooter]

RUN holds config.json, log.jsonl, tensorboard/, checkpoints/, epochs/, with --validation-split best.pt, and at the end
model.pt, the weights to use.
"""


SHORT = (("optimizer", "lr"), ("schedule", "batch_size"), ("schedule", "iterations"))  # have an option of their own


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, jsonargparse.DefaultHelpFormatter):
    """Examples as they stand, options with their defaults."""


def make_parser(model: str, class_names: Sequence[str] = CLASS_NAMES) -> jsonargparse.ArgumentParser:
    """The command line; what it can change of model and training has the values of the preset `model`, whose rules of
    single classes are moved to `class_names`."""
    parser = jsonargparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} --model PRESET --dataroot DIR --out RUN [options]; --help lists them",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, choices=list(PRESETS), metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    add("--dataroot", required=True, type=pathlib.Path, help="folder with samples/ and the tables' folder")
    add("--version", default="v1.0-mini", help="name of the tables' folder")
    add("--split", type=str, help="official split, such as train or mini_train; null: all scenes")
    add("--out", required=True, type=pathlib.Path, metavar="RUN", help="folder of the run")
    add("--resume", action="store_true", help="continue the run in RUN exactly where its newest checkpoint is")
    add("--init", type=pathlib.Path, metavar="FILE", help="start from a checkpoint of the same preset (fine-tuning)")
    add("--backbone", type=pathlib.Path, metavar="FILE", help="of another task: ImageNet, FCOS3D, nuImages, DD3D")
    add("--anchors", type=pathlib.Path, metavar="FILE", help="anchors.npy from python -m sparse4d_core.data.anchors")
    add("--recipe", choices=["published"], help="refuse whatever would differ from the published training")
    add("--iterations", type=int, help="optimiser steps, short for --training.schedule.iterations")
    add("--batch-size", type=int, help="samples per optimiser step, short for --training.schedule.batch_size")
    add("--lr", type=float, help="learning rate, short for --training.optimizer.lr")
    add("--accumulation", type=int, default=1, help="batches per optimiser step and process")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the network")
    add("--precision", choices=list(PRECISIONS), default="float32", help="of backbone and neck")
    add("--threads", type=int, help="CPU threads of the network; null: PyTorch's choice")
    add("--workers", type=int, default=1, help="processes that read and augment images")
    add("--validation-split", type=str, help="score the model on these scenes while it trains and keep the best")
    add("--validation-epochs", type=int, default=10, help="epochs between two validations")
    add("--seed", type=int, default=0, help="of weights, data order and augmentation")
    add("--checkpoint-minutes", type=float, default=5.0, help="minutes between checkpoints")
    add("--preset", type=Sparse4DConfig, default=preset(model), help="the model, field by field")
    training = for_classes(training_config(model), class_names)
    add("--training", type=TrainingConfig, default=training, help="its training, field by field")
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Options with `preset` and `training` as configurations; wrong usage ends the process with 2."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    model = first.parse_known_args(words)[0].model
    parser = make_parser(model if model in PRESETS else "v3_r50")
    options = parser.instantiate(parser.parse_args(list(words)))
    if options.preset.class_names != CLASS_NAMES:
        parser = make_parser(options.model, options.preset.class_names)
        options = parser.instantiate(parser.parse_args(list(words)))
    for part, field in SHORT:
        value, published = getattr(options, field), getattr(training_config(options.model), part)
        if value is None:
            continue
        given = getattr(options.training, part)
        if getattr(given, field) != getattr(published, field):
            short = "--" + field.replace("_", "-")
            parser.error(f"{short} and --training.{part}.{field} are the same; give one of the two")
        options.training = replace(options.training, **{part: replace(given, **{field: value})})
    for field in ("iterations", "epochs"):
        number = getattr(options.training.schedule, field)
        if number is not None and number < 1:
            parser.error(f"{field}: expected at least 1, got {number}")
    schedule, usual = options.training.schedule, training_config(options.model).schedule
    if schedule.epochs != usual.epochs and schedule.iterations is not None and schedule.iterations == usual.iterations:
        parser.error(
            f"epochs: {schedule.epochs} would count for nothing, as {options.model} trains for {schedule.iterations} "
            "iterations; add --training.schedule.iterations null"
        )
    return options


def num_iterations(training: TrainingConfig, samples: int) -> int:
    """Optimiser steps of the whole training."""
    schedule = training.schedule
    return schedule.iterations or schedule.epochs * epoch_iterations(training, samples)


def epoch_iterations(training: TrainingConfig, samples: int) -> int:
    """Optimiser steps after which as many samples were seen as the data set holds."""
    return max(1, samples // training.schedule.batch_size)


def make_trainer(options: argparse.Namespace, processes: Processes) -> Trainer:
    """Everything that a run needs, checked before the first step.

    Raises:
        ValueError: what cannot be trained, divided, started from or continued.
        OSError: files that are missing.
    """
    config, training = options.preset, options.training
    streams = Streams.divide(training.schedule.batch_size, processes.world_size, options.accumulation)
    if options.recipe == "published":
        check_published(plan_of(options, streams))
    note_surprises(options)
    least = training.ground_truth.min_lidar_points
    data = NuScenesDataset(
        options.dataroot,
        options.version,
        split=options.split,
        min_lidar_points=least,
        classes=config.class_names,
    )
    check_trainable(data)
    processes.check_same(
        dataroot=f"{len(data.keyframes)} key frames ({data.index.digest()})",
        preset=str(config),
        training=str(training),
        options=f"seed {options.seed}, precision {options.precision}, accumulation {options.accumulation}",
    )
    loader = make_loader(Keyframes(data), config, training, streams, processes, options.seed, options.workers)
    samples = len(data.keyframes)
    settings = RunSettings(
        out=options.out,
        iterations=num_iterations(training, samples),
        accumulation=options.accumulation,
        precision=options.precision,
        seed=options.seed,
        checkpoint_seconds=60 * options.checkpoint_minutes,
        epoch_iterations=epoch_iterations(training, samples),
    )
    files = {"anchors": options.anchors, "init": options.init, "backbone": options.backbone}
    model = build_model(config, training, options.seed, **files)
    torch.manual_seed(options.seed + processes.rank)
    trainer = Trainer(model, training, loader, settings, processes, make_validation(options, settings))
    if options.resume:
        check_resumable(options.out, config, training)
        if not trainer.resume():
            log.warning("resume: no intact checkpoint in %s; starting anew", options.out)
    elif trainer.store.exists():
        raise ValueError(f"out: {options.out} holds a run already; continue it with --resume or give another folder")
    return trainer


def make_validation(options: argparse.Namespace, settings: RunSettings) -> Validation | None:
    """What `--validation-split` asks for.

    Raises:
        DatasetError: a split without annotations or with images missing.
        ValueError: an interval of no epoch, or scenes or classes that the devkit cannot score.
    """
    if options.validation_split is None:
        return None
    if options.validation_epochs < 1:
        raise ValueError(f"validation-epochs: expected at least 1, got {options.validation_epochs}")
    classes = options.preset.class_names
    data = NuScenesDataset(options.dataroot, options.version, split=options.validation_split, classes=classes)
    check_trainable(data)
    if reason := unscored(options.preset, data):
        raise ValueError(f"validation-split: {options.validation_split} cannot be scored: {reason}")
    every = options.validation_epochs * settings.epoch_iterations
    return Validation(data, options.out / "validation", every, options.precision)


def plan_of(options: argparse.Namespace, streams: Streams) -> Plan:
    return Plan(
        options.model,
        options.preset,
        options.training,
        options.version,
        options.split,
        options.backbone,
        options.init,
        options.anchors,
        options.precision,
        streams,
    )


def note_surprises(options: argparse.Namespace) -> None:
    """The log names what is allowed, and may not be what was meant."""
    usual, schedule = training_config(options.model).schedule, options.training.schedule
    if schedule.batch_size != usual.batch_size:
        length = f"{schedule.iterations} iterations" if schedule.iterations else f"{schedule.epochs} epochs"
        log.warning(
            "batch-size: %d instead of %d; the learning rate stays %g and the length %s: give --lr and --iterations to "
            "scale them", schedule.batch_size, usual.batch_size, options.training.optimizer.lr, length,
        )  # fmt: skip
    if options.version == "v1.0-trainval" and options.split is None:
        log.warning("split: none given, so the scenes of val, which scores are compared on, are trained on too")


def check_resumable(run: pathlib.Path, model: Sparse4DConfig, training: TrainingConfig) -> None:
    """Another model cannot continue a run; another training can, and the log names what changed.

    Raises:
        ValueError: naming the fields of the model that differ.
    """
    if not (run / "config.json").is_file():
        return
    record = read_record(run)
    if changed := list(differences(record["model"], model, "preset")):
        raise ValueError(f"resume: {run} trains another model ({'; '.join(changed)}); give the same, or another --out")
    for change in differences(record["training"], training, "training"):
        log.warning("resume: %s", change)


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(words)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        processes = start_processes(options.device)
        trainer = make_trainer(options, processes)
        if processes.is_first:
            write_record(options.out, [PROGRAM, *words], options.preset, options.training)
        trainer.run()
    except (ValueError, OSError, TrainingDivergedError) as error:
        return refuse(PROGRAM, error)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return OK


if __name__ == "__main__":
    sys.exit(main())
