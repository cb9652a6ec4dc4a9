"""A pipeline over the key frames of a data set, in order as the node runs it, scored by the official devkit."""

from __future__ import annotations

import pathlib

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation.evaluate import Scores, evaluate
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.inference.pipeline import Pipeline


def keyframe_scores(pipeline: Pipeline, data: NuScenesDataset, out: pathlib.Path) -> Scores:
    """Detection and tracking; the results are left in `out`."""
    state, writer = None, ResultsWriter()
    for i in data.keyframes:
        frame = data.frame(int(i))
        step = pipeline.step(frame, state)
        state = step.state
        writer.add(frame.token, step.detections, step.tracks, frame.T_global_from_model)
    results, tracking = out / "results.json", out / "tracking.json"
    writer.write_detection(results)
    writer.write_tracking(tracking)
    return evaluate(data.dataroot, data.version, results, tracking)
