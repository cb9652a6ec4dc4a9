"""From annotated frames to training samples: augmentation, targets, batches.

AnnotatedFrames ──Draw──► frame, objects ──augment──► ModelInput, Targets ──collate──► Batch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...config import Sparse4DConfig
from ...model_io import ModelInput
from ...preprocess import model_input, normalize
from ...types import Frame
from ..schedule import TrainingConfig
from .augment import (
    Augmentation,
    PhotometricDistortion,
    cameras_gone,
    draw_augmentation,
    rotate_boxes,
    rotate_world,
    rotation_about_z,
    wrap_angle,
)
from .batch import Batch, PastInput
from .depth_maps import depth_maps
from .sampler import Draw
from .targets import Targets


class Objects(Protocol):
    """Annotated objects of a frame, in its model frame."""

    boxes: (
        np.ndarray
    )  # [n, 9] float64: x y z (centre, m), length width height (m), yaw (rad), vx vy (m/s, NaN = unknown)
    labels: np.ndarray  # [n] int64, index into CLASS_NAMES; -1 = a class that is not learned
    instance_ids: np.ndarray  # [n] int64, constant over the scene


class AnnotatedFrames(Protocol):
    """A data set as training sees it: frames in time order, scene after scene."""

    num_earlier: Sequence[int]  # for every frame: how many earlier ones its scene has
    seconds: Sequence[float]  # for every frame: when it was taken

    def frame(self, i: int) -> Frame:
        """Images and calibration of a frame."""

    def annotations(self, i: int) -> Objects:
        """Annotations that are fit to learn from."""

    def lidar_points(self, i: int) -> np.ndarray | None:
        """[P, 3 or more] metres in the model frame; None where there is no lidar."""


class TrainingSamples(torch.utils.data.Dataset):
    """Augmented samples, each a function of (seed, draw): any worker process gives the same."""

    def __init__(self, data: AnnotatedFrames, model: Sparse4DConfig, training: TrainingConfig, seed: int = 0):
        self.data = data
        self.model = model
        self.training = training
        self.seed = seed

    def __getitem__(self, draw: Draw) -> Batch:
        """A batch of one sample."""
        frame = self._without_some_cameras(draw, self.data.frame(draw.index))
        augmentation = self._augmentation(draw)
        angle = augmentation.bev_rotation
        distort = PhotometricDistortion(np.random.RandomState([self.seed, draw.position, draw.step, 1]))
        inputs = self._inputs(frame, augmentation, distort)
        targets = training_targets(self.data.annotations(draw.index), angle, self.training)
        if self.model.num_depth_layers and (points := self.data.lidar_points(draw.index)) is not None:
            targets = replace(targets, depth=self._depth(points, inputs, angle))
        history = self._history(draw, inputs, augmentation, distort)
        return Batch(inputs, targets, torch.tensor([draw.step == 0]), [frame.token], history)

    def _history(
        self, draw: Draw, present: ModelInput, augmentation: Augmentation, distort: PhotometricDistortion
    ) -> tuple[PastInput, ...]:
        """Past key frames, most recent first; where the scene has none, a stand-in that is not valid (v1)."""
        config = self.training.sampling
        if self.model.history is None:
            return ()
        low, high = config.history_interval_range
        interval = np.random.RandomState([self.seed, draw.position, draw.step, 2]).randint(low, high + 1)
        past = []
        for age in range(interval, interval * config.history_frames + 1, interval):
            inputs = present
            if age <= self.data.num_earlier[draw.index]:
                inputs = self._inputs(self.data.frame(draw.index - age), augmentation, distort)
            gap = (present.timestamp - inputs.timestamp).abs()
            past.append(PastInput(inputs, (gap > 0) & (gap <= config.max_time_interval)))
        return tuple(past)

    def _augmentation(self, draw: Draw) -> Augmentation:
        config = self.training.augmentation
        step = 0 if config.consistent_over_sequence else draw.step
        rng = np.random.RandomState([self.seed, draw.position, step])
        return draw_augmentation(config, self.model.image, rng)

    def _without_some_cameras(self, draw: Draw, frame: Frame) -> Frame:
        """The frame as a node hands it on when cameras fall silent: without their images. One image always stays."""
        config = self.training.augmentation
        if not any(config.cameras_gone):
            return frame
        rng = np.random.RandomState([self.seed, draw.position, 3])
        gone = cameras_gone(config, len(frame.images), draw.step, rng)
        images = tuple(None if camera in gone else image for camera, image in enumerate(frame.images))
        if all(image is None for image in images):  # those that stay have none recorded in this frame
            return frame
        return replace(frame, images=images)

    def _inputs(self, frame: Frame, augmentation: Augmentation, distort: PhotometricDistortion) -> ModelInput:
        width, height = self.model.image.input_wh
        pixels = np.zeros((len(frame.images), 3, height, width), np.float32)
        sizes = [None if image is None else (image.shape[1], image.shape[0]) for image in frame.images]
        transforms = [None if size is None else augmentation.transform(size) for size in sizes]
        for camera, (image, transform) in enumerate(zip(frame.images, transforms, strict=True)):
            if transform is None:
                continue
            image = transform.apply(image)
            if self.training.augmentation.photometric:
                image = distort(image)
            normalize(image, self.model.image, out=pixels[camera])
        turned = rotate_world(frame, augmentation.bev_rotation)
        return model_input(turned, transforms, pixels, (width, height))

    def _depth(self, points: np.ndarray, inputs: ModelInput, angle: float) -> list[Tensor]:
        turned = points[:, :3].astype(np.float64) @ rotation_about_z(angle)[:3, :3].T
        maps = depth_maps(
            turned, inputs.projection[0].numpy(), self.model.image.input_wh, max_depth=self.training.losses.max_depth
        )
        return [torch.from_numpy(level)[None] for level in maps]


def training_targets(objects: Objects, bev_rotation: float, config: TrainingConfig) -> Targets:
    """Targets of one sample."""
    boxes, labels, instance_ids = learned_objects(objects, bev_rotation, config)
    return Targets.of([boxes], [labels], [instance_ids])


def learned_objects(objects: Objects, bev_rotation: float, config: TrainingConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Objects turned with the world, within range, of a known class: boxes [n, 9] float32 as in `Objects`, labels [n]
    and instance ids [n] int64."""
    boxes = rotate_boxes(objects.boxes, bev_rotation)
    in_range = np.hypot(boxes[:, 0], boxes[:, 1]) <= config.ground_truth.max_range
    kept = in_range & (objects.labels >= 0)
    boxes = boxes[kept]
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    return (
        torch.from_numpy(boxes.astype(np.float32)),
        torch.from_numpy(objects.labels[kept].astype(np.int64)),
        torch.from_numpy(objects.instance_ids[kept].astype(np.int64)),
    )
