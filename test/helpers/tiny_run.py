"""A model and a world small enough to train in seconds; also run as a program by the tests of two processes.

torchrun --nproc-per-node=2 test/helpers/tiny_run.py OUT

trains three times: in OUT/shared without randomness; in OUT/empty, where batches of one process hold no object; and in
OUT/apart, where each process has a folder of its own, 0 and 1, as on two hosts: a run to the end, straight, and one
that is interrupted half-way and resumed, resumed. Then a process with other data is refused: refused-0, refused-1.
"""

from __future__ import annotations

import pathlib
import signal
import sys
from dataclasses import dataclass, replace

import numpy as np
import torch

from sparse4d_core.config import AggregationConfig, AnchorEncoderConfig, BackboneConfig, ImageConfig, preset
from sparse4d_core.network.initialization import initialize_decoder
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training.batches.loader import Streams, make_loader
from sparse4d_core.training.run.processes import Processes, start_processes
from sparse4d_core.training.run.trainer import RunSettings, Trainer
from sparse4d_core.training.schedule import AugmentationConfig, training_config
from sparse4d_core.types import Frame

MODEL = replace(
    preset("demo"),
    image=ImageConfig((96, 64), original_wh=(96, 64)),
    backbone=BackboneConfig(depth=18, base_width=8),
    embed_dims=16,
    num_anchors=24,
    num_decoder_layers=2,
    anchor_encoder=AnchorEncoderConfig(dims=(8, 2, 2, 4), out_loops=1),
    aggregation=AggregationConfig(num_groups=2, num_levels=3),
    attention_heads=2,
    ffn_hidden=16,
    temporal=replace(preset("demo").temporal, num_instances=12),
    attention_drop=0.1,  # so that a resumed run must continue the random numbers
)
TRAINING = training_config("demo")
TRAINING = replace(
    TRAINING,
    augmentation=AugmentationConfig(scale_range=(0.98, 1.1), photometric=False),
    schedule=replace(TRAINING.schedule, batch_size=2, ema_decay=0.9),
    optimizer=replace(TRAINING.optimizer, warmup_iterations=2, lr=1e-3),
)


@dataclass(frozen=True)
class Objects:
    boxes: np.ndarray
    labels: np.ndarray
    instance_ids: np.ndarray


class TinyWorld:
    """Random pictures from two cameras, three boxes that drive along."""

    def __init__(self, scenes: int = 3, length: int = 6):
        self.num_earlier = list(range(length)) * scenes
        self.seconds = [self._stamp_ns(i, length) * 1e-9 for i in range(length * scenes)]
        self._length = length

    def frame(self, i: int) -> Frame:
        rng = np.random.default_rng(i)
        images = tuple(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(2))
        intrinsics = np.tile(np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]), (2, 1, 1))
        forward = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        backward = np.array([[-1.0, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
        stamp = self._stamp_ns(i, self._length)
        return Frame(images, intrinsics, np.stack([forward, backward]), np.eye(4), stamp, token=f"token-{i}")

    @staticmethod
    def _stamp_ns(i: int, length: int) -> int:
        return i * 500_000_000 + (i // length) * 10_000_000_000

    def annotations(self, i: int) -> Objects:
        step = 0.5 * (i % self._length)
        boxes = np.array(
            [
                [3.0, 12 + step, 0, 4.5, 1.9, 1.6, 1.5, 0.0, 1.0],
                [-4.0, 20.0, 0, 0.8, 0.7, 1.8, 0.2, 0.0, 0.0],
                [1.0, -9 - step, 0, 8.0, 2.5, 3.0, -1.5, 0.0, -1.0],
            ]
        )
        return Objects(boxes, np.array([0, 8, 1]), np.arange(3) + 3 * (i // self._length))

    def lidar_points(self, i: int) -> None:
        return None


class EmptyScenes(TinyWorld):
    """The same where two scenes of three hold no object: of two processes often one has a batch without objects."""

    def annotations(self, i: int) -> Objects:
        objects = super().annotations(i)
        kept = slice(None) if i // self._length == 0 else slice(0)
        return Objects(objects.boxes[kept], objects.labels[kept], objects.instance_ids[kept])


def tiny_trainer(
    out: pathlib.Path,
    iterations: int = 6,
    processes: Processes | None = None,
    model=MODEL,
    training=TRAINING,
    accumulation: int = 1,
    workers: int = 0,
    world=None,
) -> Trainer:
    """Everything seeded; the same arguments give the same run."""
    processes = processes or Processes()
    torch.manual_seed(7)
    network = Sparse4D(model, training.scene_reset)
    initialize_decoder(network.decoder)
    streams = Streams.divide(training.schedule.batch_size, processes.world_size, accumulation)
    loader = make_loader(world or TinyWorld(), model, training, streams, processes, seed=3, workers=workers)
    torch.manual_seed(11 + processes.rank)
    settings = RunSettings(out, iterations, accumulation, report_every=2, picture_every=4)
    return Trainer(network, training, loader, settings, processes)


def without_randomness():
    """Nothing that depends on which samples share a process: no dropout, no noisy queries, batch norm in evaluation."""
    model = replace(
        MODEL,
        attention_drop=0.0,
        aggregation=replace(MODEL.aggregation, attention_drop=0.0),
        backbone=replace(MODEL.backbone, norm_eval=True),
    )
    return model, replace(TRAINING, denoising=None, schedule=replace(TRAINING.schedule, batch_size=4))


def run_apart(out: pathlib.Path, iterations: int, group: Processes) -> None:
    straight, interrupted, resumed = (
        tiny_trainer(out / name / str(group.rank), iterations, group) for name in ("straight", "resumed", "resumed")
    )

    def interrupt() -> None:
        if interrupted.iteration == iterations // 2:
            signal.raise_signal(signal.SIGTERM)

    interrupted._keep_epoch = interrupt  # called after each step
    for trainer in (straight, interrupted, resumed):
        torch.manual_seed(11 + group.rank)
        assert trainer is not resumed or (trainer.resume() and trainer.iteration == iterations // 2)
        trainer.run()
    try:
        group.check_same(seed="7", dataroot=f"{24 + group.rank} key frames")
    except ValueError as error:
        (out / f"refused-{group.rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    group = start_processes("cpu")
    out = pathlib.Path(sys.argv[1])
    tiny_trainer(out / "shared", 4, group, *without_randomness()).run()
    tiny_trainer(out / "empty", 8, group, world=EmptyScenes()).run()
    run_apart(out / "apart", 4, group)
    torch.distributed.destroy_process_group()
