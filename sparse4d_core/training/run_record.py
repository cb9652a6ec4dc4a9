"""RUN/config.json: the command line of a run, its model and its training, as plain values."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..atomic_write import write_json
from ..config import Sparse4DConfig
from .schedule import TrainingConfig


def write_record(run: pathlib.Path, command: Sequence[str], model: Sparse4DConfig, training: TrainingConfig) -> None:
    """command: as in `sys.argv`."""
    record = {"command": list(command), "model": asdict(model), "training": asdict(training)}
    write_json(run / "config.json", record, indent=1)


def read_record(run: pathlib.Path) -> dict[str, Any]:
    """The record with the keys command, model and training.

    Raises:
        FileNotFoundError: the folder is no run.
    """
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"run: {path} is missing; expected the folder given to training as --out")
    return json.loads(path.read_text())


def differences(recorded: Any, present: Any, field: str) -> Iterator[str]:
    """Fields in which two configurations differ, such as `training.optimizer.lr: 0.0006 in the run, 0.001 now`."""
    present = asdict(present) if hasattr(present, "__dataclass_fields__") else present
    if isinstance(recorded, dict) and isinstance(present, dict):
        for name in dict.fromkeys([*recorded, *present]):
            yield from differences(recorded.get(name), present.get(name), f"{field}.{name}")
    elif json.dumps(recorded) != json.dumps(present):
        yield f"{field}: {json.dumps(recorded)} in the run, {json.dumps(present)} now"
