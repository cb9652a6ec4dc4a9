"""Proof that training trains: one rendered sequence is learned by heart within minutes."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scored_keyframes import keyframe_scores

from sparse4d_core.checkpoint.weights import load_checkpoint
from sparse4d_core.config import preset
from sparse4d_core.data.anchors import kmeans_anchors
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training.batches.keyframes import Keyframes
from sparse4d_core.training.batches.loader import Streams, make_loader
from sparse4d_core.training.run.processes import Processes
from sparse4d_core.training.run.trainer import RunSettings, Trainer
from sparse4d_core.training.schedule import AugmentationConfig, SamplingConfig, TrainingConfig, training_config
from sparse4d_core.training.starting_model import build_model

SEED = 17
ITERATIONS = 200  # about 40 s of one core
# The demo model with smaller images and fewer instances: two seconds hold 75 boxes, about fifteen in a frame.
DEMO = preset("demo")
MODEL = replace(
    DEMO,
    image=replace(DEMO.image, input_wh=(176, 64)),
    num_anchors=64,
    num_output=64,
    temporal=replace(DEMO.temporal, num_instances=32),
)


def by_heart() -> TrainingConfig:
    """The demo's training without variation: the same frames in the same order, again and again."""
    demo = training_config("demo")
    still = AugmentationConfig(
        scale_range=None, rotation_range_deg=(0, 0), flip=False, bev_rotation_range=(0, 0), photometric=False
    )
    return replace(
        demo,
        augmentation=still,
        sampling=SamplingConfig(splits_per_scene=1, skip_probability=0.0, reverse_probability=0.0),
        optimizer=replace(demo.optimizer, lr=1e-3, warmup_iterations=50),
        schedule=replace(demo.schedule, batch_size=1, ema_decay=0.98),
    )


def train_by_heart(data: NuScenesDataset, out) -> None:
    boxes = np.concatenate([data.annotations(int(i)).boxes for i in data.keyframes])
    np.save(out / "anchors.npy", kmeans_anchors(boxes, MODEL.num_anchors))
    model = build_model(MODEL, by_heart(), SEED, anchors=out / "anchors.npy")
    loader = make_loader(Keyframes(data), MODEL, by_heart(), Streams(1, 1), Processes(), SEED, workers=0)
    settings = RunSettings(out / "run", ITERATIONS, precision="bfloat16", picture_every=0, checkpoint_seconds=1e9)
    Trainer(model, by_heart(), loader, settings, Processes()).run()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes where other processes keep the cores busy
@pytest.mark.usefixtures("one_thread")
def test_one_sequence_is_learned_by_heart(tmp_path):
    render_dataset(tmp_path / "world", 1, SEED, duration=2.0, rate=2, rig=NUSCENES_RIG.resized(352, 198))
    data = NuScenesDataset(tmp_path / "world", "v1.0-mini", cache=None)
    began, cpu_began = time.monotonic(), time.process_time()
    train_by_heart(data, tmp_path)
    model = Sparse4D(MODEL)
    load_checkpoint(tmp_path / "run" / "model.pt", model)
    found = keyframe_scores(Pipeline(model), data, tmp_path).detection
    print(f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu_began:.0f} s of one core: {found}")
    assert found.nds > 0.8
    assert found.map > 0.8 and found.errors["mAVE"] < 0.5
