"""Augmentation, sampling, grid mask and depth maps against recorded draws and results."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import MODEL, TRAINING, TinyWorld

from sparse4d_core.config import preset
from sparse4d_core.preprocess import ImageTransform, model_input, preprocess, test_time_transform
from sparse4d_core.training.batches.augment import (
    PhotometricDistortion,
    cameras_gone,
    draw_augmentation,
    rotate_boxes,
    rotate_world,
)
from sparse4d_core.training.batches.depth_maps import DEPTH_STRIDES, depth_maps
from sparse4d_core.training.batches.sampler import Draw, SequenceSampler, sequence_ids
from sparse4d_core.training.batches.samples import TrainingSamples, learned_objects
from sparse4d_core.training.objective.grid_mask import Grid
from sparse4d_core.training.schedule import AugmentationConfig, GridMaskConfig, SamplingConfig, training_config
from sparse4d_core.types import Frame


class Objects:
    def __init__(self, boxes, labels, instance_ids):
        self.boxes, self.labels, self.instance_ids = boxes, labels, instance_ids


def recorded_frame(data: Golden, T_cam_from_model=None) -> Frame:
    cameras = len(data["cal_intrinsic_f64"])
    T = np.tile(np.eye(4), (cameras, 1, 1)) if T_cam_from_model is None else T_cam_from_model
    stamp = round(float(data["cal_timestamp_f64"]) * 1e9)
    return Frame((None,) * cameras, data["cal_intrinsic_f64"], T, data["cal_lidar2global_f64"], stamp)


CASES = ["aug_train", "photometric", "depth", "rot3d", "final", "sequences", "sampler"]


@pytest.mark.parametrize(("file", "case"), golden_parameters("preprocess", CASES))
def test_golden(golden, file, case):
    data = Golden(golden, file)
    globals()[f"check_{case}"](data)


def check_aug_train(data: Golden) -> None:
    meta = data.json("meta_json")
    rng = np.random.RandomState(meta["aug_train_seed"])
    config, image = training_config("v3_r50").augmentation, preset("v3_r50").image
    for expected in meta["aug_train_samples"]:
        drawn = draw_augmentation(config, image, rng)
        assert drawn.transform((1600, 900)) == transform_of(expected)
        assert drawn.bev_rotation == expected["rotate_3d"]


def check_photometric(data: Golden) -> None:
    for i, seed in enumerate(data.json("meta_json")["photo_seeds"]):
        distort = PhotometricDistortion(np.random.RandomState(seed))
        images = np.stack([distort(data["photo_input"]) for _ in data[f"photo{i}_image"]])
        data.check(f"photo{i}_image", images, atol=1e-3)


def check_depth(data: Golden) -> None:
    expected = [data[f"depth_map{level}"] for level in range(len(DEPTH_STRIDES))]
    height, width = (size * DEPTH_STRIDES[0] for size in expected[0].shape[1:])
    maps = depth_maps(data["depth_points"], data["depth_lidar2img_f64"], (width, height))
    for level, values in enumerate(maps):
        data.check(f"depth_map{level}", values, atol=1e-4)


def check_rot3d(data: Golden) -> None:
    angle = float(data["rot3d_angle"])  # recorded in float32
    frame = rotate_world(recorded_frame(data, data["depth_lidar2img_f64"]), angle)
    data.check("rot3d_lidar2img_f64", frame.T_cam_from_model, atol=1e-4, rtol=1e-7)
    data.check("rot3d_lidar2global_f64", frame.T_global_from_model, atol=1e-6)
    data.check("rot3d_boxes_f64", rotate_boxes(data["gt_loaded_boxes_f64"], angle), atol=1e-5)


def check_final(data: Golden) -> None:
    """The last step: within range, yaw wrapped, float32; calibration of the rotated world."""
    objects = Objects(data["gt_loaded_boxes_f64"], data["gt_loaded_labels"], data["gt_loaded_instance_inds"])
    angle = float(data["rot3d_angle"])
    boxes, labels, ids = learned_objects(objects, angle, training_config("v3_r50"))
    order = np.argsort(ids.numpy())
    expected_order = np.argsort(data["final_instance_id"])
    data.check("final_boxes", boxes[order], 1e-5, expected=data["final_boxes"][expected_order])
    data.check("final_labels", labels[order], 0, expected=data["final_labels"][expected_order])
    data.check("final_instance_id", ids[order], 0, expected=data["final_instance_id"][expected_order])
    intrinsics = np.tile(np.eye(4), (len(data["cal_intrinsic_f64"]), 1, 1))
    intrinsics[:, :3, :3] = data["cal_intrinsic_f64"]
    T_cam_from_lidar = np.linalg.inv(intrinsics) @ data["cal_lidar2img_f64"]
    frame = rotate_world(recorded_frame(data, T_cam_from_lidar), angle)
    transform = transform_of(data.json("meta_json")["ida_configs"]["test"])
    width, height = transform.output_wh
    pixels = np.zeros((len(intrinsics), 3, height, width), np.float32)
    inputs = model_input(frame, [transform] * len(intrinsics), pixels, (width, height))
    data.check("final_projection_mat", inputs.projection[0], atol=1e-4, rtol=1e-6)
    data.check("final_image_wh", inputs.image_wh[0], atol=0)
    data.check("final_focal", inputs.focal[0], atol=1e-4)
    # The recorded rotation is rounded to float32, and the world's origin is more than a kilometre away.
    data.check("final_T_global_f64", frame.T_global_from_model, atol=1e-5)
    data.check("final_T_global_inv_f64", np.linalg.inv(frame.T_global_from_model), atol=1e-5)


def transform_of(record: dict) -> ImageTransform:
    return ImageTransform(record["resize"], tuple(record["crop"]), record["flip"], record["rotate"])


def check_sequences(data: Golden) -> None:
    record = data.json("meta_json")["seqflag"]
    for name in [key for key in record if key.startswith("split_")]:
        splits = name.removeprefix("split_")
        assert sequence_ids(record["num_sweeps"], splits if splits == "all" else int(splits)) == record[name]


def check_sampler(data: Golden) -> None:
    record = data.json("meta_json")["sampler"]
    config = SamplingConfig(skip_probability=record["skip_prob"], reverse_probability=record["sequence_flip_prob"])
    for run in record["runs"]:
        # The reference draws all slots of a process from one generator.
        random = [np.random.RandomState(record["numpy_seed"])] * record["batch_size"]
        sampler = SequenceSampler(
            record["flag"], record["batch_size"], config, record["seed"], run["rank"], record["world_size"], random
        )
        for batch in run["batches"]:
            assert [[draw.index, draw.sequence_number] for draw in sampler.draw()] == batch


@pytest.mark.parametrize(("file", "case"), golden_parameters("blocks_v3", [f"gridmask{i}" for i in range(4)]))
def test_golden_grid_mask(golden, file, case):
    data = Golden(golden, file)
    if f"{case}_mask" not in data:
        pytest.skip(f"the folder's file does not hold this case: {case}")
    config = GridMaskConfig()
    height, width = data[f"{case}_mask"].shape
    period = int(data[f"{case}_d"])
    grid = Grid(period, int(data[f"{case}_l"]), (int(data[f"{case}_st_h"]), int(data[f"{case}_st_w"])))
    assert grid.stripe == min(max(int(period * config.ratio + 0.5), 1), period - 1)
    applied = float(data[f"{case}_u"]) <= config.probability
    mask = grid.mask(height, width) if applied else np.ones((height, width), bool)
    data.check(f"{case}_mask", mask.astype(np.uint8), 0)


def test_grid_mask_is_drawn_as_often_as_configured():
    rng = np.random.RandomState(0)
    drawn = [Grid.draw(48, GridMaskConfig(), rng) is not None for _ in range(2000)]
    assert abs(np.mean(drawn) - 0.7) < 0.04


@settings(max_examples=25, deadline=None)
@given(angle=st.floats(-3.1, 3.1), seed=st.integers(0, 1000))
def test_a_turned_world_looks_the_same_to_the_cameras(angle, seed):
    """Boxes and calibration turn together: every box centre stays at its pixel and at its place in the world."""
    rng = np.random.default_rng(seed)
    T_cam = np.tile(np.eye(4), (2, 1, 1))
    T_cam[:, :3, :3] = np.linalg.qr(rng.normal(size=(2, 3, 3)))[0]
    T_cam[:, :3, 3] = rng.normal(size=(2, 3))
    intrinsics = np.tile(np.array([[500.0, 0, 350], [0, 500, 200], [0, 0, 1]]), (2, 1, 1))
    T_global = np.eye(4)
    T_global[:3, 3] = rng.normal(size=3) * 100
    before = Frame((None, None), intrinsics, T_cam, T_global, 0)
    after = rotate_world(before, angle)
    boxes = rng.normal(size=(5, 9)) * 10
    turned = rotate_boxes(boxes, angle)
    for frame_matrix, turned_matrix in (
        (before.T_cam_from_model[1], after.T_cam_from_model[1]),
        (before.T_global_from_model, after.T_global_from_model),
    ):
        old = frame_matrix[:3, :3] @ boxes[:, :3].T + frame_matrix[:3, 3:]
        new = turned_matrix[:3, :3] @ turned[:, :3].T + turned_matrix[:3, 3:]
        np.testing.assert_allclose(new, old, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(turned[:, 7:], axis=1), np.linalg.norm(boxes[:, 7:], axis=1))
    transform = ImageTransform(0.5, (0, 0, 350, 200))
    assert model_input(after, [transform] * 2, np.zeros((2, 3, 200, 350), np.float32), (350, 200)).focal[0, 0] == 250


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    splits=st.integers(1, 3),
    world=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 100),
)
def test_streams_do_not_depend_on_the_number_of_processes(lengths, splits, world, seed):
    sequences = sequence_ids([i for length in lengths for i in range(length)], splits)
    one = SequenceSampler(sequences, 4, SamplingConfig(), seed)
    many = [SequenceSampler(sequences, 4 // world, SamplingConfig(), seed, rank, world) for rank in range(world)]
    for _ in range(10):
        together = [draw for sampler in many for draw in sampler.draw()]
        alone = one.draw()
        assert [(d.index, d.slot, d.position, d.step) for d in together] == [
            (d.index, d.slot, d.position, d.step) for d in alone
        ]


@given(seed=st.integers(0, 50), before=st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_a_restored_sampler_continues(seed, before):
    sequences = sequence_ids([0, 1, 2, 3, 0, 1, 2, 0], 2)
    original = SequenceSampler(sequences, 3, SamplingConfig(), seed)
    for _ in range(before):
        original.draw()
    copy = SequenceSampler(sequences, 3, SamplingConfig(), seed)
    copy.restore(original.state())
    assert [copy.draw() for _ in range(20)] == [original.draw() for _ in range(20)]
    with pytest.raises(ValueError, match="3 slots per process, this run has 2"):
        SequenceSampler(sequences, 2, SamplingConfig(), seed).restore(original.state())


MIXED = SamplingConfig(
    splits_per_scene=1, skip_probability=0.0, reverse_probability=0.0, intervals=(0.1, 0.3, 0.5), interval_frames=4
)
SECONDS = [100.0 * scene + 0.1 * frame for scene in range(3) for frame in range(50)]  # 10 Hz


def mixed_sampler(config=MIXED, seconds=SECONDS, seed=1) -> SequenceSampler:
    sequences = [round(second // 100) for second in seconds]
    return SequenceSampler(sequences, 2, config, seed, seconds=seconds)


def gaps_of_a_slot(sampler: SequenceSampler, draws: int) -> list[list[float]]:
    """Seconds between the frames of one slot, sequence by sequence."""
    taken = [sampler.draw()[0] for _ in range(draws)]
    sequences: list[list[float]] = []
    for before, draw in zip([None, *taken], taken, strict=False):
        if draw.step == 0:
            sequences.append([])
        else:
            sequences[-1].append(round(SECONDS[draw.index] - SECONDS[before.index], 3))
    return sequences


def test_stretches_have_the_intervals_asked_for():
    sequences = gaps_of_a_slot(mixed_sampler(), 400)
    assert {gap for gaps in sequences for gap in gaps} == set(MIXED.intervals)
    assert any(len(set(gaps)) > 1 for gaps in sequences)
    for gaps in sequences:
        # Frames 1 to 4 are of one interval, so are 5 to 8; a stretch begins with the gap that leads to its first frame.
        stretches = [gaps[:3], *(gaps[i : i + 4] for i in range(3, len(gaps), 4))]
        assert all(len(set(stretch)) == 1 for stretch in stretches if stretch)


def test_every_frame_has_its_turn():
    sampler = mixed_sampler(SamplingConfig(1, 0.0, 0.0, intervals=(0.5,)))
    assert {draw.index for _ in range(1500) for draw in sampler.draw()} == set(range(len(SECONDS)))


def test_slower_data_gives_its_own_intervals():
    """Key frames at 2 Hz: none is left out for an interval of a tenth of a second."""
    seconds = [100.0 * scene + 0.5 * frame for scene in range(3) for frame in range(6)]
    sampler = mixed_sampler(seconds=seconds)
    taken = [sampler.draw()[0] for _ in range(60)]
    following = zip(taken[:-1], taken[1:], strict=True)
    assert all(b.index == a.index + 1 or b.step == 0 for a, b in following)
    assert sum(draw.step == 0 for draw in taken) == 10


@given(seed=st.integers(0, 20), before=st.integers(0, 60))
@settings(max_examples=10, deadline=None)
def test_mixed_intervals_are_the_seeds_and_go_on_after_an_interruption(seed, before):
    original = mixed_sampler(seed=seed)
    for _ in range(before):
        original.draw()
    copy = mixed_sampler(seed=seed)
    copy.restore(original.state())
    assert [copy.draw() for _ in range(60)] == [original.draw() for _ in range(60)]


def test_intervals_need_the_times_of_the_samples():
    with pytest.raises(ValueError, match="intervals: expected seconds above 0 and the samples' times"):
        SequenceSampler([0, 0], 1, MIXED)
    with pytest.raises(ValueError, match="got \\(0.0,\\)"):
        SequenceSampler([0, 0], 1, SamplingConfig(intervals=(0.0,)), seconds=[0.0, 0.1])


GONE = AugmentationConfig(cameras_gone=(0, 0, 0, 1, 2), cameras_gone_frames=(2, 5))


def test_cameras_are_gone_for_stretches_as_often_as_asked_for():
    frames = [[cameras_gone(GONE, 6, step, np.random.RandomState([seed])) for step in range(40)] for seed in range(60)]
    counts = np.array([[len(gone) for gone in sequence] for sequence in frames])
    assert np.abs([(counts == n).mean() - share for n, share in ((0, 0.6), (1, 0.2), (2, 0.2))]).max() < 0.05
    changes = np.mean([a != b for sequence in frames for a, b in zip(sequence[:-1], sequence[1:], strict=True)])
    assert 0.15 < changes < 0.29  # a stretch lasts 3.5 frames; two complete ones do not differ
    assert {camera for sequence in frames for gone in sequence for camera in gone} == set(range(6))
    assert all(len(cameras_gone(GONE, 1, step, np.random.RandomState([step]))) == 0 for step in range(20))


def test_a_camera_that_is_gone_is_what_the_node_masks():
    """The same numbers that inference gives the network for a frame without this camera's image."""
    world = TinyWorld()
    model = replace(MODEL, image=replace(MODEL.image, input_wh=(96, 64), original_wh=(96, 64)))
    still = AugmentationConfig(None, (0, 0), (0, 0), False, (0, 0), photometric=False, cameras_gone=(1,))
    samples = TrainingSamples(world, model, replace(TRAINING, augmentation=still), seed=4)
    seen = set()
    for position in range(8):
        batch = samples[Draw(2, 0, 0, position, 3)]
        expected = []
        for camera in range(2):
            images = tuple(None if i == camera else image for i, image in enumerate(world.frame(2).images))
            expected.append(preprocess(replace(world.frame(2), images=images), model))
        same = [
            all(torch.equal(getattr(batch.inputs, f), getattr(e, f)) for f in ("images", "projection", "image_wh"))
            for e in expected
        ]
        assert sum(same) == 1
        seen.add(same.index(True))
        assert batch.targets.counts == (3,)  # what only this camera saw is still there
    assert seen == {0, 1}


class MixedRig(TinyWorld):
    """Two cameras whose images differ in size and shape; the second has none in frame 5."""

    def frame(self, i: int) -> Frame:
        frame, rng = super().frame(i), np.random.default_rng([i, 1])
        wide, narrow = (rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((216, 384), (96, 128)))
        return replace(frame, images=(wide, None if i == 5 else narrow))


STILL = AugmentationConfig(None, (0, 0), (0, 0), False, (0, 0), photometric=False)


@pytest.mark.parametrize("gone", [(0,), (1,)])
def test_images_of_every_size_are_trained_on_as_they_are_seen_later(gone):
    """Of a rig with cameras of several sizes, whichever of them are silent."""
    model = preset("demo")
    training = replace(TRAINING, augmentation=replace(STILL, cameras_gone=gone))
    samples = TrainingSamples(MixedRig(), model, training, seed=4)
    seen = set()
    for position in range(6):
        frame = samples.data.frame(2)
        inputs = samples[Draw(2, 0, 0, position, 3)].inputs
        silent = (inputs.images[0] == 0).flatten(1).all(1).tolist()
        images = tuple(None if off else image for off, image in zip(silent, frame.images, strict=True))
        expected = preprocess(replace(frame, images=images), model)
        assert torch.equal(inputs.images, expected.images)
        assert torch.equal(inputs.projection, expected.projection) and torch.equal(inputs.focal, expected.focal)
        seen.add(tuple(silent))
    assert seen == ({(False, False)} if gone == (0,) else {(True, False), (False, True)})


def test_one_random_draw_shows_the_same_part_of_images_of_any_size():
    """What is drawn for a sequence is the same for all cameras: a picture of twice the size gives the same view."""
    config, image = training_config("v3_r50").augmentation, preset("v3_r50").image
    drawn = draw_augmentation(config, image, np.random.RandomState(5))
    one, other = drawn.transform((1600, 900)), drawn.transform((800, 450))
    assert (one.crop, one.flip, one.rotate_deg) == (other.crop, other.flip, other.rotate_deg)
    assert other.scale == 2 * one.scale
    assert drawn.transform((640, 480)).kept((640, 480))


@pytest.mark.parametrize("image_wh", [(1600, 900), (1920, 1080), (1920, 960), (1242, 375), (640, 480)])
def test_images_of_any_shape_are_trained_at_the_scales_they_are_seen_at_later(image_wh):
    """Whatever is drawn is to the scale of evaluation and node as it is for the images of the published training."""
    config, image = training_config("v3_r50").augmentation, preset("v3_r50").image
    drawn = draw_augmentation(config, image, np.random.RandomState(5))
    published = drawn.scale / test_time_transform(image, (1600, 900)).scale
    scale = drawn.transform(image_wh).scale
    assert scale / test_time_transform(image, image_wh).scale == pytest.approx(published, rel=1e-12)
    assert image_wh != (1600, 900) or scale == drawn.scale


def test_an_image_stays_where_others_are_not_recorded():
    """In frame 5 the first camera alone has an image: it is never the one that goes."""
    training = replace(TRAINING, augmentation=replace(STILL, cameras_gone=(1,)))
    samples = TrainingSamples(MixedRig(), preset("demo"), training, seed=4)
    for position in range(6):
        assert samples[Draw(5, 0, 0, position, 5)].inputs.images[0].flatten(1).any(1).tolist() == [True, False]
