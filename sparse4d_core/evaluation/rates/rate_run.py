"""One way of keeping memory at one frame rate: a run over the scenes, its scores, and what they do not see."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...boxes import along_the_ground, transform_boxes
from ...data.nuscenes.dataset import NuScenesDataset
from ...inference.pipeline import Pipeline, StepResult
from ...inference.tracking import confident_rows
from ...model_io import tensors_of
from ...types import Frame
from ..devkit_scores import evaluate
from ..keyframe_run import run_scene
from ..results import ResultsWriter
from ..robustness.frame_faults import Untouched
from ..robustness.rows import Row
from .scene_truth import SceneTruth
from .stability import Follower, Seen, Stability, summed

WAYS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "every": {"temporal_stride": 0.0},
        "one": {"temporal_stride": 0.5, "memories": "one"},
        "two": {"temporal_stride": 0.5, "memories": "two"},
        "interleaved": {"temporal_stride": 0.5, "memories": "interleaved"},
    }
)
"""Arguments of the pipeline, which are parameters of the node by the same names."""


@dataclass(frozen=True)
class Measured:
    """One row of the table."""

    nds: float  # at key frames, as the following three
    map: float
    amota: float | None
    ids: int | None
    stability: dict[str, float]  # of all frames, see `Stability`
    frame_ms: float  # processor time of a frame, preprocessing and network
    memory_mb: float  # what flows from one frame to the next, at most

    def of(self) -> Stability:
        return Stability(**self.stability)


class Watched:
    """A pipeline that keeps what its frames gave, for one scene."""

    def __init__(self, pipeline: Pipeline, threshold: float):
        self._pipeline, self._threshold = pipeline, threshold
        self.frames: list[tuple[int, Seen]] = []  # stamp in nanoseconds
        self.seconds, self.bytes = 0.0, 0

    def step(self, frame: Frame, state: Any = None) -> StepResult:
        begin = time.process_time()
        result = self._pipeline.step(frame, state)
        self.seconds += time.process_time() - begin
        self.bytes = max(self.bytes, sum(tensor.nbytes for tensor in unique(tensors_of(result.state))))
        self.frames.append((frame.stamp_ns, self._seen(frame, result)))
        return result

    def _seen(self, frame: Frame, result: StepResult) -> Seen:
        """Confident boxes, also those whose id is withheld."""
        found = result.detections
        rows = confident_rows(found, self._threshold)
        boxes = transform_boxes(along_the_ground(found.boxes[rows]), frame.T_global_from_model)
        ids = np.full(int(rows.sum()), -1) if found.ids is None else found.ids[rows]
        return Seen(frame.stamp_ns * 1e-9, ids, np.asarray(found.labels)[rows], boxes[:, :2], boxes[:, 7:9])


def unique(tensors: Sequence[Any]) -> list[Any]:
    """Each tensor once, however often it is there."""
    return list({tensor.data_ptr(): tensor for tensor in tensors}.values())


def measure(
    pipeline: Pipeline, data: NuScenesDataset, rate: float, out: Path, tracking: bool = True, processes: int = 1
) -> Measured:
    """Runs all scenes at a rate (Hz) and scores them; the submissions are left in `out`.

    Raises:
        DatasetError, ValueError, ChildProcessError: see `evaluate`.
    """
    plan, writer, followers = Row("rate", f"{rate:g}_hz", Untouched(), rate=rate), ResultsWriter(), []
    seconds, frames, most = 0.0, 0, 0
    scenes = data.index.scene_names.tolist()
    for scene in scenes:
        watched = Watched(pipeline, pipeline.config.tracking_threshold)
        run_scene(watched, data, scene, writer, plan=plan)
        followers.append(follow(watched, data, scene))
        seconds, frames, most = seconds + watched.seconds, frames + len(watched.frames), max(most, watched.bytes)
    files = out / "results.json", out / "tracking.json"
    writer.write_detection(files[0])
    with_ids = tracking and pipeline.config.tracking
    if with_ids:
        writer.write_tracking(files[1])
    scores = evaluate(data.dataroot, data.version, files[0], files[1] if with_ids else None, None, scenes, processes)
    return Measured(
        scores.detection.nds,
        scores.detection.map,
        scores.tracking.amota if scores.tracking else None,
        scores.tracking.ids if scores.tracking else None,
        asdict(summed(followers)),
        1e3 * seconds / max(frames, 1),
        most / 2**20,
    )


def follow(watched: Watched, data: NuScenesDataset, scene: str) -> Follower:
    """The scene's objects as they were seen in the frames that were run."""
    truth, follower = SceneTruth(data, scene), Follower()
    rows = {int(data.index.stamp_us[row]) * 1000: int(row) for row in data.scene_frames(scene)}
    for stamp_ns, seen in watched.frames:
        follower.add(truth.at(rows[stamp_ns]), seen)
    return follower
