"""The training configurations hold every number of the published ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from golden_data import Golden, golden_parameters

from sparse4d_core.config import PRESETS, preset
from sparse4d_core.training.schedule import TRAINING_CONFIGS, training_config
from sparse4d_core.training.starting_model import build_model

RECORDED = {"v3_r50": "v3_r50", "v2_r50": "v2_r50", "v1_r101_H1": "v1_r101_t1", "v1_r101_H4": "v1_r101_t4"}


@pytest.mark.parametrize(("file", "case"), golden_parameters("configs", list(RECORDED)))
def test_golden(golden, file, case):
    recorded = Golden(golden, file)["configs"][case]
    training, model = training_config(RECORDED[case]), preset(RECORDED[case])
    check_optimizer(recorded, training.optimizer)
    check_schedule(recorded["schedule"] | recorded["fp16"], training.schedule)
    check_matcher_and_losses(recorded["head"], training)
    check_augmentation(recorded, training, model.image)
    check_sampling(recorded["sequence_sampling"], training.sampling)
    truth = recorded["gt_filter"]
    assert training.ground_truth.min_lidar_points == truth["min_lidar_points"]
    assert training.ground_truth.max_range == truth["range_xy_m"]
    mask = recorded["detector"]["grid_mask"]
    assert (training.grid_mask.probability, training.grid_mask.ratio) == (mask["prob"], mask["ratio"])
    assert training.initial_backbone == recorded["backbone"]["init"]
    assert training.activation_checkpointing == recorded["backbone"]["with_cp"]
    if branch := recorded["depth_branch"]:
        assert training.losses.depth_weight == branch["loss_weight"]
        assert training.losses.max_depth == branch["max_depth"]
        assert model.num_depth_layers == branch["num_depth_layers"]


def check_optimizer(recorded, ours):
    optimizer, schedule = recorded["optimizer"], recorded["lr_schedule"]
    assert (ours.lr, ours.weight_decay, ours.eps) == (optimizer["lr"], optimizer["weight_decay"], optimizer["eps"])
    assert list(ours.betas) == optimizer["betas"]
    assert ours.backbone_lr_factor == optimizer["backbone_lr_mult"]
    assert ours.max_grad_norm == optimizer["grad_clip"]["max_norm"]
    assert ours.min_lr_ratio == schedule["min_lr_ratio"]
    assert ours.warmup_iterations == schedule["warmup_iters"]
    assert ours.warmup_ratio == pytest.approx(schedule["warmup_ratio"])


def check_schedule(recorded, ours):
    assert ours.batch_size == recorded["num_gpus"] * recorded["batch_size_per_gpu"]
    assert ours.samples_per_process == recorded["batch_size_per_gpu"]
    assert ours.epochs == recorded["num_epochs"]
    assert ours.checkpoint_every_epochs == recorded["checkpoint_every_epochs"]
    assert ours.iterations == recorded.get("max_iters")
    assert ours.loss_scale == recorded["loss_scale"]


def check_matcher_and_losses(head, training):
    sampler, matcher, losses = head["sampler"], training.matcher, training.losses
    assert (matcher.class_weight, matcher.box_weight) == (sampler["cls_weight"], sampler["box_weight"])
    assert list(matcher.cost_weights) == sampler["reg_weights"]
    assert {str(k): list(v) for k, v in matcher.class_wise_weights} == sampler["cls_wise_reg_weights"]
    focal = head["loss_cls"]
    assert (losses.class_weight, losses.focal_gamma, losses.focal_alpha) == (
        focal["loss_weight"], focal["gamma"], focal["alpha"],
    )  # fmt: skip
    box = head["loss_reg"].get("loss_box", head["loss_reg"])
    assert losses.box_weight == box["loss_weight"]
    assert list(losses.box_weights) == head["reg_weights"]
    assert losses.score_threshold == head["cls_threshold_to_reg"]
    assert list(losses.reversible_classes) == head["loss_reg"].get("cls_allow_reverse", [])
    assert (training.denoising is not None) == ("num_dn_groups" in sampler)
    if training.denoising is not None:
        ours = training.denoising
        assert (ours.num_groups, ours.num_temporal_groups) == (sampler["num_dn_groups"], sampler["num_temp_dn_groups"])
        assert list(ours.noise_scale) == sampler["dn_noise_scale"]
        assert (ours.max_objects, ours.negatives) == (sampler["max_dn_gt"], sampler["add_neg_dn"])


def check_augmentation(recorded, training, image):
    theirs, ours = recorded["augmentation"], training.augmentation
    assert ours.photometric == ("photometric" in theirs)
    assert list(image.input_wh) == recorded["image"]["input_wh"]
    if "resize_lim" not in theirs:
        assert ours.scale_range is None and not ours.flip
        return
    assert list(ours.scale_range) == theirs["resize_lim"]
    assert list(ours.bottom_crop_range) == theirs["bot_pct_lim"]
    assert list(ours.rotation_range_deg) == theirs["rot_lim_deg"]
    assert ours.flip == theirs["rand_flip"]
    assert list(ours.bev_rotation_range) == theirs["bev_rotation_range_rad"]
    assert ours.consistent_over_sequence == theirs["consistent_over_sequence"]


def check_sampling(recorded, ours):
    if "sequences_split_num" in recorded:
        assert ours.splits_per_scene == recorded["sequences_split_num"]
        assert ours.skip_probability == recorded["skip_prob"]
        assert ours.reverse_probability == recorded["sequence_flip_prob"]
    else:
        assert ours.history_frames == recorded["seq_frame"]
        assert list(ours.history_interval_range) == [recorded["min_interval"], recorded["max_interval"]]
        assert ours.max_time_interval == recorded["max_time_interval_s"]


def test_published_models_train_with_the_published_scene_starts():
    """The shipped demo model began every scene without a memory, and so it is run."""
    resets = {name: config.scene_reset for name, config in TRAINING_CONFIGS.items()}
    assert resets.pop("demo") == "clean" and set(resets.values()) == {"reference"}
    for scene_reset, activation_checkpointing in (("reference", True), ("clean", False)):
        training = replace(
            training_config("demo"), scene_reset=scene_reset, activation_checkpointing=activation_checkpointing
        )
        model = build_model(preset("demo"), training, seed=0)
        assert model.scene_reset == scene_reset
        assert model.backbone.activation_checkpointing == activation_checkpointing


def test_every_preset_can_be_trained():
    assert TRAINING_CONFIGS.keys() == PRESETS.keys()
    for name, config in TRAINING_CONFIGS.items():
        assert (config.denoising is not None) == (preset(name).generation == 3)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'v4'.*v3_r50"):
        training_config("v4")
