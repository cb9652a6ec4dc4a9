"""Scores of the model while it trains, on scenes that it is not trained on."""

from __future__ import annotations

import copy
import json
import pathlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...data.nuscenes.dataset import NuScenesDataset
from ...evaluation.keyframe_run import run_keyframes
from ...evaluation.results import ResultsWriter
from ...inference.pipeline import Pipeline
from ...network.sparse4d import Sparse4D
from .processes import Processes


@dataclass(frozen=True)
class Validation:
    """Key frames of all scenes of a data set, divided among the processes, scored by the devkit (detection only: its
    tracking score takes longer than the frames)."""

    data: NuScenesDataset
    folder: pathlib.Path  # for the results of the newest validation, of the first process
    every: int  # optimiser steps between two validations
    precision: str = "float32"  # of the image encoder

    def scores(self, model: Sparse4D, processes: Processes) -> dict[str, float]:
        """NDS, mAP and the five errors of the first process's model, the same in all processes. The model stays as it
        is: a copy runs.

        Raises:
            OSError: results that cannot be written.
        """
        scored = copy.deepcopy(model)
        # Batch norm statistics are of a process's own batches; the first one's are those that are saved.
        saved = processes.from_first([buffer.cpu() for buffer in scored.buffers()])
        for buffer, value in zip(scored.buffers(), saved, strict=True):
            buffer.copy_(value)
        pipeline = Pipeline(scored, device=str(processes.device), precision=self.precision)
        scenes = self.data.index.scene_names.tolist()[processes.rank :: processes.world_size]
        writer = run_keyframes(pipeline, self.data, scenes)
        parts = processes.gather(zlib.compress(json.dumps(writer.detection).encode()))
        return processes.from_first(self._score(writer, parts) if processes.is_first else None)

    def _score(self, writer: ResultsWriter, parts: Sequence[bytes]) -> dict[str, float]:
        """Scores of all processes' results."""
        from ...evaluation.devkit_scores import evaluate  # with it comes the devkit; runs without validation need none

        for part in parts:
            writer.detection |= json.loads(zlib.decompress(part))
        writer.write_detection(self.folder / "results.json")
        detection = evaluate(self.data.dataroot, self.data.version, self.folder / "results.json").detection
        return {"nds": detection.nds, "map": detection.map, **detection.errors}
