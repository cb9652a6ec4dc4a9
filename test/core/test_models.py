"""The list of models: every recorded hyper-parameter, what the table says, what a wrong name gets."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from golden_data import Golden, golden_parameters
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sparse4d_core.checkpoint.file import config_from_dict
from sparse4d_core.config import FIXED_KEYPOINTS, PRESETS, Sparse4DConfig, preset
from sparse4d_core.model_io import ModelInput
from sparse4d_core.models import Cost, cost, details, main, num_parameters, table
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training.schedule import TRAINING_CONFIGS, TrainingConfig
from sparse4d_core.types import CLASS_NAMES

RECORDED = {"v3_r50": "v3_r50", "v2_r50": "v2_r50", "v1_r101_H1": "v1_r101_t1", "v1_r101_H4": "v1_r101_t4"}

# Entries that are prose, files of the reference's own machine, or follow from others; everything else is compared.
NOT_COMPARED = (
    "*.note",
    "*.kind",
    "optimizer.paramwise_note",
    "depth_branch.levels",
    "depth_branch.used_at",
    "head.dn_loss_weight",  # "never used"
    "head.instance_bank.anchor",  # file name
    "head.instance_bank.anchor_handler",
    "head.anchor_file",
    "head.gt_cls_key",
    "head.gt_reg_key",
    "gt_keys.*",
    "*.act_cfg.inplace",
    "*.batch_first",
    "*.norm_cfg.type",
    "backbone.with_cp",  # an option of the model here
    "backbone.init",  # text; compared below with the training configuration's text
    "*.shared_by_all_cameras",  # how it is built, tested with the augmentation
    "augmentation.photometric",
    "lr_schedule.policy",
    "lr_schedule.warmup",
    "schedule.runner",
    "schedule.num_gpus",
    "schedule.iters_per_epoch",
    "schedule.batch_size_per_gpu",  # the product is compared
    "schedule.train_samples",
    "sequence_sampling.frames_per_iteration",
    "sequence_sampling.fix_interval",
    "test.test_time_augmentation",
    "test.batch_size",
)  # fmt: skip


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as {"a.b.c": leaf}; lists are leaves."""
    if not isinstance(value, dict) or (not value and prefix):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def plain(value: Any) -> Any:
    """Tuples as lists, so that a value compares with its JSON."""
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def matches(path: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return path.endswith(pattern[1:])
    return path.startswith(pattern[:-1]) if pattern.endswith(".*") else path == pattern


def expected_encoder(config: Sparse4DConfig) -> dict[str, Any]:
    backbone, neck, image = config.backbone, config.neck, config.image
    with_dcn = any(backbone.deformable_stages)
    strides = [2 ** (2 + neck.start_level + level) for level in range(neck.num_levels)]
    values: dict[str, Any] = {
        "backbone.depth": backbone.depth,
        "backbone.num_stages": 4,
        "backbone.frozen_stages": backbone.frozen_stages,
        "backbone.norm_eval": backbone.norm_eval,
        "backbone.style": "caffe" if backbone.stride_on_first_conv else "pytorch",
        "backbone.out_indices": [0, 1, 2, 3],
        "backbone.norm_cfg.requires_grad": not backbone.norm_eval,  # norms that keep their statistics do not train
        "neck.num_outs": neck.num_levels,
        "neck.start_level": neck.start_level,
        "neck.out_channels": config.embed_dims,
        "neck.in_channels": [256, 512, 1024, 2048],
        "neck.output_strides": strides,
        "neck.add_extra_convs": "on_output",
        "neck.relu_before_extra_convs": True,  # without effect on a single extra level: it follows an output
        "detector.use_deformable_op": config.aggregation.sampling == "operator",
        "image.input_wh": image.input_wh,
        "image.original_hw": image.original_wh[::-1],
        "image.norm_mean": image.mean,
        "image.norm_std": image.std,
        "image.to_rgb": image.to_rgb,
    }
    if with_dcn:
        values |= {
            "backbone.stage_with_dcn": backbone.deformable_stages,
            "backbone.dcn.type": "DCNv2",
            "backbone.dcn.deform_groups": 1,
            "backbone.dcn.fallback_on_stride": False,
        }
    if image.crop_top is not None:
        values["image.crop_rows"] = [image.crop_top, image.crop_top + image.input_wh[1]]
    return values


def expected_head(config: Sparse4DConfig) -> dict[str, Any]:
    dims, joined = config.embed_dims, config.aggregation.residual == "cat"
    width = 2 * dims if config.decoupled_attention else dims
    values: dict[str, Any] = {
        "num_keypoints_per_anchor": len(config.aggregation.fixed_points) + config.aggregation.num_learnable_points,
        "head.num_decoder_layers": config.num_decoder_layers,
        "head.norm_layer.normalized_shape": dims,
        "head.ffn.embed_dims": dims,
        "head.ffn.feedforward_channels": config.ffn_hidden,
        "head.ffn.num_fcs": 2,
        "head.ffn.ffn_drop": config.ffn_drop,
        "head.deformable_model.embed_dims": dims,
        "head.deformable_model.num_groups": config.aggregation.num_groups,
        "head.deformable_model.num_levels": config.aggregation.num_levels,
        "head.deformable_model.num_cams": 6,
        "head.deformable_model.kps_generator.num_learnable_pts": config.aggregation.num_learnable_points,
        "head.deformable_model.kps_generator.fix_scale": config.aggregation.fixed_points,
        "head.refine_layer.embed_dims": dims,
        "head.refine_layer.num_cls": len(config.class_names),
        "head.refine_layer.output_dim": 11,
        "head.refine_layer.refine_yaw": config.refine_yaw,
        "head.refine_layer.normalize_yaw": config.normalize_yaw,
        "head.decoder.num_output": config.num_output,
        "head.decoder.score_threshold": config.score_threshold,
        "head.decoder.sorted": True,
        "head.anchor_encoder.vel_dims": config.anchor_encoder.vel_dims,
        "test.tracking": config.tracking,
        "test.tracking_threshold": config.tracking_threshold if config.tracking else None,
        "test.decoder_num_output": config.num_output,
        "operation_order": operation_order(config),
    }
    for graph in ("graph_model", "temp_graph_model") if config.temporal else ("graph_model",):
        values |= {
            f"head.{graph}.embed_dims": width,
            f"head.{graph}.num_heads": config.attention_heads,
            f"head.{graph}.dropout": config.attention_drop,
        }
    encoder = config.anchor_encoder
    if encoder.mode == "cat":
        values |= {
            f"head.anchor_encoder.{k}": getattr(encoder, k) for k in ("mode", "output_fc", "in_loops", "out_loops")
        }
        values["head.anchor_encoder.embed_dims"] = encoder.dims
    else:  # the reference's default: one width for all, added
        values["head.anchor_encoder.embed_dims"] = dims
        assert (set(encoder.dims), encoder.output_fc, encoder.in_loops, encoder.out_loops) == ({dims}, True, 1, 2)
    if config.quality_estimation:
        values["head.refine_layer.with_quality_estimation"] = True
    if config.decoupled_attention:
        values["head.decouple_attn"] = True
    if joined:
        values["head.ffn.in_channels"] = 2 * dims
        values["head.deformable_model.attn_drop"] = config.aggregation.attention_drop
        values["head.deformable_model.residual_mode"] = config.aggregation.residual
        values["head.deformable_model.use_camera_embed"] = config.aggregation.camera_embed
        values["head.deformable_model.use_deformable_func"] = config.aggregation.sampling == "operator"
    else:
        values["head.deformable_model.dropout"] = config.aggregation.output_drop
        assert config.aggregation.attention_drop == 0
    return values | (expected_bank(config) if config.temporal else expected_history(config))


def expected_bank(config: Sparse4DConfig) -> dict[str, Any]:
    bank = "head.instance_bank."
    return {
        bank + "num_anchor": config.num_anchors,
        bank + "embed_dims": config.embed_dims,
        bank + "num_temp_instances": config.temporal.num_instances,
        bank + "confidence_decay": config.temporal.confidence_decay,
        bank + "default_time_interval": config.temporal.default_interval,
        bank + "max_time_interval": config.temporal.max_interval,
        bank + "feat_grad": False,  # the parameters' requires_grad is compared in test_checkpoint.py
        bank + "anchor_grad": True,
        "head.num_single_frame_decoder": config.num_single_frame_layers,
        "depth_branch.embed_dims": config.embed_dims,
        "depth_branch.num_depth_layers": config.num_depth_layers,
        "depth_branch.equal_focal": 100,  # golden values of the depth head are compared with the blocks
    }


def expected_history(config: Sparse4DConfig) -> dict[str, Any]:
    values = {
        "depth_branch": None,
        "head.num_anchor": config.num_anchors,
        "head.num_decoder": config.num_decoder_layers,
        "head.embed_dims": config.embed_dims,
        "head.num_temp_instances": 0,
        "head.default_time_interval": 0.5 if config.history is None else config.history.default_interval,
        "head.kps_generator.fix_scale": FIXED_KEYPOINTS,
        "head.depth_module.embed_dims": config.embed_dims,
    }
    assert config.depth_reweighting
    if config.history is not None:
        values["head.max_queue_length"] = config.history.num_frames
        values["head.deformable_model.temporal_fusion_module"] = {}
    return values


def operation_order(config: Sparse4DConfig) -> list[str]:
    if config.temporal is None:
        return ["gnn", "norm", "deformable", "norm", "ffn", "norm", "refine"] * config.num_decoder_layers
    single = ["deformable", "ffn", "norm", "refine"]
    temporal = ["temp_gnn", "gnn", "norm", *single]
    later = config.num_decoder_layers - config.num_single_frame_layers
    return single * config.num_single_frame_layers + temporal * later


def expected_training(config: Sparse4DConfig, training: TrainingConfig) -> dict[str, Any]:
    matcher, losses, optimizer, schedule = training.matcher, training.losses, training.optimizer, training.schedule
    values: dict[str, Any] = {
        "head.cls_threshold_to_reg": losses.score_threshold,
        "head.sampler.cls_weight": matcher.class_weight,
        "head.sampler.box_weight": matcher.box_weight,
        "head.sampler.reg_weights": matcher.cost_weights,
        "head.loss_cls.use_sigmoid": True,
        "head.loss_cls.gamma": losses.focal_gamma,
        "head.loss_cls.alpha": losses.focal_alpha,
        "head.loss_cls.loss_weight": losses.class_weight,
        "head.reg_weights": losses.box_weights,
        "reg_weights_head": losses.box_weights,
        "detector.use_grid_mask": training.grid_mask is not None,
        "detector.grid_mask.use_h": True,
        "detector.grid_mask.use_w": True,
        "detector.grid_mask.rotate": 1,  # degrees below 1: none
        "detector.grid_mask.offset": False,
        "detector.grid_mask.ratio": training.grid_mask.ratio,
        "detector.grid_mask.mode": 1,
        "detector.grid_mask.prob": training.grid_mask.probability,
        "optimizer.lr": optimizer.lr,
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.betas": optimizer.betas,
        "optimizer.eps": optimizer.eps,
        "optimizer.backbone_lr_mult": optimizer.backbone_lr_factor,
        "optimizer.grad_clip.max_norm": optimizer.max_grad_norm,
        "optimizer.grad_clip.norm_type": 2,
        "lr_schedule.min_lr_ratio": optimizer.min_lr_ratio,
        "lr_schedule.warmup_iters": optimizer.warmup_iterations,
        "lr_schedule.warmup_ratio": optimizer.warmup_ratio,
        "fp16.loss_scale": schedule.loss_scale,
        "schedule.num_epochs": schedule.epochs,
        "schedule.checkpoint_every_epochs": schedule.checkpoint_every_epochs,
        "gt_filter.min_lidar_points": training.ground_truth.min_lidar_points,
        "gt_filter.range_xy_m": training.ground_truth.max_range,
        "gt_filter.velocity_nan_to_zero": True,
    }
    values |= {f"head.sampler.cls_wise_reg_weights.{index}": weights for index, weights in matcher.class_wise_weights}
    if training.denoising is not None:
        denoising = training.denoising
        values |= {
            "head.sampler.num_dn_groups": denoising.num_groups,
            "head.sampler.num_temp_dn_groups": denoising.num_temporal_groups,
            "head.sampler.dn_noise_scale": denoising.noise_scale,
            "head.sampler.max_dn_gt": denoising.max_objects,
            "head.sampler.add_neg_dn": denoising.negatives,
        }
    if config.quality_estimation:
        values |= {
            "head.loss_reg.loss_box.loss_weight": losses.box_weight,
            "head.loss_reg.loss_centerness.use_sigmoid": True,
            "head.loss_reg.cls_allow_reverse": losses.reversible_classes,
        }
    else:
        values["head.loss_reg.loss_weight"] = losses.box_weight
        assert losses.reversible_classes == ()
    if config.temporal is None:
        values |= {
            "sequence_sampling.seq_frame": training.sampling.history_frames,
            "sequence_sampling.min_interval": training.sampling.history_interval_range[0],
            "sequence_sampling.max_interval": training.sampling.history_interval_range[1],
            "sequence_sampling.max_time_interval_s": training.sampling.max_time_interval,
        }
        return values
    augmentation, sampling = training.augmentation, training.sampling
    return values | {
        "depth_branch.loss_weight": losses.depth_weight,
        "depth_branch.max_depth": losses.max_depth,
        "schedule.total_batch": schedule.batch_size,
        "schedule.max_iters": schedule.iterations,
        "augmentation.resize_lim": augmentation.scale_range,
        "augmentation.final_dim_hw": config.image.input_wh[::-1],
        "augmentation.bot_pct_lim": augmentation.bottom_crop_range,
        "augmentation.rot_lim_deg": augmentation.rotation_range_deg,
        "augmentation.rand_flip": augmentation.flip,
        "augmentation.bev_rotation_range_rad": augmentation.bev_rotation_range,
        "augmentation.consistent_over_sequence": augmentation.consistent_over_sequence,
        "sequence_sampling.sequences_split_num": sampling.splits_per_scene,
        "sequence_sampling.keep_consistent_seq_aug": augmentation.consistent_over_sequence,
        "sequence_sampling.skip_prob": sampling.skip_probability,
        "sequence_sampling.sequence_flip_prob": sampling.reverse_probability,
    }


@pytest.mark.parametrize(("file", "case"), golden_parameters("configs", RECORDED))
def test_golden(golden, file, case):
    """Every entry of the recorded configuration is either compared or on the list of those that say nothing."""
    data = Golden(golden, file)
    name = RECORDED[case]
    config, training = preset(name), TRAINING_CONFIGS[name]
    recorded = flatten(data["configs"][case])
    expected = expected_encoder(config) | expected_head(config) | expected_training(config, training)
    wrong, unknown = [], []
    for path, value in recorded.items():
        if path in expected:
            if plain(expected[path]) != value:
                wrong.append(f"{path}: {plain(expected[path])!r} here, {value!r} recorded")
        elif not any(matches(path, pattern) for pattern in NOT_COMPARED):
            unknown.append(f"{path} = {value!r}")
    assert not wrong, wrong
    assert not unknown, f"recorded but not compared: {unknown}"
    assert not (expected.keys() - recorded.keys()), f"compared but not recorded: {expected.keys() - recorded.keys()}"
    schedule = data["configs"][case]["schedule"]
    assert training.schedule.batch_size == schedule["num_gpus"] * schedule["batch_size_per_gpu"]
    assert training.initial_backbone == data["configs"][case]["backbone"]["init"]
    assert config.class_names == CLASS_NAMES == tuple(data["class_order"])


# --- The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    golden_parameters("state_dict_v3_r50", ["v3_r50"]) + golden_parameters("state_dict_v1_r101_H4", ["v1_r101_t4"]),
)
def test_golden_parameters(golden, file, name):
    """As many as the reference's model has."""
    keys = Golden(golden, file)["keys"]
    recorded = {key: entry for key, entry in keys.items() if entry["kind"] == "parameter"}
    expected = sum(math.prod(entry["shape"]) for key, entry in recorded.items() if not key.endswith("fix_scale"))
    with torch.device("meta"):
        model = Sparse4D(preset(name))
    assert num_parameters(model) == expected


def convolution_operations(config: Sparse4DConfig, num_cameras: int) -> int:
    """Two for every output and every weight that it takes, over all convolutions of the encoder."""
    total = 0

    def count(module: nn.Conv2d, _, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model, (width, height) = Sparse4D(config), config.image.input_wh
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        model.image_features(torch.empty(1, num_cameras, 3, height, width))
    return total


@pytest.mark.parametrize("cameras", [6, 12])
def test_encoder_cost_is_that_of_its_convolutions(cameras):
    assert cost(preset("demo"), cameras).encoder_flops == convolution_operations(preset("demo"), cameras)


def test_decoder_cost_is_that_of_a_continuing_frame():
    """Counted while frames with content run. A first frame costs more: instead of the smaller memory it attends to all
    its own instances."""
    config = preset("demo")
    model = Sparse4D(config).eval()
    spent, state = [], None
    for seconds in (0.0, 0.5):
        inputs = six_cameras(config, seconds)
        features = model.image_features(inputs.images)
        # The counter has rules for PyTorch's own products, which run while gradients are kept, and for plain attention.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            _, state = model.decode_features(features, inputs, state)
        spent.append(counter.get_total_flops())
    assert spent[0] > spent[1] == cost(config).decoder_flops


def six_cameras(config: Sparse4DConfig, seconds: float) -> ModelInput:
    width, height = config.image.input_wh
    return ModelInput(
        torch.zeros(1, 6, 3, height, width),
        torch.eye(4).expand(1, 6, 4, 4),
        torch.tensor([float(width), float(height)]).expand(1, 6, 2),
        torch.tensor([seconds], dtype=torch.float64),
        torch.eye(4, dtype=torch.float64)[None],
    )


def test_resnet50_costs_what_is_known():
    """ResNet-50 at 224x224 takes 4.1 G multiply-adds (torchvision); without its classifier, at 256x704, six times."""
    spent = cost(preset("v3_r50"), num_cameras=1)
    neck = (
        2
        * 256
        * sum(
            (channels + 9 * 256) * (64 >> level) * (176 >> level)
            for level, channels in enumerate((256, 512, 1024, 2048))
        )
    )
    per_pixel = (spent.encoder_flops - neck) / 2 / (256 * 704)
    assert per_pixel == pytest.approx(4.09e9 / 224**2, rel=0.01)


def test_one_preset_in_detail(capsys):
    text = details(preset("v1_vov99_t4"), Cost(69_000_000, 2_000_000_000, 3_000_000_000))
    for expected in (
        *("VoVNet-99", "640x1600", "69,000,000", "2.0 GFLOPs images, 3.0 decoder", "NDS 0.595", "grid sampling"),
        *("last 3 frames", *preset("v1_vov99_t4").assumptions),
    ):
        assert expected in text
    assert main(["demo"]) == 0
    assert capsys.readouterr().out == details(preset("demo"), cost(preset("demo"))) + "\n"


def test_everything_as_json(capsys):
    assert main(["demo", "--json", "--cameras", "4"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    spent = cost(preset("demo"), 4)
    assert entry.pop("cost") == {**asdict(spent), "flops": spent.encoder_flops + spent.decoder_flops}
    assert config_from_dict(entry) == preset("demo")


def test_table_lists_every_preset():
    lines = table(list(PRESETS.values()), [Cost(1_500_000, 2_000_000_000, 3_000_000_000)] * len(PRESETS)).splitlines()
    assert [line.split()[0].rstrip("*") for line in lines[1 : 1 + len(PRESETS)]] == list(PRESETS)
    row = next(line for line in lines if line.startswith("v2_r50"))
    for expected in ("256x704", "1.5 M", "5 ", "0.5384", "0.4392", "sparse4dv2_r50_HInf_256x704.pth"):
        assert expected in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["v1_r101_t1", "--cameras", "4"], "--cameras: the weights of v1_r101_t1 are made for 6, got 4"),
        (["demo", "--cameras", "0"], "--cameras: expected a number from 1 on, got 0"),
    ],
    ids=str,
)
def test_numbers_of_cameras_that_a_preset_cannot_have(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_table_for_other_rigs_leaves_out_what_does_not_take_them(capsys, monkeypatch):
    monkeypatch.setattr("sparse4d_core.models.PRESETS", {name: preset(name) for name in ("v1_r101_t1", "demo")})
    assert main(["--cameras", "4"]) == 0
    header, row, *_, note = capsys.readouterr().out.splitlines()
    assert row.startswith("demo") and note == "made for 6 cameras and left out: v1_r101_t1"


def test_unknown_name_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["v4"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "'v4'" in error
    assert all(name in error for name in PRESETS)
    with pytest.raises(ValueError, match="v3_vov99"):
        preset("v4")


def test_presets_that_were_not_released_say_what_they_assume():
    released = set(RECORDED.values()) | {"demo"}
    for name, config in PRESETS.items():
        assert bool(config.assumptions) == (name not in released), name
        assert config.name == name
