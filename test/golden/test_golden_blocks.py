"""Blocks of the networks in isolation, all generations: weights by the rule, tag of the case as prefix."""

from __future__ import annotations

from itertools import count, takewhile
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_data import Golden, fill, golden_parameters
from torch import Tensor

from cuda_ops import flatten_maps
from sparse4d_core.config import AggregationConfig, AnchorEncoderConfig
from sparse4d_core.geometry import elapsed, project, project_anchors
from sparse4d_core.inference.decode import best_instances, detections_of
from sparse4d_core.model_io import ModelInput
from sparse4d_core.network.aggregation import (
    CameraFeatures,
    DeformableAggregation,
    gather_points,
)
from sparse4d_core.network.decoder_v1 import DepthReweighting, HistoryAggregation, PastView, TemporalFusion
from sparse4d_core.network.keypoints import KeypointGenerator, move_to_past
from sparse4d_core.network.layers import AnchorEncoder, DepthHead, FeedForward
from sparse4d_core.network.refinement import Refinement
from sparse4d_core.network.state import PastFrame

ATOL = RTOL = 1e-5  # golden README, section 5
AGGREGATION_ATOL = 3e-5  # another order of summation alone gives 1e-5

V1_V2 = ("enc", "kps", "refine", "fusion", "fusion_notw", "depthrw", "dec_plain", "dec_thr")
HISTORY = ("dfa_q3", "dfa_q0_temp", "dfa_q2_nofusion", "dfa_q1_noenc", "dfa_q0_plain")
V3 = (
    *("enc_cat", "enc_add", "enc_small", "enc_novel", "kps", "kps_fixonly", "anchor_proj", "project", "sampling"),
    *("format", "dfa_cat", "dfa_add_nocam", "refine_v3", "refine_v1", "refine_normyaw", "refine_nocls", "depthnet"),
    *("ffn_v3", "ffn_plain", "ffn_noid", "dec_plain", "dec_quality", "dec_ids_quality", "dec_ids", "dec_thr_quality"),
    *("dec_thr_ids_quality", "dec_thr_plain"),
)
CASES = golden_parameters("blocks_v3", V3) + [
    parameter for file in ("blocks_v2", "blocks_v1") for parameter in golden_parameters(file, V1_V2 + HISTORY)
]


class Case:
    """The arrays and constructor arguments of one tag."""

    def __init__(self, data: Golden, tag: str):
        arguments = data.json("constructor_args_json")
        longer = tuple(f"{other}_" for other in arguments if other.startswith(f"{tag}_"))
        if not [key for key in data.keys(f"{tag}_") if not key.startswith(longer)]:
            pytest.skip(f"the folder's file does not hold this case: {tag}")
        self.data, self.tag = data, tag
        self.args: dict[str, Any] = arguments.get(tag, {})

    def __getitem__(self, name: str) -> Tensor:
        return self.data.tensor(f"{self.tag}_{name}")

    def __contains__(self, name: str) -> bool:
        return f"{self.tag}_{name}" in self.data

    def fill(self, block: torch.nn.Module, suffix: str = "") -> Any:
        return fill(block, int(self.data["weight_seed"]), f"{self.tag}{suffix}.")

    def check(self, name: str, actual, atol: float = ATOL, rtol: float = RTOL) -> None:
        self.data.check(f"{self.tag}_{name}", actual, atol, rtol)

    def maps(self, prefix: str = "feat") -> list[Tensor]:
        numbers = takewhile(lambda level: f"{prefix}{level}" in self, count())
        return [self[f"{prefix}{level}"] for level in numbers]


@pytest.mark.parametrize(("file", "tag"), CASES)
def test_golden(golden, file, tag):
    case = Case(Golden(golden, file), tag)
    kind = tag.split("_")[0]
    check = globals()[f"check_{kind if tag not in ('kps_fixonly', 'anchor_proj') else tag}"]
    with torch.inference_mode():
        check(case)


def anchor_encoder(args: dict[str, Any]) -> AnchorEncoder:
    """The defaults are those of v1 and v2."""
    dims = args["embed_dims"]
    return AnchorEncoder(
        AnchorEncoderConfig(
            dims=(dims,) * 4 if isinstance(dims, int) else tuple(dims),
            mode=args.get("mode", "add"),
            output_fc=args.get("output_fc", True),
            in_loops=args.get("in_loops", 1),
            out_loops=args.get("out_loops", 2),
            vel_dims=args["vel_dims"],
        )
    )


def check_enc(case: Case) -> None:
    case.check("output", case.fill(anchor_encoder(case.args))(case["box_3d"]))


def check_kps(case: Case) -> None:
    args, anchor = case.args, case["anchor"]
    block = case.fill(KeypointGenerator(args["embed_dims"], args["num_learnable_pts"], args["fix_scale"]))
    points = block(anchor, case["instance_feature"])
    case.check("key_points", points)
    intervals = [elapsed(case["cur_timestamp"], past) for past in case["temp_timestamps"]]
    past = list(zip(case["T_cur2temp"], intervals, strict=True))
    case.check("temp_key_points", torch.stack([move_to_past(points, anchor, T, dt) for T, dt in past]))
    if "projected_anchors" in case:
        case.check("projected_anchors", torch.stack([project_anchors(anchor, T, dt) for T, dt in past]))


def check_kps_fixonly(case: Case) -> None:
    points = case.args["fix_scale"] or [[0.0, 0.0, 0.0]]
    block = KeypointGenerator(0, case.args["num_learnable_pts"], points)
    case.check("key_points", block(case["anchor"]))


def check_anchor_proj(case: Case) -> None:
    anchor, T = case["anchor"], case["T_src2dst"]
    interval = elapsed(case["src_timestamp"], case["dst_timestamp"])
    case.check("out_time_intervals", project_anchors(anchor, T, case["time_intervals_neg"], swap_yaw=True))
    case.check("out_timestamps", project_anchors(anchor, T, interval, swap_yaw=True))
    case.check("out_notime", project_anchors(anchor, T, swap_yaw=True))


def check_project(case: Case) -> None:
    points, projection = case["key_points"], case["projection_mat"]
    # Points behind a camera land up to 1e8 pixels away: compared relatively.
    case.check("points_2d", project(points, projection, case["image_wh"]))
    case.check("points_2d_pixels", project(points, projection))


def check_sampling(case: Case) -> None:
    """Recorded for every camera and level alone: all weight on one of them at a time."""
    location = project(case["key_points"], case["projection_mat"], case["image_wh"])
    maps, (batch, cameras, anchors, points, _) = case.maps(), location.shape
    features = []
    for camera in range(cameras):
        for level in range(len(maps)):
            weights = torch.zeros(batch, anchors, cameras, len(maps), points, 1)
            weights[:, :, camera, level] = 1
            features.append(gather_points(maps, location, weights))
    case.check("features", torch.stack(features, dim=2).unflatten(2, (cameras, len(maps))))


def check_format(case: Case) -> None:
    features, shapes, starts = flatten_maps(case.maps())
    case.check("mc_ms_feat", features, 0, 0)
    case.check("spatial_shape", torch.tensor(shapes))
    case.check("scale_start_index", torch.tensor(starts))


def aggregation_config(args: dict[str, Any], **changes) -> AggregationConfig:
    points = args["kps_generator"]
    return AggregationConfig(
        num_groups=args["num_groups"],
        num_levels=args["num_levels"],
        num_learnable_points=points["num_learnable_pts"],
        fixed_points=tuple(map(tuple, points["fix_scale"])),
        camera_embed=args.get("use_camera_embed", False),
        residual=args.get("residual_mode", "add"),
        **changes,
    )


def check_dfa(case: Case) -> None:
    if case.data.name != "blocks_v3":
        return check_history(case)
    dims, cams = case.args["embed_dims"], case.args["num_cams"]
    feature, anchor, embed = case["instance_feature"], case["anchor"], case["anchor_embed"]
    cameras = CameraFeatures(case.maps(), case["projection_mat"], case["image_wh"])
    for sampling, output in (("operator", "output_op"), ("grid_sample", "output_gridsample")):
        block = case.fill(DeformableAggregation(dims, aggregation_config(case.args, sampling=sampling), cams))
        case.check(output, block(feature, anchor, embed, cameras), AGGREGATION_ATOL)
    case.check("attn_weights", block.attention_weights(feature + embed, cameras))
    case.check("key_points", block.kps_generator(anchor, feature))


def check_history(case: Case) -> None:
    """`t0` is the present, `t1`... are past frames, most recent first."""
    args, dims = case.args, case.args["embed_dims"]
    config = aggregation_config(args, sampling="grid_sample")
    block = case.fill(HistoryAggregation(dims, config, fuse=args["temporal_fusion"] is not None))
    depth = case.fill(DepthReweighting(dims), "_depth") if args["depth_module"] else None
    encoder = case.fill(anchor_encoder(args["anchor_encoder"]), "_enc") if args["anchor_encoder"] else None
    frames = [recorded_frame(case, t) for t in range(args["queue"] + 1)]
    cameras, now = frames[0]
    past = [PastView.of(PastFrame.of(*frame), now) for frame in frames[1:]]
    output = block(case["instance_feature"], case["anchor"], case["anchor_embed"], cameras, past, depth, encoder)
    case.check("output", output, AGGREGATION_ATOL)


def recorded_frame(case: Case, t: int) -> tuple[CameraFeatures, ModelInput]:
    names = ("projection_mat", "timestamp", "T_global")
    projection, timestamp, T_global = (case[f"t{t}_{name}"] for name in names)
    cameras = CameraFeatures(case.maps(f"t{t}_feat"), projection, case["image_wh"])
    return cameras, ModelInput(torch.empty(0), projection, case["image_wh"], timestamp, T_global)


def check_refine(case: Case) -> None:
    args = case.args
    block = Refinement(
        args["embed_dims"],
        args["num_cls"] if args.get("with_cls_branch", True) else 0,
        args["output_dim"],
        refine_yaw=args.get("refine_yaw", False),
        normalize_yaw=args.get("normalize_yaw", False),
        quality=args.get("with_quality_estimation", False),
    )
    case.fill(block)
    feature, embed = case["instance_feature"], case["anchor_embed"]
    case.check("output", block(feature, case["anchor"], embed, case["time_interval"]))
    if "cls" in case:
        logits, quality = block.classify(feature, embed)
        case.check("cls", logits)
        assert (quality is None) == ("quality" not in case)
        if quality is not None:
            case.check("quality", quality)


def check_depthnet(case: Case) -> None:
    args = case.args
    block = case.fill(DepthHead(args["embed_dims"], args["num_depth_layers"], args["equal_focal"]))
    maps = case.maps()
    for name, focal in (("depth", case["focal"]), ("depth_nofocal", None)):
        for level, depth in enumerate(block(maps, focal)):
            case.check(f"{name}{level}", depth)


def check_ffn(case: Case) -> None:
    args = case.args
    skip = "identity" if args["feedforward_channels"] == args["embed_dims"] else "linear"
    block = FeedForward(
        args["in_channels"],
        args["embed_dims"],
        args["feedforward_channels"],
        args["num_fcs"],
        args.get("ffn_drop", 0.0),
        pre_norm=args["pre_norm"] is not None,
        skip=skip if args.get("add_identity", True) else "none",
    )
    case.check("output", case.fill(block)(case["input"]))


def check_fusion(case: Case) -> None:
    args = case.args
    decay = args.get("alpha", 0.9) if args["enable_temporal_weight"] else None
    block = case.fill(TemporalFusion(args["embed_dims"], decay, args.get("beta", 10)))
    case.check("output", block(case["feature_1"], case["feature_2"], case["time_interval"]))


def check_depthrw(case: Case) -> None:
    args = case.args
    block = DepthReweighting(
        args["embed_dims"], args["min_depth"], args["max_depth"], args["depth_interval"], args["ffn_layers"]
    )
    case.fill(block)
    anchor = case["points_3d"].squeeze(2)
    case.check("confidence", block.confidence(case["features"], anchor))
    case.check("output", block(case["features"], anchor))


def check_dec(case: Case) -> None:
    inputs = case if "cls" in case else Case(case.data, "dec")  # v1, v2: all cases share their inputs
    best = best_instances(
        inputs["cls"],
        inputs["box"],
        inputs["quality"] if "quality" in inputs else None,
        inputs["instance_id"] if "instance_id" in inputs else None,
        case.args["num_output"],
    )
    for b, detections in enumerate(detections_of(best, case.args.get("score_threshold"))):
        names = {"boxes": "boxes_3d", "scores": "scores_3d", "labels": "labels_3d"}
        names |= {"class_scores": "cls_scores", "ids": "instance_ids"}
        for ours, theirs in names.items():
            value = getattr(detections, ours)
            assert (value is None) == (f"out{b}_{theirs}" not in case)
            if value is not None:
                case.check(f"out{b}_{theirs}", value)


def test_summing_per_level_equals_summing_samples():
    """`gather_points` adds levels one by one; the definition is the weighted sum over all samples."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    maps = [random(2, 3, 8, 6, 9), random(2, 3, 8, 3, 5)]
    location, weights = random(2, 3, 7, 4, 2) * 1.4 - 0.2, random(2, 7, 3, 2, 4, 2)
    grid = (location * 2 - 1).flatten(0, 1)
    sampled = [F.grid_sample(level.flatten(0, 1), grid, align_corners=False) for level in maps]  # [B * N, C, A, P]
    samples = torch.stack(sampled, dim=1).unflatten(0, (2, 3)).unflatten(3, (2, 4))  # [B, N, L, G, C / G, A, P]
    expected = (samples * weights.permute(0, 2, 3, 5, 1, 4).unsqueeze(4)).sum((1, 2)).flatten(1, 2).permute(0, 2, 3, 1)
    np.testing.assert_allclose(gather_points(maps, location, weights), expected, rtol=1e-5, atol=1e-6)
