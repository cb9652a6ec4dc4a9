"""Ship the weights of a run: one small file, and beside it what it was made from.

    weights/demo.pt          averaged weights, matrices in half precision (every loader makes float32 of them)
    weights/demo.json        configuration, training command, versions, score sheet
    weights/demo_log.jsonl   the run's log

Works on finished runs and on running ones: the newest intact checkpoint is taken where there is no model.pt, or one of
fewer iterations, as in a run that goes on after its end (--resume with more --iterations).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..atomic_write import write_json, write_text
from ..checkpoint.file import CheckpointError, config_from_dict, read_checkpoint, write_checkpoint
from ..command_line import OK, refuse
from ..config import Sparse4DConfig
from .run.store import CheckpointStore
from .run_record import read_record

_MODULE = "python -m sparse4d_core.training.train"
_NOT_HALVED = ("decoder.anchor",)  # metres: half precision would move far anchors by centimetres

EXAMPLES = """\
examples:
  python -m sparse4d_core.training.release out/run --out sparse4d_core/weights/demo.pt
  python -m sparse4d_core.training.release out/run --out sparse4d_core/weights/demo.pt --scores out/scores/metrics.json
"""


@dataclass(frozen=True)
class RunWeights:
    state: dict[str, Tensor]  # under our names
    config: Sparse4DConfig
    iterations: int  # optimiser steps they have seen
    averaged: bool  # a moving average over the steps


def run_weights(run: pathlib.Path) -> RunWeights:
    """The weights to use of a run: model.pt, or the newest intact checkpoint's if it has seen more steps.

    Raises:
        FileNotFoundError: the folder holds neither.
        CheckpointError: a configuration with fields that this version does not have.
    """
    record = read_record(run)
    training = record["training"]
    file = read_checkpoint(run / "model.pt") if (run / "model.pt").is_file() else None
    finished = None if file is None else int(file.meta["iterations"])
    content = CheckpointStore(run / "checkpoints").newest(after=finished)
    if content is None and file is None:
        raise FileNotFoundError(f"run: {run} holds neither model.pt nor an intact checkpoint in checkpoints/")
    if content is None:
        averaged = bool(training["schedule"]["ema_decay"])
        return RunWeights(file.state, file.config, finished, averaged)
    state, average = content["model"], content["average"]
    if average is not None:
        state = {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
    return RunWeights(state, config_from_dict(record["model"]), content["iteration"], average is not None)


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and convolutions in float16; norms, biases and anchors stay as they are.

    Raises:
        CheckpointError: a weight beyond the range of float16.
    """
    result = {}
    for name, tensor in state.items():
        half = tensor.is_floating_point() and tensor.ndim >= 2 and name not in _NOT_HALVED
        result[name] = tensor.half() if half else tensor
        if not bool(result[name].isfinite().all()):
            raise CheckpointError(f"{name}: holds a value that is not finite in {result[name].dtype}; use --float32")
    return result


def portable_command(argv: list[str]) -> str:
    """The command line that trains the same again; folders by their last part, as data lies elsewhere elsewhere."""
    return " ".join([_MODULE, *(pathlib.Path(a).name if pathlib.Path(a).is_absolute() else a for a in argv[1:])])


def export(run: pathlib.Path, out: pathlib.Path, half: bool = True, scores: dict[str, Any] | None = None) -> RunWeights:
    """Write `out` and the two files beside it.

    Args:
        out: file of weights to write, such as weights/demo.pt.
        scores: score sheet to keep with them.
    """
    weights, record = run_weights(run), read_record(run)
    state = halved(weights.state) if half else weights.state
    meta = {"iterations": weights.iterations, "averaged": weights.averaged, "training": record["training"]}
    write_checkpoint(out, state, weights.config, meta)
    sheet = {
        "command": portable_command(record["command"]),
        "iterations": weights.iterations,
        "averaged": weights.averaged,
        "stored_as": "float16" if half else "float32",
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "scores": scores,
        "model": record["model"],
        "training": record["training"],
    }
    write_json(out.with_suffix(".json"), sheet, indent=1)
    write_text(out.with_name(f"{out.stem}_log.jsonl"), (run / "log.jsonl").read_text())
    return weights


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.training.release",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="folder of the run, finished or not")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file to write, such as weights/demo.pt")
    parser.add_argument("--float32", action="store_true", help="keep full precision: twice the size")
    parser.add_argument("--scores", type=pathlib.Path, help="metrics.json of the evaluation, kept in the sheet")
    args = parser.parse_args(arguments)
    try:
        scores = None if args.scores is None else json.loads(args.scores.read_text())
        weights = export(args.run, args.out, not args.float32, scores)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    kind = "averaged weights" if weights.averaged else "weights"
    print(f"{args.out}: {kind} of {weights.config.name} after {weights.iterations} iterations, "
          f"{args.out.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    return OK


if __name__ == "__main__":
    sys.exit(main())
