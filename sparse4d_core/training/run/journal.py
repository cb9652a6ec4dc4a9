"""The reports of a run: a progress bar, a line of JSON per report, TensorBoard scalars and pictures."""

from __future__ import annotations

import json
import math
import pathlib
import time
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


class Journal:
    """Written by the first process only; the others hold one with `enabled` False.

    Args:
        folder: gets `log.jsonl` (appended to) and `tensorboard/`.
        start, total: iterations done and to do.
    """

    def __init__(self, folder: pathlib.Path, start: int, total: int, enabled: bool = True):
        self._enabled = enabled
        self._began = time.monotonic()
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(folder / "log.jsonl")
        self._file = (folder / "log.jsonl").open("a")
        self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self._bar = tqdm(initial=start, total=total, unit="it", dynamic_ncols=True)

    def advance(self) -> None:
        if self._enabled:
            self._bar.update()

    def report(self, iteration: int, values: dict[str, float]) -> None:
        """Scalars of the iterations since the last report."""
        if not self._enabled:
            return
        record: dict[str, Any] = {"iteration": iteration, "seconds": round(time.monotonic() - self._began, 1)}
        record |= {name: _json_number(value) for name, value in values.items()}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, iteration)
        self._bar.set_postfix(loss=f"{values['loss']:.2f}", lr=f"{values['lr']:.1e}", refresh=False)

    def scores(self, iteration: int, values: dict[str, float]) -> None:
        """Of a validation."""
        if not self._enabled:
            return
        named = {f"validation/{name}": value for name, value in values.items()}
        self._file.write(json.dumps({"iteration": iteration, **named}) + "\n")
        self._file.flush()
        for name, value in named.items():
            self._tensorboard.add_scalar(name, value, iteration)
        self._bar.write(f"iteration {iteration}: NDS {values['nds']:.4f}, mAP {values['map']:.4f}")

    def event(self, iteration: int, text: str, **details: Any) -> None:
        """Something that does not happen in every iteration."""
        if self._enabled:
            self._file.write(json.dumps({"iteration": iteration, "event": text, **details}) + "\n")
            self._file.flush()
            self._bar.write(f"iteration {iteration}: {text}")

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """image [H, W, 3] uint8 BGR."""
        if self._enabled:
            self._tensorboard.add_image(name, image[..., ::-1].copy(), iteration, dataformats="HWC")

    def close(self) -> None:
        if self._enabled:
            self._bar.close()
            self._tensorboard.close()
            self._file.close()


def _cut_torn_line(path: pathlib.Path) -> None:
    """A power loss can leave half a line at the end of the log; the next one would be glued to it."""
    if path.is_file():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _json_number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
