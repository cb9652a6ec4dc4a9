"""Preprocessing in tensor operations equals the one by Pillow and NumPy bit for bit, and sends images up once.

Runs on CPU tensors and, for what travels, on the meta device, which refuses everything that reads values back.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from sparse4d_core.config import preset
from sparse4d_core.inference.device.device_preprocess import preprocess_on_device
from sparse4d_core.model_io import ModelInput
from sparse4d_core.preprocess import normalize, preprocess
from sparse4d_core.types import Frame

CPU = torch.device("cpu")


def frame(*sizes: tuple[int, int] | None) -> Frame:
    """A frame of noise; None is a missing camera."""
    random = np.random.default_rng(0)
    images = tuple(None if wh is None else random.integers(0, 256, (wh[1], wh[0], 3), np.uint8) for wh in sizes)
    intrinsics = np.tile(np.array([[500.0, 0, 350], [0, 500, 200], [0, 0, 1]]), (len(sizes), 1, 1))
    return Frame(images, intrinsics, np.tile(np.eye(4), (len(sizes), 1, 1)), np.eye(4), 1_000_000_000)


def assert_equal(actual: ModelInput, expected: ModelInput) -> None:
    for field in fields(ModelInput):
        torch.testing.assert_close(getattr(actual, field.name), getattr(expected, field.name), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("v3_r50", [(1600, 900), None, (1600, 900)]),
        ("v3_r50", [(640, 480)]),  # enlarged
        ("v3_r50", [(1601, 901), (704, 396)]),
        ("demo", [(333, 777), (1920, 540), (333, 777)]),
        ("demo", [(300, 98), (352, 128)]),  # truncation leaves a row above the image; nothing to scale
        ("v1_r101_t1", [(1600, 900)]),  # cropped only, means of BGR
        ("v1_r101_t1", [(1280, 720)]),
    ],
)
def test_every_number_equals_the_reference(name, sizes, one_thread):
    given = frame(*sizes)
    assert_equal(preprocess_on_device(given, preset(name), CPU), preprocess(given, preset(name)))


@pytest.mark.parametrize(("file", "case"), golden_parameters("preprocess", ["ida_test"]))
def test_golden(golden, file, case, one_thread):
    """The recorded test picture, scaled and cropped by the reference implementation."""
    data, config = Golden(golden, file), preset("v3_r50")
    y, x, c = np.mgrid[:900, :1600, :3]
    v = (x * (c + 1)) // 3 + (y * (3 - c)) // 2 + 64 * ((x // 50 + y // 50) % 2) + ((x * y) // 97) % 23
    image = ((v + int(data["image_formula_s"])) % 256).astype(np.uint8)
    inputs = preprocess_on_device(replace(frame((4, 4)), images=(image,)), config, CPU)
    np.testing.assert_array_equal(inputs.images[0, 0].numpy(), normalize(data[f"{case}_image"], config.image))


class Uploads(TorchDispatchMode):
    """Notes how many bytes each copy from the processor to another device has."""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != result.device:
            self.sizes.append(args[0].nbytes)
        return result


def test_images_travel_once_as_bytes_and_nothing_comes_back():
    """The meta device computes shapes only; whatever would wait for its values raises."""
    given = frame((1600, 900), None, (1600, 900), (640, 480))
    with Uploads() as uploads:
        inputs = preprocess_on_device(given, preset("v3_r50"), torch.device("meta"))
    assert inputs.images.shape == (1, 4, 3, 256, 704)
    assert {getattr(inputs, field.name).device.type for field in fields(ModelInput)} == {"meta"}
    (travelled,) = (size for size in uploads.sizes if size > 100_000)
    assert uploads.sizes[0] == travelled < 0.75 * sum(image.nbytes for image in given.images if image is not None)
    with Uploads() as again:  # filters and tables are there already
        preprocess_on_device(given, preset("v3_r50"), torch.device("meta"))
    assert again.sizes == [travelled], "the calibration, the pose and the stamp travel with the images"


def test_what_is_kept_for_the_next_frame_serves_inside_and_outside_inference_mode():
    given, config = frame((500, 300)), preset("demo")
    with torch.inference_mode():
        first = preprocess_on_device(given, config, CPU)
    assert_equal(preprocess_on_device(given, config, CPU), first)


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match="all 1 cameras are missing"):
        preprocess_on_device(frame(None), preset("demo"), CPU)
    with pytest.raises(ValueError, match="intrinsics: expected shape"):
        preprocess_on_device(replace(frame((40, 30)), intrinsics=np.eye(3)), preset("demo"), CPU)
