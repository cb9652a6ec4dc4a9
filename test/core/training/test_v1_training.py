"""v1 trains end to end: samples with past frames, depth of the key points, weights that change."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace

import numpy as np
import tiny_run
import torch

from sparse4d_core.config import AggregationConfig, BackboneConfig, ImageConfig, NeckConfig, preset
from sparse4d_core.training.schedule import training_config
from sparse4d_core.types import Frame

V1 = preset("v1_r101_t4")
MODEL = replace(
    V1,
    image=ImageConfig((96, 64), original_wh=(96, 64)),
    backbone=BackboneConfig(depth=18, base_width=8),
    neck=NeckConfig(start_level=1, num_levels=3),
    embed_dims=16,
    num_anchors=24,
    num_decoder_layers=2,
    anchor_encoder=replace(V1.anchor_encoder, dims=(16, 16, 16, 16), out_loops=1),
    aggregation=AggregationConfig(
        num_groups=2, num_levels=3, sampling="grid_sample", camera_embed=False, residual="add", attention_drop=0.0
    ),
    attention_heads=2,
    ffn_hidden=16,
)
TRAINING = replace(
    training_config("v1_r101_t4"),
    schedule=replace(training_config("v1_r101_t4").schedule, batch_size=2),
    optimizer=replace(training_config("v1_r101_t4").optimizer, lr=2e-3, warmup_iterations=2),
)


class SixCameras(tiny_run.TinyWorld):
    """The two cameras of the tiny world three times: weights of v1 are made for six."""

    def frame(self, i: int) -> Frame:
        frame = super().frame(i)
        matrices = {name: np.tile(getattr(frame, name), (3, 1, 1)) for name in ("intrinsics", "T_cam_from_model")}
        return replace(frame, images=frame.images * 3, **matrices)


def v1_trainer(out: pathlib.Path):
    return tiny_run.tiny_trainer(out, iterations=6, model=MODEL, training=TRAINING, world=SixCameras())


def test_v1_trains_with_its_history_and_resumes(tmp_path):
    trainer = v1_trainer(tmp_path)
    start = {name: value.clone() for name, value in trainer.model.named_parameters()}
    valid = []
    take = trainer.loader.take

    def taking(count):
        batches = take(count)
        assert all(len(batch.history) == 3 for batch in batches)
        valid.extend(bool(past.valid[i]) for batch in batches for past in batch.history for i in range(2))
        return batches

    trainer.loader.take = taking
    trainer.run()
    assert True in valid and False in valid  # scenes begin: their first frames have no past
    reports = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(report["loss"] > 0 and report["loss/depth"] > 0 and "loss/box_1" in report for report in reports)
    assert trainer.skipped == 0
    unchanged = [name for name, value in trainer.model.named_parameters() if torch.equal(value, start[name])]
    assert all("anchor" in name or "instance_feature" in name for name in unchanged), unchanged
    again = v1_trainer(tmp_path)
    assert again.resume() and again.iteration == 6 and again.states == [None]


class Empty(SixCameras):
    def annotations(self, i: int) -> tiny_run.Objects:
        objects = super().annotations(i)
        return tiny_run.Objects(objects.boxes[:0], objects.labels[:0], objects.instance_ids[:0])


def test_v1_steps_without_an_object(tmp_path):
    """All terms are there and every weight has a gradient, which a wrapper for several processes waits for."""
    trainer = tiny_run.tiny_trainer(tmp_path, iterations=1, model=MODEL, training=TRAINING, world=Empty())
    step = trainer._optimise(trainer._read())
    assert step.finite and step.losses.keys() == {"cls_0", "cls_1", "box_0", "box_1", "depth"}
    assert all(step.losses[name] == 0 for name in ("box_0", "box_1", "depth"))
    assert all(parameter.grad is not None for parameter in trainer.model.parameters() if parameter.requires_grad)
