"""RUN/config.json: the command line of a run, its model and its training, as plain values."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, is_dataclass
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


def differences(before: Any, now: Any, field: str, origin: str = "in the run") -> Iterator[str]:
    """Fields in which two configurations, or their plain values, differ.

    Yields sentences such as `training.optimizer.lr: 0.0006 in the run, 0.001 now`.
    """
    before, now = (asdict(value) if is_dataclass(value) else value for value in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from differences(before.get(name), now.get(name), f"{field}.{name}", origin)
    elif json.dumps(before) != json.dumps(now):
        yield f"{field}: {json.dumps(before)} {origin}, {json.dumps(now)} now"
