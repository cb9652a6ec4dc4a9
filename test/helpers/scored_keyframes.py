"""The key frames of a data set through a pipeline, scored by the official devkit."""

from __future__ import annotations

from pathlib import Path

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation.devkit_scores import Scores, evaluate
from sparse4d_core.evaluation.keyframe_run import run_keyframes
from sparse4d_core.inference.pipeline import Pipeline


def keyframe_scores(pipeline: Pipeline, data: NuScenesDataset, out: Path) -> Scores:
    """Detection and tracking of all scenes; the results are left in `out`."""
    writer = run_keyframes(pipeline, data)
    results, tracking = out / "results.json", out / "tracking.json"
    writer.write_detection(results)
    writer.write_tracking(tracking)
    return evaluate(data.dataroot, data.version, results, tracking)
