"""Images of every encoding become BGR pixels; damaged ones become errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cv_bridge")
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from sparse4d_ros.perception.image_decoding import ConversionError, decode_image  # noqa: E402


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth colour picture, [H, W, 3] BGR."""
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x + y, 3 * y + 20, 255 - x - y], axis=-1).clip(0, 255).astype(np.uint8)


def raw_message(rows: np.ndarray, encoding: str, padding: int = 0) -> Image:
    height, width = rows.shape[:2]
    flat = np.pad(rows.reshape(height, -1), ((0, 0), (0, padding)), constant_values=77)
    return Image(height=height, width=width, encoding=encoding, step=flat.shape[1], data=flat.tobytes())


def compressed_message(image: np.ndarray, suffix: str, options: tuple[int, ...] = ()) -> CompressedImage:
    return CompressedImage(format=suffix, data=cv2.imencode(f".{suffix}", image, options)[1].tobytes())


def yuv(image: np.ndarray, order: str) -> np.ndarray:
    """BGR to 4:2:2 by the definition of the layout (one U and V for two pixels)."""
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV).astype(np.float64)
    luma = (16 + planes[..., 0] * 219 / 255).round().astype(np.uint8)
    pairs = planes[..., 1:].reshape(image.shape[0], -1, 2, 2).mean(axis=2).round().clip(0, 255).astype(np.uint8)
    chroma_row = pairs.reshape(image.shape[0], -1)  # U V U V ...
    return np.stack([chroma_row, luma] if order == "uyvy" else [luma, chroma_row], axis=-1)


@pytest.mark.parametrize("padding", [0, 12])
@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        ("bgr8", None),
        ("8UC3", None),
        ("rgb8", cv2.COLOR_BGR2RGB),
        ("bgra8", cv2.COLOR_BGR2BGRA),
        ("rgba8", cv2.COLOR_BGR2RGBA),
    ],
)
def test_colour_encodings_are_lossless(encoding, code, padding):
    image = picture()
    rows = image if code is None else cv2.cvtColor(image, code)
    np.testing.assert_array_equal(decode_image(raw_message(rows, encoding, padding)), image)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_becomes_three_equal_channels(encoding):
    grey = picture()[..., 0]
    np.testing.assert_array_equal(decode_image(raw_message(grey, encoding, 5)), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_yuv_layouts(encoding, order):
    """Grey is exact whatever the colour matrix; a red and a blue picture tell U from V and Y."""
    grey = np.repeat(picture()[..., :1], 3, axis=2)
    decoded = decode_image(raw_message(yuv(grey, order), encoding, 8))
    assert np.abs(decoded.astype(int) - grey).max() <= 2
    for channel in (0, 2):
        color = np.zeros((4, 8, 3), np.uint8)
        color[..., channel] = 200
        decoded = decode_image(raw_message(yuv(color, order), encoding))
        assert (decoded[..., channel] > 150).all() and (np.delete(decoded, channel, axis=2) < 60).all()


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns(pattern):
    """The pattern names the colours of the upper left 2x2 pixels, row by row."""
    value = {"b": 40, "g": 90, "r": 200}
    cell = np.array([value[c] for c in pattern], np.uint8).reshape(2, 2)
    decoded = decode_image(raw_message(np.tile(cell, (8, 8)), f"bayer_{pattern}8"))
    np.testing.assert_array_equal(decoded[8, 8], (40, 90, 200))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("grey", [False, True])
def test_compressed(suffix, grey):
    image = picture() if not grey else picture()[..., 0]
    decoded = decode_image(compressed_message(image, suffix))
    expected = image if not grey else np.repeat(image[..., None], 3, axis=2)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= (0 if suffix == "png" else 12)


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 0.999), kind=st.sampled_from(["jpg", "progressive", "restart", "png"]))
def test_truncated_data_is_refused(fraction, kind):
    """Wherever the data end early: OpenCV alone would fill the rest with grey."""
    options = {"progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "restart": (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)}
    message = compressed_message(picture(), "png" if kind == "png" else "jpg", options.get(kind, ()))
    decode_image(message)
    message.data = bytes(message.data)[: int(fraction * len(message.data))]
    with pytest.raises(ConversionError) as caught:
        decode_image(message)
    assert caught.value.cause in ("image_data", "encoding")  # the first 8 bytes are needed to know a PNG


def test_padding_after_the_end_marker_is_harmless():
    message = compressed_message(picture(), "jpg")
    message.data = bytes(message.data) + bytes(64)
    assert decode_image(message).shape == picture().shape


def test_damaged_png_is_refused():
    message = compressed_message(picture(), "png")
    data = bytearray(message.data)
    data[len(data) // 2] ^= 0x55
    message.data = bytes(data)
    with pytest.raises(ConversionError, match="checksum") as caught:
        decode_image(message)
    assert caught.value.cause == "image_data"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"encoding": "32FC1"}, "encoding"),
        ({"encoding": ""}, "encoding"),
        ({"height": 0}, "image_size"),
        ({"height": 49}, "image_data"),
        ({"step": 10}, "image_data"),
        ({"data": b""}, "image_data"),
    ],
)
def test_bad_raw_images(change, cause):
    message = raw_message(picture(), "bgr8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ConversionError) as caught:
        decode_image(message)
    assert caught.value.cause == cause


def test_not_an_image():
    with pytest.raises(ConversionError, match="expected JPEG or PNG") as caught:
        decode_image(CompressedImage(format="h264", data=b"\0\0\0\1 a video stream"))
    assert caught.value.cause == "encoding"
