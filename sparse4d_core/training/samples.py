"""From annotated frames to training samples: augmentation, targets, batches.

AnnotatedFrames ──Draw──► frame, objects ──augment──► ModelInput, Targets ──collate──► Batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import Sparse4DConfig
from ..preprocess import collate, model_input, normalize
from ..types import Frame, ModelInput
from .augment import (
    Augmentation,
    PhotometricDistortion,
    draw_augmentation,
    rotate_boxes,
    rotate_world,
    wrap_angle,
)
from .config import TrainingConfig
from .depth import depth_maps
from .objective import PastInput
from .sampler import Draw
from .targets import Targets, collate_targets


class Objects(Protocol):
    """Annotated objects of a frame, in its model frame."""

    boxes: (
        np.ndarray
    )  # [n, 9] float64: x y z (centre, m), length width height (m), yaw (rad), vx vy (m/s, NaN = unknown)
    labels: np.ndarray  # [n] int64, index into CLASS_NAMES; -1 = a class that is not learned
    instance_ids: np.ndarray  # [n] int64, constant over the scene


class AnnotatedFrames(Protocol):
    """What training needs of a data set; `data.nuscenes.NuScenesDataset` is one."""

    def frame(self, i: int) -> Frame:
        """Images and calibration of a frame."""

    def annotations(self, i: int) -> Objects:
        """Annotations that are fit to learn from."""


@dataclass
class Batch:
    inputs: ModelInput
    targets: Targets
    starts: Tensor  # [B] bool: the first frame of a sequence; what the slot remembers is of another one
    tokens: list[str]  # sample tokens, to name an offender
    history: tuple[PastInput, ...] = ()  # past frames, most recent first (v1)

    def to(self, device: torch.device | str) -> Batch:
        moved = {f.name: getattr(self.inputs, f.name) for f in fields(ModelInput)}
        inputs = ModelInput(**{k: None if v is None else v.to(device, non_blocking=True) for k, v in moved.items()})
        return replace(self, inputs=inputs, targets=self.targets.to(device), starts=self.starts.to(device))


class TrainingSamples(torch.utils.data.Dataset):
    """Augmented samples, each a function of (seed, draw): any worker process gives the same.

    Args:
        lidar: gives the points [P, 3 or more] (metres, model frame) of a frame, or None for a frame without.
    """

    def __init__(
        self,
        data: AnnotatedFrames,
        model: Sparse4DConfig,
        training: TrainingConfig,
        seed: int = 0,
        lidar: Callable[[int], np.ndarray | None] | None = None,
    ):
        self.data = data
        self.model = model
        self.training = training
        self.seed = seed
        self.lidar = lidar

    def __getitem__(self, draw: Draw) -> Batch:
        """A batch of one sample."""
        frame = self.data.frame(draw.index)
        augmentation = self._augmentation(draw, frame)
        frame = rotate_world(frame, augmentation.bev_rotation)
        inputs = self._inputs(draw, frame, augmentation)
        targets = training_targets(self.data.annotations(draw.index), augmentation.bev_rotation, self.training)
        if self.lidar is not None and (points := self.lidar(draw.index)) is not None:
            targets.depth = self._depth(points, inputs, augmentation.bev_rotation)
        return Batch(inputs, targets, torch.tensor([draw.step == 0]), [frame.token])

    def _augmentation(self, draw: Draw, frame: Frame) -> Augmentation:
        config = self.training.augmentation
        step = 0 if config.consistent_over_sequence else draw.step
        height, width = next(image.shape[:2] for image in frame.images if image is not None)
        rng = np.random.RandomState([self.seed, draw.position, step])
        return draw_augmentation(config, self.model.image, (width, height), rng)

    def _inputs(self, draw: Draw, frame: Frame, augmentation: Augmentation) -> ModelInput:
        width, height = self.model.image.input_wh
        pixels = np.zeros((len(frame.images), 3, height, width), np.float32)
        distort = PhotometricDistortion(np.random.RandomState([self.seed, draw.position, draw.step, 1]))
        for camera, image in enumerate(frame.images):
            if image is None:
                continue
            image = augmentation.image.apply(image)
            if self.training.augmentation.photometric:
                image = distort(image)
            normalize(image, self.model.image, out=pixels[camera])
        transforms = [None if image is None else augmentation.image for image in frame.images]
        return model_input(frame, transforms, pixels, (width, height))

    def _depth(self, points: np.ndarray, inputs: ModelInput, angle: float) -> list[Tensor]:
        turned = np.array(points[:, :3], np.float64)
        cos, sin = np.cos(angle), np.sin(angle)
        turned[:, :2] = turned[:, :2] @ np.array([[cos, sin], [-sin, cos]])
        maps = depth_maps(
            turned, inputs.projection[0].numpy(), self.model.image.input_wh, max_depth=self.training.losses.max_depth
        )
        return [torch.from_numpy(level)[None] for level in maps]


def training_targets(objects: Objects, bev_rotation: float, config: TrainingConfig) -> Targets:
    """Targets of one sample: turned with the world, within range, of a known class."""
    boxes = rotate_boxes(objects.boxes, bev_rotation)
    in_range = np.hypot(boxes[:, 0], boxes[:, 1]) <= config.ground_truth.max_range
    kept = in_range & (objects.labels >= 0)
    boxes = boxes[kept]
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    return Targets(
        [torch.from_numpy(boxes.astype(np.float32))],
        [torch.from_numpy(objects.labels[kept].astype(np.int64))],
        [torch.from_numpy(objects.instance_ids[kept].astype(np.int64))],
    )


def collate_batches(samples: Sequence[Batch]) -> Batch:
    return Batch(
        collate([sample.inputs for sample in samples]),
        collate_targets([sample.targets for sample in samples]),
        torch.cat([sample.starts for sample in samples]),
        [token for sample in samples for token in sample.tokens],
    )
