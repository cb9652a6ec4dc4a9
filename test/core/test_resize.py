"""Resampled parts against the whole resampled image, and Pillow's order of passes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparse4d_core.resize import resized_by_pillow, resized_by_torch

SIZES = [
    (160, 90, 70, 39), (160, 90, 176, 99), (100, 80, 110, 60), (80, 100, 60, 111), (97, 61, 40, 31), (64, 48, 64, 40),
]  # fmt: skip


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def columns_then_rows(image: np.ndarray, new_wh: tuple[int, int]) -> np.ndarray:
    """The whole image by Pillow, with the order of its passes fixed."""
    narrow = Image.fromarray(image).resize((new_wh[0], image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(narrow.resize(new_wh, Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("width", "height", "new_width", "new_height"), SIZES)
def test_a_part_equals_the_crop_of_the_whole(width, height, new_width, new_height):
    """Noise reaches black and white between the passes, where their order matters."""
    image, new_wh = noise(height, width), (new_width, new_height)
    whole = columns_then_rows(image, new_wh)
    right, bottom = new_wh
    for part in ((0, 0, right, bottom), (3, bottom // 3, right - 5, bottom - 2), (0, bottom // 2, 9, bottom)):
        x0, y0, x1, y1 = part
        np.testing.assert_array_equal(resized_by_pillow(image, new_wh, part), whole[y0:y1, x0:x1])


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(20, 90), st.integers(20, 90)), new=st.tuples(st.integers(10, 99), st.integers(10, 99)),
    share=st.tuples(st.floats(0, 0.8), st.floats(0, 0.8)), seed=st.integers(0, 1000),
)  # fmt: skip
def test_torch_stays_within_two_grey_levels(size, new, share, seed):
    """A level in the first pass, which the second multiplies by up to 1.3, and one in the second."""
    image = noise(*size, seed)
    part = (int(share[0] * new[0]), int(share[1] * new[1]), *new)
    expected = resized_by_pillow(image, new, part).astype(int)
    assert np.abs(resized_by_torch(image, new, part) - expected).max() <= 2


def test_torch_differs_rarely():
    image, new_wh = noise(450, 800), (352, 198)
    part = (0, 70, 352, 198)
    differing = resized_by_torch(image, new_wh, part) != resized_by_pillow(image, new_wh, part)
    assert differing.mean() < 0.01
