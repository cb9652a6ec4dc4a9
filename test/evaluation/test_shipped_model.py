"""The shipped weights find and follow what they have never seen: the figures that the demo promises."""

from __future__ import annotations

import pytest

from sparse4d_core.data.nuscenes import NuScenesDataset
from sparse4d_core.data.synthetic import render_dataset
from sparse4d_core.data.synthetic_rig import NUSCENES_RIG
from sparse4d_core.evaluation.evaluate import evaluate
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.pipeline import WEIGHTS, Pipeline

SEED = 100_700  # training has 0 to 9,999


@pytest.mark.slow
def test_shipped_weights_reach_their_figures_on_unseen_scenes(tmp_path):
    render_dataset(tmp_path, 3, SEED, rate=2, rig=NUSCENES_RIG.resized(704, 396), workers=2)
    data, pipeline, writer, state = (
        NuScenesDataset(tmp_path, cache=None),
        Pipeline.from_preset("demo"),
        ResultsWriter(),
        None,
    )
    assert pipeline.trained
    for i in data.keyframes:
        frame = data.frame(int(i))
        result = pipeline.step(frame, state)
        state = result.state
        writer.add(frame.token, result.detections, result.tracks, frame.T_global_from_model)
    writer.write_detection(tmp_path / "results.json")
    writer.write_tracking(tmp_path / "tracking.json")
    scores = evaluate(tmp_path, "v1.0-mini", tmp_path / "results.json", tmp_path / "tracking.json")
    print(scores.table())
    assert scores.detection.nds >= 0.50 and scores.detection.map >= 0.40
    assert scores.tracking.amota >= 0.45


def test_the_shipped_file_is_small():
    assert (WEIGHTS / "demo.pt").stat().st_size < 12_000_000
