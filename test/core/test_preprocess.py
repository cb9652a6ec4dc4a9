"""Pre-processing against recorded images and matrices, and the rule that image and intrinsics move together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from golden_data import Golden, golden_parameters
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from sparse4d_core.config import PRESETS, ImageConfig, preset
from sparse4d_core.preprocess import (
    ImageTransform,
    collate,
    decoding_reduction,
    normalize,
    preprocess,
    test_time_transform,
)
from sparse4d_core.types import Frame

IDA_CASES = ("test", "train_flip_rot", "train_rot", "train_flip")


def camera_image(data: Golden) -> np.ndarray:
    """The recorded test picture, from its formula."""
    y, x, c = np.mgrid[:900, :1600, :3]
    v = (x * (c + 1)) // 3 + (y * (3 - c)) // 2 + 64 * ((x // 50 + y // 50) % 2) + ((x * y) // 97) % 23
    return ((v + int(data["image_formula_s"])) % 256).astype(np.uint8)


def transform_of(record: dict) -> ImageTransform:
    return ImageTransform(record["resize"], tuple(record["crop"]), record["flip"], record["rotate"])


def homogeneous(matrix: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = matrix
    return result


def frame(images, intrinsics=None) -> Frame:
    n = len(images)
    if intrinsics is None:
        intrinsics = np.tile(np.array([[500.0, 0, 350], [0, 500, 200], [0, 0, 1]]), (n, 1, 1))
    return Frame(tuple(images), intrinsics, np.tile(np.eye(4), (n, 1, 1)), np.eye(4), 1_000_000_000)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("file", "case"), golden_parameters("preprocess", [f"ida_{case}" for case in IDA_CASES]))
def test_golden_image(golden, file, case):
    data = Golden(golden, file)
    if f"{case}_image" not in data:
        pytest.skip(f"the folder's file does not hold this picture: {case}")
    image = camera_image(data)
    assert [image.sum(dtype=np.int64), image[123, 456, 0], image[899, 1599, 2], image[10, 20, 1]] == list(
        data["image_check"]
    )
    transform = transform_of(data.json("meta_json")["ida_configs"][case.removeprefix("ida_")])
    data.check(f"{case}_image", transform.apply(image), atol=0)


@pytest.mark.parametrize(("file", "case"), golden_parameters("preprocess", [f"ida_{case}" for case in IDA_CASES]))
def test_golden(golden, file, case):
    data = Golden(golden, file)
    transform = transform_of(data.json("meta_json")["ida_configs"][case.removeprefix("ida_")])
    data.check(f"{case}_matrix_f64", homogeneous(transform.matrix), atol=1e-9)
    lidar2img = homogeneous(transform.matrix) @ data["cal_lidar2img_f64"][0]
    data.check(f"{case}_lidar2img_f64", lidar2img, atol=1e-9, rtol=1e-9)
    # The recorded "intrinsic" is scaled only; the depth head reads its [0, 0] entry as the focal length.
    data.check(f"{case}_intrinsic_f64", transform.scale * data["cal_intrinsic_f64"][0], atol=1e-9)
    if f"v2_{case}_lidar2img_f64" in data:  # there the matrix is rounded to float32
        scale = np.abs(data[f"v2_{case}_lidar2img_f64"]).max()
        data.check(f"v2_{case}_lidar2img_f64", lidar2img, atol=2e-7 * scale)


@pytest.mark.parametrize(
    ("file", "case"), golden_parameters("preprocess", ["norm_rgb", "norm_caffe", "aug_test", "v1_crop"])
)
def test_golden_fixed_transform(golden, file, case):
    data = Golden(golden, file)
    if case in ("norm_rgb", "norm_caffe"):
        config = preset("v3_r50" if case == "norm_rgb" else "v1_r101_t1").image
        planes = normalize(data["ida_test_image"], config)
        data.check(f"{case}_sub8", planes.transpose(1, 2, 0)[::8, ::8], atol=2e-5)
    elif case == "aug_test":
        for key, name in (("aug_test", "v3_r50"), ("aug_test_512x1408", "v3_r101")):
            expected = data.json("meta_json")[key]
            actual = test_time_transform(preset(name).image, (1600, 900))
            assert (actual.scale, list(actual.crop)) == (expected["resize"], expected["crop"])
            assert not actual.flip and not actual.rotate_deg
    else:
        transform = test_time_transform(preset("v1_r101_t1").image, (1600, 900))
        image = camera_image(data)
        assert np.array_equal(transform.apply(image), image[260:900])
        assert list(transform.apply(image).shape) == list(data["v1_crop_shape"])
        matrix = homogeneous(transform.matrix) @ data["cal_lidar2img_f64"][0]
        data.check("v1_crop_lidar2img_f64", matrix, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("wh", [(1600, 900), (704, 396), (640, 480), (1920, 540)])
def test_every_preset_takes_every_image_size(name, wh):
    config = preset(name).image
    transform = test_time_transform(config, wh)
    assert transform.output_wh == config.input_wh
    assert transform.apply(np.zeros((wh[1], wh[0], 3), np.uint8)).shape == (config.input_wh[1], config.input_wh[0], 3)


def blob_is_inside(transform: ImageTransform, u: float, v: float) -> bool:
    margin = 4 * transform.scale * 1.5 + 2
    width, height = transform.output_wh
    return margin < u < width - margin and margin < v < height - margin


@settings(max_examples=25, deadline=None)
@given(
    sixteenths=st.integers(7, 20),  # such scales give whole pixels: nothing is truncated
    left=st.integers(-20, 60),
    top=st.integers(-10, 40),
    flip=st.booleans(),
    rotate=st.one_of(st.just(0.0), st.floats(-20, 20)),
    x=st.integers(60, 132),
    y=st.integers(48, 96),
)
def test_image_and_intrinsics_move_together(sixteenths, left, top, flip, rotate, x, y):
    """A bright blob at the projection of a 3D point stays at its projection after the transform."""
    image = np.zeros((144, 192, 3), np.uint8)
    image[y - 4 : y + 5, x - 4 : x + 5] = 255
    upright = ImageTransform(sixteenths / 16, (left, top, left + 180, top + 130), flip)
    transform = replace(upright, rotate_deg=rotate)
    intrinsics = np.array([[90.0, 0, 96], [0, 90.0, 72], [0, 0, 1]])
    point = np.linalg.inv(intrinsics) @ [x + 0.5, y + 0.5, 1.0] * 7.0
    for step in (upright, transform):
        u, v, depth = step.apply_intrinsics(intrinsics) @ point
        u, v = u / depth, v / depth
        assume(blob_is_inside(step, u, v))
    result = transform.apply(image)[..., 0].astype(float)
    rows, columns = np.mgrid[:130, :180] + 0.5
    tolerance = 0.6 if rotate else 0.1  # pixels; rotation takes the nearest pixel
    assert abs((result * columns).sum() / result.sum() - u) < tolerance
    assert abs((result * rows).sum() / result.sum() - v) < tolerance


def test_a_size_that_is_no_whole_number_is_truncated():
    """As published: the image is scaled to whole pixels, its matrix by the number as it is."""
    image = noise(75, 100)
    transform = ImageTransform(0.336, (0, 0, 33, 25))
    expected = Image.fromarray(image).resize((33, 25), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(transform.apply(image), np.asarray(expected))
    assert transform.matrix[0, 0] == transform.matrix[1, 1] == 0.336
    with pytest.raises(ValueError, match="lies outside the scaled image of 33x25 pixels"):
        ImageTransform(0.336, (33, 0, 40, 25)).apply(image)


def test_scaling_only_the_crop_equals_scaling_everything():
    image = noise(180, 320)
    whole = ImageTransform(0.44, (0, 0, 140, 79)).apply(image)
    assert np.array_equal(ImageTransform(0.44, (11, 30, 130, 75)).apply(image), whole[30:75, 11:130])


@pytest.mark.parametrize(
    ("name", "wh", "expected"),
    [
        ("v3_r50", (1600, 900), 2),  # 0.44 of the size
        ("v3_r50", (3840, 2160), 4),
        ("v3_r50", (704, 396), 1),
        ("v3_r50", (1408, 792), 2),  # exactly half
        ("v3_r50", (1406, 792), 1),
        ("v3_r101", (1600, 900), 1),
        ("v1_r101_t1", (1600, 900), 1),
        ("demo", (704, 396), 2),
        ("demo", (1600, 900), 4),
    ],
)
def test_jpeg_is_reduced_as_far_as_nothing_is_enlarged_afterwards(name, wh, expected):
    config = preset(name).image
    assert decoding_reduction(config, wh) == expected
    reduced = tuple(-(-size // expected) for size in wh)
    assert test_time_transform(config, reduced).scale <= 1
    assert test_time_transform(config, reduced).output_wh == config.input_wh


@pytest.mark.parametrize("wh", [(1600, 900), (1601, 901), (1999, 1123)])
@pytest.mark.parametrize("name", ["v3_r50", "demo"])
def test_a_reduced_image_is_projected_where_the_whole_one_was(name, wh):
    """Intrinsics divided by the reduction and the transform of the smaller image bring points to the same pixels.

    Odd sizes are rounded up by the reduction, so that the scale differs by that one pixel; so does the picture.
    """
    config = preset(name).image
    reduction = decoding_reduction(config, wh)
    assert reduction > 1
    K = np.array([[1266.0, 0, 816], [0, 1266, 491], [0, 0, 1]])
    reduced = test_time_transform(config, tuple(-(-size // reduction) for size in wh))
    both = (
        test_time_transform(config, wh).apply_intrinsics(K),
        reduced.apply_intrinsics(np.diag((1 / reduction, 1 / reduction, 1)) @ K),
    )
    if not (wh[0] % reduction or wh[1] % reduction):
        np.testing.assert_allclose(both[1], both[0], rtol=1e-12)
    else:
        np.testing.assert_allclose(both[1], both[0], rtol=reduction / min(wh), atol=reduction)
    np.testing.assert_allclose(both[1][0, 0], K[0, 0] * reduced.scale / reduction, rtol=1e-12)


def test_missing_camera_is_masked():
    config = preset("demo")
    inputs = preprocess(frame([noise(396, 704), None]), config)
    assert inputs.images[0, 1].abs().max() == 0
    points = np.concatenate([np.random.default_rng(0).normal(0, 30, (50, 3)), np.ones((50, 1))], axis=1)
    u, _, depth, _ = inputs.projection[0, 1].numpy() @ points.T
    assert (u / np.maximum(depth, 1e-5) < -config.image.input_wh[0] + 1).all()


def test_batching_keeps_every_field():
    config = preset("demo")
    one, two = (preprocess(frame([noise(396, 704, seed)] * 2), config) for seed in (0, 1))
    both = collate([one, two])
    assert both.images.shape == (2, 2, 3, 128, 352)
    assert (both.images[1] == two.images[0]).all() and (both.projection[1] == two.projection[0]).all()
    assert both.timestamp.dtype == one.timestamp.dtype and both.focal.shape == (2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": (None, None)}, "all 2 cameras are missing"),
        ({"images": (np.zeros((4, 4), np.uint8), None)}, r"images: camera 0 has shape \(4, 4\)"),
        ({"images": (np.zeros((4, 4, 3), np.float32), None)}, "of float32"),
        ({"intrinsics": np.eye(3)}, r"intrinsics: expected shape \(2, 3, 3\)"),
        ({"T_cam_from_model": np.full((2, 4, 4), np.nan)}, "T_cam_from_model: holds values that are not finite"),
    ],
)
def test_bad_frames_are_refused(change, message):
    good = frame([noise(20, 30)] * 2)
    with pytest.raises(ValueError, match=message):
        preprocess(Frame(**{**good.__dict__, **change}), preset("demo"))


def test_bad_transforms_are_refused():
    with pytest.raises(ValueError, match="scale: expected a positive number, got 0"):
        ImageTransform(0.0, (0, 0, 1, 1))
    with pytest.raises(ValueError, match="crop: expected left < right"):
        ImageTransform(1.0, (5, 0, 5, 1))
    with pytest.raises(ValueError, match="outside the scaled image"):
        ImageTransform(1.0, (50, 0, 60, 5)).apply(noise(10, 10))


def test_normalization_order():
    image = np.zeros((1, 1, 3), np.uint8)
    image[..., 2] = 255  # red, as BGR
    config = ImageConfig((1, 1), mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    assert normalize(image, config).ravel().tolist() == [254.0, -2.0, -3.0]
