"""A training step on a device that is not the host's: what crosses between the two, and what of it waits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_run
import torch
from device_crossings import DEVICE, Crossings, DeviceTensor, to_device
from torch.utils.data._utils.pin_memory import pin_memory

from sparse4d_core.model_io import ModelInput
from sparse4d_core.training.batches.batch import Batch
from sparse4d_core.training.batches.loader import Streams, make_loader
from sparse4d_core.training.run.optimizer import make_optimizers
from sparse4d_core.training.run.processes import Processes
from sparse4d_core.training.run.trainer import Trainer
from sparse4d_core.training.schedule import GridMaskConfig

pytestmark = pytest.mark.usefixtures("one_thread")

MOST = 20
DEPTH_MODEL = replace(  # with the four levels that the dense depth heads look at
    tiny_run.MODEL,
    neck=replace(tiny_run.MODEL.neck, start_level=0, num_levels=4),
    aggregation=replace(tiny_run.MODEL.aggregation, num_levels=4),
    num_depth_layers=3,
)
GRID_TRAINING = replace(tiny_run.TRAINING, grid_mask=GridMaskConfig(probability=1.0))


class LidarWorld(tiny_run.TinyWorld):
    def lidar_points(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).uniform(-30, 30, (200, 5)).astype(np.float32)


def on_device(trainer: Trainer) -> Trainer:
    """Moved as a whole; call it inside of Crossings."""
    to_device(trainer.model)
    trainer.optimizers = make_optimizers(trainer.model, trainer.config.optimizer)
    trainer.average = None
    trainer.processes = replace(trainer.processes, device=DEVICE)
    return trainer


def crossings_of_a_step(tmp_path, model=DEPTH_MODEL, training=GRID_TRAINING) -> tuple[list[str], list[str], Trainer]:
    """Uploads and downloads of the second step of a v3 training with all that v3 has: noisy queries, those of the
    frame before, dense depth, grid mask."""
    trainer = tiny_run.tiny_trainer(tmp_path, model=model, training=training, world=LidarWorld())
    with Crossings() as crossings:
        on_device(trainer)
        for _ in range(2):
            crossings.uploads.clear()
            crossings.downloads.clear()
            step = trainer._optimise(trainer._read())
            trainer.iteration += 1
    assert step.finite and {"cls_1", "cls_dn_1", "dense_depth"} <= step.losses.keys()
    assert trainer.states[0].noisy is not None
    return crossings.uploads, crossings.downloads, trainer


def test_a_step_crosses_at_most_twenty_times(tmp_path):
    uploads, downloads, _ = crossings_of_a_step(tmp_path)
    assert len(uploads) + len(downloads) <= MOST, (uploads, downloads)


def test_more_layers_and_samples_cross_no_more_often(tmp_path):
    small = crossings_of_a_step(tmp_path / "small")
    larger = replace(GRID_TRAINING, schedule=replace(GRID_TRAINING.schedule, batch_size=4))
    large = crossings_of_a_step(tmp_path / "large", replace(DEPTH_MODEL, num_decoder_layers=4), larger)
    assert [len(sites) for sites in small[:2]] == [len(sites) for sites in large[:2]]


def test_steps_on_the_device_are_the_steps_on_the_host(tmp_path):
    """The stand-in computes with the host's values, so the losses come out the same: nothing depends on where."""
    host, device = (
        tiny_run.tiny_trainer(tmp_path / name, model=DEPTH_MODEL, training=GRID_TRAINING, world=LidarWorld())
        for name in ("host", "device")
    )
    random = torch.get_rng_state()
    expected = [host._optimise(host._read()) for _ in range(3)]
    torch.set_rng_state(random)
    with Crossings():
        on_device(device)
        actual = [device._optimise(device._read()) for _ in range(3)]
    for there, here in zip(actual, expected, strict=True):
        assert there.losses == pytest.approx(here.losses, rel=1e-3)
        assert there.gradient_norm == pytest.approx(here.gradient_norm, rel=1e-3)


def test_a_batch_can_be_pinned(monkeypatch):
    """What the loader's thread does with a batch; this machine has no device to pin memory for."""
    pinned = []

    def fake(tensor, *_):
        pinned.append(tensor.data_ptr())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", fake)
    batch = tiny_batch()
    result = pin_memory(batch)
    assert isinstance(result, Batch) and result.tokens == batch.tokens and result.targets.counts == batch.targets.counts
    expected = [getattr(batch.inputs, name) for name in ModelInput.__dataclass_fields__]
    expected += [batch.targets.boxes, batch.targets.labels, batch.targets.instance_ids, *batch.targets.depth]
    assert {tensor.data_ptr() for tensor in expected} <= set(pinned)


def tiny_batch() -> Batch:
    loader = make_loader(LidarWorld(), DEPTH_MODEL, tiny_run.TRAINING, Streams(2, 1), Processes(), seed=3, workers=0)
    return loader.take(1)[0]


def test_the_stand_in_sees_what_a_gpu_would_wait_for():
    with Crossings() as crossings:
        values = to_device(torch.arange(6.0).view(2, 3))
        (values * 2 + torch.tensor(1.0)).sum()
        assert not crossings.uploads and not crossings.downloads
        values[:, [0, 2]], values.new_tensor([1.0]), torch.ones(3).to(DEVICE)
        assert len(crossings.uploads) == 3
        values[values > 1], values.max().item(), values.tolist(), values.cpu(), bool((values > 1).any())
        assert len(crossings.downloads) == 5
        assert isinstance(values.new_zeros(2), DeviceTensor) and (values[0] + 1).cpu().tolist() == [1, 2, 3]
        with pytest.raises(AssertionError, match="host and device together"):
            values + torch.ones(2, 3)
