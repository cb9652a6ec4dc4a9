"""A pipeline over the key frames of a data set, in order as the node runs it, scored by the official devkit: no bag."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.pipeline import Pipeline
from .evaluate import Scores, evaluate
from .results import ResultsWriter


def run_keyframes(
    pipeline: Pipeline, data: NuScenesDataset, scenes: Sequence[str] | None = None, progress: bool = False
) -> ResultsWriter:
    """Detections and tracks of all key frames; every scene begins without a memory.

    Args:
        scenes: names; None = all.
    """
    writer = ResultsWriter()
    keyframes = set(data.keyframes.tolist())
    for name in tqdm(data.index.scene_names.tolist() if scenes is None else scenes, "scenes", disable=not progress):
        state = None
        for i in (int(i) for i in data.scene_frames(name) if int(i) in keyframes):
            frame = data.frame(i)
            step = pipeline.step(frame, state)
            state = step.state
            writer.add(frame.token, step.detections, step.tracks, frame.T_global_from_model)
    return writer


def keyframe_scores(pipeline: Pipeline, data: NuScenesDataset, out: Path) -> Scores:
    """Detection and tracking of all scenes; the results are left in `out`."""
    writer = run_keyframes(pipeline, data)
    results, tracking = out / "results.json", out / "tracking.json"
    writer.write_detection(results)
    writer.write_tracking(tracking)
    return evaluate(data.dataroot, data.version, results, tracking)
