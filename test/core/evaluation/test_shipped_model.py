"""The shipped weights find and follow what they have never seen: the figures that the demo promises."""

from __future__ import annotations

import pytest
from scored_keyframes import keyframe_scores

from sparse4d_core.checkpoint.published import SHIPPED
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.inference.pipeline import Pipeline

SEED = 100_700  # training has 0 to 9,999


@pytest.mark.slow
def test_shipped_weights_reach_their_figures_on_unseen_scenes(tmp_path):
    # Many short scenes, for the frames of one show the same few objects: of two trainings, the one that was better on
    # four larger sets of scenes (docs/training.md) was the worse by 0.017 of NDS on the first three of these.
    render_dataset(tmp_path, 8, SEED, duration=3.0, rate=2, rig=NUSCENES_RIG.resized(704, 396))
    pipeline = Pipeline.from_preset("demo")
    assert pipeline.trained
    scores = keyframe_scores(pipeline, NuScenesDataset(tmp_path, cache=None), tmp_path)
    print(scores.table())
    # 0.8708, 0.8534 and 0.8567 on these scenes. An image encoder in bfloat16, hundreds of times coarser than what other
    # processors round differently, moved those of earlier weights by 0.0013, 0.0025 and 0.0051.
    assert scores.detection.nds >= 0.866 and scores.detection.map >= 0.848
    assert scores.tracking.amota >= 0.851


def test_the_shipped_file_is_small():
    assert (SHIPPED / "demo.pt").stat().st_size < 12_000_000
