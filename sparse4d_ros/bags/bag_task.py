"""One bag from images to a file of measured values: replay, statistics, scores where there are annotations."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparse4d_core.atomic_write import atomic_write, write_json
from sparse4d_core.inference.pipeline import Pipeline

from ..parameters import NodeParameters
from ..perception.rig import load_rig
from ..replay import Replay
from ..rosbag_to_nuscenes import write_dataset
from .bag_io import BagError
from .bag_score import VERSION, score
from .box_record import SetRecord, to_line
from .record_statistics import statistics
from .truth import read_truth

MEASURED = "measured.json"


@dataclass(frozen=True)
class BagTask:
    """What is done with every bag of a fleet; travels to other processes by pickle."""

    parameters: NodeParameters
    out: Path
    annotations: str  # topic

    def folder(self, bag: Path) -> Path:
        return self.out / bag.name

    def done(self, bag: Path) -> dict[str, Any] | None:
        """What an earlier run measured; None where it did not come to its end.

        Raises:
            BagError: it had other parameters, or was of another bag of that name.
        """
        path = self.folder(bag) / MEASURED
        if not path.is_file():
            return None
        measured = json.loads(path.read_text(encoding="utf-8"))
        asked = self._asked(bag)
        before = measured.get("asked", {})
        other = [f"{k} was {before.get(k)!r}, is {value!r}" for k, value in asked.items() if before.get(k) != value]
        if other:
            raise BagError(f"resume: {path} is of another run: {'; '.join(other)}; choose another --out")
        return measured

    def run(self, bag: Path, pipeline: Pipeline) -> dict[str, Any]:
        """Replays the bag and measures; writes boxes.jsonl and, last of all, measured.json.

        Raises:
            BagError, RigError, TransformError, ConversionError, DatasetError: the bag cannot be used.
            OSError: such as a full disk; nothing half-written is left then.
        """
        rig = load_rig(self.parameters.rig)
        replay = Replay(bag, rig, pipeline, self.parameters)
        records, step_ms = timed(replay.run())
        folder = self.folder(bag)
        with atomic_write(folder / "boxes.jsonl") as unfinished, unfinished.open("w", encoding="utf-8") as file:
            file.writelines(to_line(record) + "\n" for record in records)
        measured = statistics(records, replay.drops + replay.synchronizer.drops, step_ms)
        truth = read_truth(bag, self.annotations)
        if truth.annotations:
            with tempfile.TemporaryDirectory(prefix="bag-truth-") as scratch:
                dataset = Path(scratch) / "truth"
                write_dataset(bag, rig, dataset, VERSION, self.annotations)
                measured |= score(records, truth, rig, dataset, folder / "scores")
        write_json(folder / MEASURED, measured | {"asked": self._asked(bag)}, indent=2)
        return measured

    def _asked(self, bag: Path) -> dict[str, Any]:
        """What decides the measured values."""
        return {"bag": str(bag.resolve()), "annotations": self.annotations, **asdict(self.parameters)}


def timed(records: Iterable[SetRecord]) -> tuple[list[SetRecord], list[float]]:
    """All records, and the milliseconds from one to the next: decoding, model and messages of a set."""
    found, step_ms, before = [], [], time.perf_counter()
    for record in records:
        now = time.perf_counter()
        found.append(record)
        step_ms.append(1e3 * (now - before))
        before = now
    return found, step_ms
