"""Configuration of every model: frozen dataclasses with units, and one named preset per published model.

No inheritance and no registry: a preset is a value, and ``dataclasses.replace`` makes variants of it.
Training schedules and augmentation live in ``training/config.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .types import CLASS_NAMES

# Seven points of a box in units of its size: the centre, and 0.9 of the way to each face.
FIXED_KEYPOINTS = (
    (0.0, 0.0, 0.0),
    (0.45, 0.0, 0.0), (-0.45, 0.0, 0.0),
    (0.0, 0.45, 0.0), (0.0, -0.45, 0.0),
    (0.0, 0.0, 0.45), (0.0, 0.0, -0.45),
)  # fmt: skip


@dataclass(frozen=True)
class ImageConfig:
    """From camera image to network input. The published geometry: scale, then keep the lower part (crop the sky)."""

    input_wh: tuple[int, int]  # pixels
    original_wh: tuple[int, int] = (1600, 900)  # pixels; other image sizes are scaled to fill `input_wh` the same way
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # in the channel order fed to the network
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    to_rgb: bool = True  # images arrive BGR
    crop_top: int | None = None  # v1: no scaling, rows [crop_top, crop_top + H); None: scale to width, crop the top


@dataclass(frozen=True)
class BackboneConfig:
    kind: Literal["resnet", "vovnet"] = "resnet"
    depth: int = 50
    base_width: int = 64  # channels of the first stage
    stride_on_first_conv: bool = False  # "caffe" style bottleneck (v1)
    deformable_stages: tuple[bool, bool, bool, bool] = (False, False, False, False)  # DCNv2 3x3 convolutions
    frozen_stages: int = -1  # stem and stages 1..n get no gradient
    norm_eval: bool = False  # batch norm keeps its running statistics in training


@dataclass(frozen=True)
class NeckConfig:
    start_level: int = 0  # first backbone stage used
    num_levels: int = 4  # levels out; extra ones are stride-2 convolutions on the last output


@dataclass(frozen=True)
class AnchorEncoderConfig:
    dims: tuple[int, int, int, int]  # widths for position, size, yaw, velocity
    mode: Literal["cat", "add"] = "cat"
    output_fc: bool = False
    in_loops: int = 1
    out_loops: int = 4
    vel_dims: int = 3


@dataclass(frozen=True)
class AggregationConfig:
    num_groups: int = 8
    num_levels: int = 4
    num_learnable_points: int = 6
    fixed_points: tuple[tuple[float, float, float], ...] = FIXED_KEYPOINTS
    sampling: Literal["operator", "grid_sample"] = "operator"  # they differ at the image border; v1 uses grid_sample
    camera_embed: bool = True
    residual: Literal["cat", "add"] = "cat"
    attention_drop: float = 0.15
    output_drop: float = 0.0


@dataclass(frozen=True)
class TemporalConfig:
    """Recurrent instances (v2, v3)."""

    num_instances: int = 600
    confidence_decay: float = 0.6
    default_interval: float = 0.5  # s
    max_interval: float = 2.0  # s; a longer gap is a new scene
    swap_yaw_on_projection: bool = False  # v3's published weights expect (cos, sin) written into the (sin, cos) slots
    # The memory works alike at any frame rate: velocities are corrected over `default_interval` whatever the time since
    # the last frame was, and confidences decay by `confidence_decay` in that time. The published models divide by the
    # measured interval and decay from frame to frame.
    rate_invariant: bool = False


@dataclass(frozen=True)
class HistoryConfig:
    """Queue of past frames' features (v1)."""

    num_frames: int = 3
    default_interval: float = 0.5  # s
    decay: float = 0.9  # weight of a past frame: decay ** (10 * |dt|)
    measured_interval: bool = True  # velocities over the time since the newest past frame, else over default_interval
    max_interval: float = 2.0  # s; with clean scene resets a longer gap drops the history


@dataclass(frozen=True)
class Published:
    """Figures from the papers' tables (nuScenes), to compare with; None where not published."""

    split: str = "val"
    nds: float | None = None
    map: float | None = None
    amota: float | None = None
    checkpoint: str | None = None  # file name of the public release
    note: str = ""


@dataclass(frozen=True)
class Sparse4DConfig:
    name: str
    generation: Literal[1, 2, 3]
    image: ImageConfig
    backbone: BackboneConfig = BackboneConfig()
    neck: NeckConfig = NeckConfig()
    embed_dims: int = 256
    class_names: tuple[str, ...] = CLASS_NAMES
    num_anchors: int = 900
    num_decoder_layers: int = 6
    num_single_frame_layers: int = 1
    anchor_encoder: AnchorEncoderConfig = AnchorEncoderConfig(dims=(128, 32, 32, 64))
    aggregation: AggregationConfig = AggregationConfig()
    attention_heads: int = 8
    attention_drop: float = 0.1
    decoupled_attention: bool = True  # v3: feature and embedding side by side, twice the width
    ffn_hidden: int = 1024
    ffn_drop: float = 0.1
    refine_yaw: bool = True
    normalize_yaw: bool = False
    quality_estimation: bool = True
    depth_reweighting: bool = False  # v1
    temporal: TemporalConfig | None = TemporalConfig(swap_yaw_on_projection=True)
    history: HistoryConfig | None = None
    num_depth_layers: int = 3  # dense depth heads for training; 0 = none
    num_output: int = 300
    score_threshold: float | None = None
    tracking: bool = True
    tracking_threshold: float = 0.2
    # The weights were trained to give it; others publish 0 (nuScenes annotates none, published training leaves it out).
    vertical_velocity: bool = False
    # Two boxes of one class are one object where their centres are nearer than this share of their mean shorter side;
    # the weaker one is left out. None: all are published, as the published protocol has it.
    min_separation: float | None = None
    published: Published = field(default_factory=Published)
    assumptions: tuple[str, ...] = ()  # what the papers leave open and this preset chose


_V1_IMAGE = ImageConfig((1600, 640), mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), to_rgb=False, crop_top=260)
_R101_DCN = BackboneConfig(
    depth=101, stride_on_first_conv=True, deformable_stages=(False, False, True, True), frozen_stages=1, norm_eval=True
)
_VOV99 = BackboneConfig("vovnet", depth=99)
_VOV_ASSUMPTIONS = (
    "stages 2 to 5 (strides 4 to 32) feed a four-level FPN",
    "norm layers train; none frozen",
    "image normalisation of the ResNet preset of the same generation",
)

_V3_R50 = Sparse4DConfig(
    name="v3_r50",
    generation=3,
    image=ImageConfig((704, 256)),
    published=Published("val", 0.5637, 0.4646, 0.477, "sparse4dv3_r50.pth", "19.8 frames/s on an RTX 3090"),
)
_V2_R50 = Sparse4DConfig(
    name="v2_r50",
    generation=2,
    image=ImageConfig((704, 256)),
    anchor_encoder=AnchorEncoderConfig(dims=(256, 256, 256, 256), mode="add", output_fc=True, out_loops=2),
    decoupled_attention=False,
    quality_estimation=False,
    temporal=TemporalConfig(),
    tracking=False,
    published=Published("val", 0.5384, 0.4392, None, "sparse4dv2_r50_HInf_256x704.pth", "20.3 frames/s on an RTX 3090"),
)
_V1_R101_T1 = Sparse4DConfig(
    name="v1_r101_t1",
    generation=1,
    image=_V1_IMAGE,
    backbone=_R101_DCN,
    neck=NeckConfig(start_level=1),
    anchor_encoder=AnchorEncoderConfig(dims=(256, 256, 256, 256), mode="add", output_fc=True, out_loops=2),
    aggregation=AggregationConfig(
        sampling="grid_sample", camera_embed=False, residual="add", attention_drop=0.0, output_drop=0.1
    ),
    decoupled_attention=False,
    ffn_hidden=512,
    refine_yaw=False,
    quality_estimation=False,
    depth_reweighting=True,
    temporal=None,
    num_depth_layers=0,
    tracking=False,
    published=Published("val", note="single frame; neither figures nor weights were released"),
)
_V1_R101_T4 = replace(
    _V1_R101_T1,
    name="v1_r101_t4",
    history=HistoryConfig(),
    published=Published("val", 0.5438, 0.4409, None, "sparse4dv1_r101_H4_release.pth", "2.9 frames/s on an RTX 3090"),
)

PRESETS: dict[str, Sparse4DConfig] = {
    config.name: config
    for config in (
        _V1_R101_T1,
        _V1_R101_T4,
        replace(
            _V1_R101_T4,
            name="v1_vov99_t4",
            backbone=_VOV99,
            neck=NeckConfig(),
            published=Published("test", 0.595, 0.511),
            assumptions=_VOV_ASSUMPTIONS,
        ),
        _V2_R50,
        replace(
            _V2_R50,
            name="v2_r101",
            image=ImageConfig((1408, 512)),
            backbone=BackboneConfig(depth=101),
            published=Published("val", 0.5939, 0.5051, note="8.4 frames/s on an RTX 3090; nuImages pre-training"),
            assumptions=("everything but backbone depth and image size as v2_r50",),
        ),
        replace(
            _V2_R50,
            name="v2_vov99",
            image=ImageConfig((1600, 640)),
            backbone=_VOV99,
            published=Published("test", 0.638, 0.556),
            assumptions=_VOV_ASSUMPTIONS,
        ),
        _V3_R50,
        replace(
            _V3_R50,
            name="v3_r101",
            image=ImageConfig((1408, 512)),
            backbone=BackboneConfig(depth=101),
            published=Published("val", 0.623, 0.537, 0.567, note="8.2 frames/s on an RTX 3090; nuImages pre-training"),
            assumptions=("everything but backbone depth and image size as v3_r50",),
        ),
        replace(
            _V3_R50,
            name="v3_vov99",
            image=ImageConfig((1600, 640)),
            backbone=_VOV99,
            published=Published("test", 0.656, 0.570, 0.574),
            assumptions=_VOV_ASSUMPTIONS,
        ),
        # Small enough for ten frames per second on two CPU cores; for rendered scenes of 704x396 pixels.
        Sparse4DConfig(
            name="demo",
            generation=3,
            image=ImageConfig((352, 128), original_wh=(704, 396)),
            backbone=BackboneConfig(depth=18, base_width=32),
            neck=NeckConfig(start_level=1, num_levels=3),  # strides 8 to 32
            embed_dims=128,
            num_anchors=256,
            num_decoder_layers=3,
            anchor_encoder=AnchorEncoderConfig(dims=(64, 16, 16, 32), out_loops=2),
            # Its training is short and takes place on CPUs: no dropout.
            aggregation=AggregationConfig(num_groups=4, num_levels=3, attention_drop=0.0),
            attention_drop=0.0,
            ffn_drop=0.0,
            attention_heads=4,
            ffn_hidden=256,
            # New weights need not repeat the published slip of projecting (sin, cos) as (cos, sin).
            temporal=TemporalConfig(num_instances=128, rate_invariant=True),
            vertical_velocity=True,
            min_separation=1.0,  # its training leaves 0.09 pairs a set
            num_depth_layers=0,  # rendered scenes have no lidar
            num_output=128,
            published=Published("rendered scenes"),
        ),
    )
}


def preset(name: str) -> Sparse4DConfig:
    """The named preset.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"model: unknown preset {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
