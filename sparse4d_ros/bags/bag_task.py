"""One bag from images to a file of measured values: replay, statistics, scores where there are annotations.

A worker, wherever it runs, gives the content of files; the process that collects the results writes them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparse4d_core.atomic_write import write_bytes, write_json
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.process_settings import keep_freed_memory

from ..assembly import load_pipeline
from ..parameters import NodeParameters
from ..perception.rig import load_rig
from ..perception.transforms import TransformError
from ..replay import Replay
from ..rosbag_to_nuscenes import write_dataset
from .bag_io import BagError
from .box_record import SetRecord, to_line
from .record_statistics import statistics
from .sets import bag_synchronizer
from .truth import Truth, read_truth

MEASURED = "measured.json"
NOT_SCORED = "not_scored"  # in MEASURED: why a bag with annotations has no scores


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

    def start(self, device: str) -> BagRunner:
        """A worker; see `load_pipeline` for what it raises."""
        return BagRunner(replace(self, parameters=replace(self.parameters, device=device)))

    def keep(self, bag: Path, result: BagResult) -> dict[str, Any]:
        """Writes what a worker gave, measured.json last of all; returns the measured values.

        Raises:
            OSError: such as a full disk; the bag is not done then.
        """
        for name, content in result.files.items():
            write_bytes(self.folder(bag) / name, content)
        write_json(self.folder(bag) / MEASURED, result.measured | {"asked": self._asked(bag)}, indent=2)
        return result.measured

    def _asked(self, bag: Path) -> dict[str, Any]:
        """What decides the measured values."""
        return {"bag": str(bag.resolve()), "annotations": self.annotations, **asdict(self.parameters)}


@dataclass(frozen=True)
class BagResult:
    measured: dict[str, Any]
    files: dict[str, bytes]  # name below the bag's folder -> content


class BagRunner:
    """Runs bags, with one model for all."""

    def __init__(self, task: BagTask):
        keep_freed_memory()
        self._task, self._rig = task, load_rig(task.parameters.rig)
        self._pipeline: Pipeline = load_pipeline(task.parameters, self._rig)

    def run(self, bag: Path) -> BagResult:
        """Replays the bag and measures. Annotations that cannot be scored against cost the scores alone.

        Raises:
            BagError, RigError: the bag cannot be used.
            OSError: such as a full disk.
        """
        truth = read_truth(bag, self._task.annotations)  # first: a wrong topic is not worth a replay
        replay = Replay(bag, self._rig, self._pipeline, self._task.parameters)
        records, step_ms = timed(replay.run())
        files = {"boxes.jsonl": "".join(to_line(record) + "\n" for record in records).encode()}
        drops = replay.drops + replay.synchronizer.drops
        measured = statistics(records, drops, step_ms, self._pipeline.config.class_names)
        if truth.annotations:
            try:
                result = self._score(bag, records, truth)
            except (ValueError, TransformError) as error:
                measured[NOT_SCORED] = str(error)
            except ModuleNotFoundError as error:  # the devkit, or what its tracking needs: an extra
                measured[NOT_SCORED] = (
                    f"{error.name} is not installed; scores need the extra eval: pip install -r requirements/eval.txt"
                )
            else:
                measured |= result.measured
                files |= result.files
        return BagResult(measured, files)

    def _score(self, bag: Path, records: list[SetRecord], truth: Truth) -> BagResult:
        """Scores against the sets that the replay makes of the bag: by its synchronizer, with its masked cameras."""
        from .bag_score import VERSION, score  # the devkit, which a bag without annotations does not need

        parameters = self._task.parameters
        synchronizer = bag_synchronizer(parameters, self._rig)
        with tempfile.TemporaryDirectory(prefix="bag-truth-") as scratch:
            dataset, scores = Path(scratch) / "truth", Path(scratch) / "scores"
            write_dataset(
                bag, self._rig, dataset, VERSION, synchronizer, self._task.annotations, distortion=parameters.distortion
            )
            measured = score(records, truth, self._rig, dataset, scores)
            made = sorted(path for path in scores.rglob("*") if path.is_file())
            return BagResult(measured, {f"scores/{path.relative_to(scores)}": path.read_bytes() for path in made})


def timed(records: Iterable[SetRecord]) -> tuple[list[SetRecord], list[float]]:
    """All records, and the milliseconds from one to the next: decoding, model and messages of a set."""
    found, step_ms, before = [], [], time.perf_counter()
    for record in records:
        now = time.perf_counter()
        found.append(record)
        step_ms.append(1e3 * (now - before))
        before = now
    return found, step_ms
