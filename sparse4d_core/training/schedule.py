"""How every preset is trained: the published schedules, augmentation, assignment and losses, as plain values.

Each number of the published configurations stands here once; a test compares them with the recorded configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..network.initial_anchors import RANGE
from ..types import CLASS_NAMES

BARRIER, TRAFFIC_CONE = CLASS_NAMES.index("barrier"), CLASS_NAMES.index("traffic_cone")

# Columns of the ten numbers a box is learned with: x y z, log length, log width, log height, sin yaw, cos yaw, vx, vy.
Weights = tuple[float, float, float, float, float, float, float, float, float, float]


@dataclass(frozen=True)
class MatcherConfig:
    """Hungarian assignment between predictions and objects."""

    class_weight: float = 2.0
    box_weight: float = 0.25
    cost_weights: Weights = (2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0)
    # Weights of single classes (their index) in cost and loss: a cone has no heading.
    class_wise_weights: tuple[tuple[int, Weights], ...] = (
        (TRAFFIC_CONE, (2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0)),
    )
    # Cost that an object saves by staying with an instance of the memory, times that instance's confidence, as long as
    # it is this near. Not in the published training. Without it a model whose first layer already finds everything
    # learns to take new instances in every frame, and no track lives longer than one.
    continuity: float = 0.0
    continuity_radius: float = 2.0  # m


@dataclass(frozen=True)
class DenoisingConfig:
    """Noisy copies of the objects as extra queries (v3)."""

    num_groups: int = 5
    num_temporal_groups: int = 3  # groups carried to the next frame
    noise_scale: Weights = (2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)  # in the ten numbers' own units
    max_objects: int = 32  # per sample
    negatives: bool = True


@dataclass(frozen=True)
class LossConfig:
    class_weight: float = 2.0
    focal_gamma: float = 2.0
    focal_alpha: float = 0.25
    box_weight: float = 0.25
    box_weights: Weights = (2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    # Beside `box_weights`: the vertical velocity is learned to be zero, as no data has any. Published: not learned.
    vertical_velocity: float = 0.0
    score_threshold: float = 0.05  # boxes learn only where the largest class probability exceeds it
    reversible_classes: tuple[int, ...] = (BARRIER,)  # front and back look the same
    depth_weight: float = 0.2
    max_depth: float = 60.0  # m


@dataclass(frozen=True)
class AugmentationConfig:
    """Drawn once per sequence and shared by all cameras, except the photometric part."""

    scale_range: tuple[float, float] | None = (0.4, 0.47)  # new pixels per pixel; None: the test-time transform
    bottom_crop_range: tuple[float, float] = (0.0, 0.0)  # fraction of the scaled height dropped below
    rotation_range_deg: tuple[float, float] = (-5.4, 5.4)
    flip: bool = True  # with probability 1/2
    bev_rotation_range: tuple[float, float] = (-0.3925, 0.3925)  # rad, about the model frame's z axis
    photometric: bool = True
    consistent_over_sequence: bool = True
    # Whole cameras are gone, as a node masks them when their images do not come: one entry is drawn for every stretch
    # of a sequence, the number of cameras that it lacks (the same throughout the stretch).
    cameras_gone: tuple[int, ...] = (0,)
    cameras_gone_frames: tuple[int, int] = (2, 12)  # length of a stretch, both ends included


@dataclass(frozen=True)
class GridMaskConfig:
    probability: float = 0.7
    ratio: float = 0.5  # width of the kept stripes relative to their period


@dataclass(frozen=True)
class SamplingConfig:
    """Every slot of the batch walks through its own sequence, frame by frame, with the state carried along (v2, v3)."""

    splits_per_scene: int | Literal["all"] = 2  # "all": every frame on its own, in random order
    skip_probability: float = 0.5  # of a frame within a sequence
    reverse_probability: float = 0.1  # of a sequence being played backwards
    # Seconds from one frame to the next: one entry is drawn for every stretch of a sequence. Empty: the data's own.
    intervals: tuple[float, ...] = ()
    interval_frames: int = 8  # length of a stretch
    # v1 draws independent samples with past key frames instead; the interval is drawn once per sample.
    history_frames: int = 0
    history_interval_range: tuple[int, int] = (1, 1)  # key frames between past frames
    max_time_interval: float = 5.0  # s


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon; weight decay applies to every trainable parameter, norms, biases and anchors included."""

    lr: float = 6e-4
    weight_decay: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    muon_momentum: float | None = None  # None: all parameters are AdamW's, as in the published training
    backbone_lr_factor: float = 0.5
    max_grad_norm: float = 25.0
    warmup_iterations: int = 500
    warmup_ratio: float = 1 / 3  # of the rate at the first iteration
    min_lr_ratio: float = 1e-3  # cosine annealing ends here


@dataclass(frozen=True)
class ScheduleConfig:
    batch_size: int = 48  # samples per optimiser step, over all processes and accumulation steps
    samples_per_process: int = 6  # of them at a time, in the published training: what a batch norm saw together
    iterations: int | None = 58_600  # optimiser steps; None: `epochs` over the data
    epochs: int = 100
    checkpoint_every_epochs: int = 20  # weights that are kept, RUN/epochs/
    loss_scale: float = 32.0  # static, in float16; backbone and neck only, the decoder stays in float32
    ema_decay: float = 0.0  # 0: no moving average of the weights; the published models use none


@dataclass(frozen=True)
class GroundTruthConfig:
    min_lidar_points: int = 1
    max_range: float = RANGE  # m, in x and y


@dataclass(frozen=True)
class TrainingConfig:
    matcher: MatcherConfig = MatcherConfig()
    denoising: DenoisingConfig | None = None
    losses: LossConfig = LossConfig(reversible_classes=())
    augmentation: AugmentationConfig = AugmentationConfig()
    grid_mask: GridMaskConfig | None = GridMaskConfig()
    sampling: SamplingConfig = SamplingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    ground_truth: GroundTruthConfig = GroundTruthConfig()
    # What the first frame of a sequence sees of the one before it in its stream, see `Sparse4D`.
    scene_reset: Literal["reference", "clean"] = "reference"
    activation_checkpointing: bool = True  # the backbone's activations are computed again instead of kept
    initial_backbone: str = "torchvision ImageNet resnet50-19c8e357"
    assumptions: tuple[str, ...] = field(default=())  # what was never published and this preset chose


_V3 = TrainingConfig(denoising=DenoisingConfig(), losses=LossConfig())
_V2 = TrainingConfig(schedule=ScheduleConfig(batch_size=64, samples_per_process=8, iterations=43_900))
_V1_T1 = TrainingConfig(
    matcher=MatcherConfig(
        cost_weights=(2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        class_wise_weights=((TRAFFIC_CONE, (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0)),),
    ),
    augmentation=AugmentationConfig(
        scale_range=None, rotation_range_deg=(0.0, 0.0), flip=False, bev_rotation_range=(0.0, 0.0)
    ),
    sampling=SamplingConfig(splits_per_scene="all", skip_probability=0.0, reverse_probability=0.0),
    optimizer=OptimizerConfig(lr=2e-4, weight_decay=0.01, backbone_lr_factor=0.1, max_grad_norm=35.0),
    schedule=ScheduleConfig(batch_size=8, samples_per_process=1, iterations=None, epochs=24, checkpoint_every_epochs=6),
    initial_backbone="FCOS3D ResNet101-DCN checkpoint loaded into the whole detector (strict=False)",
)
_V1_T4 = replace(
    _V1_T1, sampling=replace(_V1_T1.sampling, history_frames=3, history_interval_range=(1, 2), max_time_interval=5.0)
)


def _as_published_resnet50(config: TrainingConfig, backbone: str, *, scale: tuple[float, float] | None = None):
    augmentation = replace(config.augmentation, scale_range=scale) if scale else config.augmentation
    return replace(
        config,
        augmentation=augmentation,
        initial_backbone=backbone,
        assumptions=("schedule of the ResNet-50 model of the same generation; scale range in proportion to the input",),
    )


TRAINING_CONFIGS: dict[str, TrainingConfig] = {
    "v1_r101_t1": _V1_T1,
    "v1_r101_t4": _V1_T4,
    "v1_vov99_t4": _as_published_resnet50(_V1_T4, "depth-pretrained (DD3D) VoVNet-99"),
    "v2_r50": _V2,
    "v2_r101": _as_published_resnet50(_V2, "nuImages Cascade R-CNN ResNet-101", scale=(0.8, 0.94)),
    "v2_vov99": _as_published_resnet50(_V2, "depth-pretrained (DD3D) VoVNet-99", scale=(0.909, 1.068)),
    "v3_r50": _V3,
    "v3_r101": _as_published_resnet50(_V3, "nuImages Cascade R-CNN ResNet-101", scale=(0.8, 0.94)),
    "v3_vov99": _as_published_resnet50(_V3, "depth-pretrained (DD3D) VoVNet-99", scale=(0.909, 1.068)),
    # From random weights on rendered scenes, on two CPU cores: one fixed rig and little time, so no augmentation (a
    # mirrored image hides which way an object faces), and a moving average of the weights.
    "demo": replace(
        _V3,
        augmentation=AugmentationConfig(
            scale_range=None,
            rotation_range_deg=(0.0, 0.0),
            flip=False,
            bev_rotation_range=(0.0, 0.0),
            photometric=False,  # colours tell the rendered classes apart
            cameras_gone=(0,) * 15 + (1,) * 4 + (2,),
        ),
        grid_mask=None,
        matcher=MatcherConfig(continuity=8.0),
        # Every noisy query costs as much as an instance: five groups would outnumber the instances.
        denoising=DenoisingConfig(num_groups=3, num_temporal_groups=2),
        losses=LossConfig(vertical_velocity=1.0),
        # Frames of 10 Hz, 0.1 to 0.5 s apart: the memory serves a camera at 10 Hz as well as key frames at 2 Hz. None
        # runs backwards: there the same error of a position asks for the opposite change of a velocity.
        sampling=SamplingConfig(
            splits_per_scene=1,
            skip_probability=0.1,
            reverse_probability=0.0,
            intervals=(0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5),
        ),
        optimizer=OptimizerConfig(lr=8e-4, backbone_lr_factor=1.0, warmup_iterations=300, muon_momentum=0.95),
        schedule=ScheduleConfig(batch_size=8, samples_per_process=4, iterations=5_800, ema_decay=0.998),
        scene_reset="clean",
        activation_checkpointing=False,  # a small model on CPUs: time is dearer than memory
        initial_backbone="random",
    ),
}


def for_classes(training: TrainingConfig, class_names: Sequence[str]) -> TrainingConfig:
    """The training of a model whose classes are others than the published: rules of single classes, which name them by
    their position in CLASS_NAMES, go to where the class is in `class_names`, or with the class.
    """
    position = {CLASS_NAMES.index(name): label for label, name in enumerate(class_names) if name in CLASS_NAMES}
    weights = tuple((position[c], w) for c, w in training.matcher.class_wise_weights if c in position)
    reversible = tuple(position[c] for c in training.losses.reversible_classes if c in position)
    return replace(
        training,
        matcher=replace(training.matcher, class_wise_weights=weights),
        losses=replace(training.losses, reversible_classes=reversible),
    )


def training_config(name: str) -> TrainingConfig:
    """The training configuration of a preset.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in TRAINING_CONFIGS:
        raise ValueError(f"model: unknown preset {name!r}; expected one of {', '.join(TRAINING_CONFIGS)}")
    return TRAINING_CONFIGS[name]
