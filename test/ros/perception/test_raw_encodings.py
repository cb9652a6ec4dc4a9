"""Every raw encoding comes back from its own definition, over any size, row padding and byte order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cv_bridge")

from sparse4d_ros.perception.image_decoding import ENCODINGS, ConversionError, decode_image  # noqa: E402

COLOR_PLACES = {  # where blue, green and red stand in a pixel
    "bgr": (0, 1, 2), "rgb": (2, 1, 0), "bgra": (0, 1, 2), "rgba": (2, 1, 0), "mono": (0, 0, 0),
}  # fmt: skip
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
even_sizes = st.tuples(st.integers(1, 5), st.integers(1, 5)).map(lambda size: (2 * size[0], 2 * size[1]))
bgr_colors = st.tuples(*[st.integers(0, 255)] * 3)


def packed(numbers: np.ndarray, encoding: str, padding: int, big_endian: bool) -> SimpleNamespace:
    """Fields of an Image of [rows, numbers in a row] with `padding` bytes of rubbish after each row."""
    data = numbers.astype(numbers.dtype.newbyteorder(">" if big_endian else "<")).view(np.uint8)
    data = np.pad(data, ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding, height=len(data), width=0, step=data.shape[1], is_bigendian=big_endian, data=data.tobytes()
    )


@settings(max_examples=80, deadline=None)
@given(
    order=st.sampled_from(list(COLOR_PLACES)), bits=st.sampled_from([8, 16]), size=sizes, padding=st.integers(0, 5),
    big_endian=st.booleans(), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_packed_colours_come_back(order, bits, size, padding, big_endian, seed):
    """Any pixels, either byte order, any row padding: exact with 8 bits, rounded v / 257 with 16."""
    channels = 1 if order == "mono" else len(order)
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(seed).integers(0, 2**bits, (*size, channels), dtype)
    message = packed(pixels.reshape(size[0], -1), f"{order}{bits}", padding, big_endian)
    message.width = size[1]
    expected = pixels[..., COLOR_PLACES[order]]
    if bits == 16:
        expected = np.round(expected / 257).astype(np.uint8)
    decoded = decode_image(message)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@settings(max_examples=60, deadline=None)
@given(
    pattern=st.sampled_from(["rggb", "bggr", "gbrg", "grbg"]), bits=st.sampled_from([8, 16]), size=sizes,
    padding=st.integers(0, 5), big_endian=st.booleans(), color=bgr_colors,
)  # fmt: skip
def test_a_mosaic_of_one_colour_comes_back(pattern, bits, size, padding, big_endian, color):
    value = dict(zip("bgr", color, strict=True))
    cell = np.array([value[c] for c in pattern], np.uint8 if bits == 8 else np.uint16).reshape(2, 2)
    mosaic = np.tile(cell * (1 if bits == 8 else 257), (5, 5))[: size[0], : size[1]].copy()
    message = packed(mosaic, f"bayer_{pattern}{bits}", padding, big_endian)
    message.width = size[1]
    if min(size) < 3:  # no neighbours to take the other colours from
        with pytest.raises(ConversionError, match="at least 3x3 pixels with bayer") as caught:
            decode_image(message)
        assert caught.value.cause == "image_size"
    else:
        np.testing.assert_array_equal(decode_image(message), np.broadcast_to(np.uint8(color), (*size, 3)))


def yuv_of(bgr: np.ndarray) -> np.ndarray:
    """[..., 3] BGR ► Y U V of ITU-R BT.601, limited range, as the kernel's documents of the formats have it."""
    b, g, r = np.moveaxis(bgr.astype(float), -1, 0)
    y = 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255
    u = 128 + (-37.797 * r - 74.203 * g + 112.0 * b) / 255
    v = 128 + (112.0 * r - 93.786 * g - 18.214 * b) / 255
    return np.stack([y, u, v], axis=-1).round().astype(np.uint8)


@settings(max_examples=80, deadline=None)
@given(
    encoding=st.sampled_from(["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21", "NV12"]), size=even_sizes,
    padding=st.integers(0, 5), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_yuv_blocks_come_back(encoding, size, padding, seed):
    """Every block of 2x2 pixels has a colour of its own; luma and both chromas find their way back to it."""
    colors = np.random.default_rng(seed).integers(0, 256, (size[0] // 2, size[1] // 2, 3), np.uint8)
    image = colors.repeat(2, axis=0).repeat(2, axis=1)
    y, u, v = np.moveaxis(yuv_of(image), -1, 0)
    u_of_pair, v_of_pair = u[:, ::2], v[:, ::2]
    if encoding.lower().startswith("nv"):
        pair = (u_of_pair, v_of_pair) if encoding.lower() == "nv12" else (v_of_pair, u_of_pair)
        numbers = np.vstack([y, np.stack(pair, axis=-1).reshape(size)[::2]])
    else:
        chroma = np.stack([u_of_pair, v_of_pair], axis=-1).reshape(size)
        numbers = np.stack([chroma, y] if encoding in ("uyvy", "yuv422") else [y, chroma], axis=-1)
        numbers = numbers.reshape(size[0], -1)
    message = packed(numbers, encoding, padding, False)
    message.height, message.width = size
    assert np.abs(decode_image(message).astype(int) - image).max() <= 4  # rounding of Y, U and V, times up to 2


PIXEL_BYTES = {
    "bgr8": 3, "rgb8": 3, "bgra8": 4, "rgba8": 4, "bgr16": 6, "rgb16": 6, "bgra16": 8, "rgba16": 8,
    "uyvy": 2, "yuv422": 2, "yuyv": 2, "yuv422_yuy2": 2,
}  # fmt: skip


def flat_message(encoding: str, height: int = 6, width: int = 6, **changes) -> SimpleNamespace:
    """A message of zeros that fits its encoding, before the changes."""
    step = width * PIXEL_BYTES.get(encoding, 2 if encoding.endswith("16") else 1)
    rows = height * 3 // 2 if encoding.startswith("nv") else height
    fields = dict(encoding=encoding, height=height, width=width, step=step, is_bigendian=0, data=bytes(step * rows))
    return SimpleNamespace(**(fields | changes))


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in ("8uc3", "8uc1")])
@pytest.mark.parametrize(
    ("change", "cause", "says"),
    [
        ({"height": 0}, "image_size", "width, height = 6, 0"),
        ({"width": 0}, "image_size", "width, height = 0, 6"),
        ({"step": 5}, "image_data", "step = 5 bytes; expected at least"),
        ({"data": -1}, "image_data", "too short; expected"),
        ({"data": 1}, "image_data", "too long; expected"),
        ({"data": None}, "image_data", "data = 0 bytes, too short"),
    ],
    ids=["no_rows", "no_columns", "step", "truncated", "too_long", "empty"],
)
def test_what_does_not_fit_its_encoding_is_refused(encoding, change, cause, says):
    message = flat_message(encoding)
    assert decode_image(message).shape == (6, 6, 3)
    change = dict(change)
    if "data" in change:
        length = 0 if change["data"] is None else len(message.data) + change["data"]
        change["data"] = bytes(length)
    with pytest.raises(ConversionError, match=says) as caught:
        decode_image(flat_message(encoding, **change))
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("encoding", "size", "says"),
    [
        ("uyvy", (4, 5), "an even width with uyvy"),
        ("yuyv", (4, 5), "an even width with yuyv"),
        ("nv12", (4, 5), "an even width and height with nv12"),
        ("nv21", (5, 4), "an even width and height with nv21"),
        ("bayer_rggb16", (2, 8), "at least 3x3 pixels"),
    ],
)
def test_sizes_that_an_encoding_cannot_have(encoding, size, says):
    with pytest.raises(ConversionError, match=says) as caught:
        decode_image(flat_message(encoding, *size))
    assert caught.value.cause == "image_size"


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "nv24", "h264", "", "mono12"])
def test_encodings_that_are_not_understood_are_named(encoding):
    with pytest.raises(ConversionError, match=f"encoding = '{encoding}'; expected one of bgr8, .*nv12") as caught:
        decode_image(flat_message(encoding))
    assert caught.value.cause == "encoding"
