"""Scores of the model while it trains, on scenes that it is not trained on."""

from __future__ import annotations

import copy
import json
import pathlib
from dataclasses import dataclass

from ...atomic_write import write_json
from ...data.nuscenes.dataset import NuScenesDataset
from ...evaluation.evaluate import evaluate
from ...evaluation.keyframe_scores import run_keyframes
from ...inference.pipeline import Pipeline
from ...network.sparse4d import Sparse4D
from .processes import Processes


@dataclass(frozen=True)
class Validation:
    """Key frames of all scenes of a data set, divided among the processes, scored by the devkit (detection only: its
    tracking score takes longer than the frames)."""

    data: NuScenesDataset
    folder: pathlib.Path  # for the results of the newest validation; all processes must see it
    every: int  # optimiser steps between two validations
    precision: str = "float32"  # of the image encoder

    def scores(self, model: Sparse4D, processes: Processes) -> dict[str, float]:
        """NDS, mAP and the five errors, the same in all processes. The model stays as it is: a copy runs.

        Raises:
            OSError: results that cannot be written.
        """
        pipeline = Pipeline(copy.deepcopy(model), device=str(processes.device), precision=self.precision)
        scenes = self.data.index.scene_names.tolist()[processes.rank :: processes.world_size]
        run_keyframes(pipeline, self.data, scenes).write_detection(self._part(processes.rank))
        processes.any(False)  # all parts are written now
        scores = self._score(processes.world_size) if processes.is_first else None
        return processes.gather(scores)[0]

    def _part(self, rank: int) -> pathlib.Path:
        return self.folder / f"part-{rank}.json"

    def _score(self, parts: int) -> dict[str, float]:
        submissions = [json.loads(self._part(rank).read_text()) for rank in range(parts)]
        results = {token: boxes for submission in submissions for token, boxes in submission["results"].items()}
        write_json(self.folder / "results.json", {"meta": submissions[0]["meta"], "results": results})
        for rank in range(parts):
            self._part(rank).unlink()
        detection = evaluate(self.data.dataroot, self.data.version, self.folder / "results.json").detection
        return {"nds": detection.nds, "map": detection.map, **detection.errors}
