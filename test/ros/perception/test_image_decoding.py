"""Images of every encoding become BGR pixels; damaged ones become errors."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

pytest.importorskip("cv_bridge")
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from sparse4d_ros.perception import image_decoding  # noqa: E402
from sparse4d_ros.perception.image_decoding import (  # noqa: E402
    ConversionError,
    decode_image,
    jpeg_reduction,
)


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


# ---------------------------------------------------------------------------------------------------------- compressed


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("grey", [False, True])
def test_compressed(suffix, grey):
    image = picture() if not grey else picture()[..., 0]
    decoded = decode_image(compressed_message(image, suffix))
    expected = image if not grey else np.repeat(image[..., None], 3, axis=2)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= (0 if suffix == "png" else 12)


RED = np.full((16, 16, 3), (20, 40, 220), np.uint8)  # BGR


@pytest.mark.parametrize(
    ("format", "encoded"),
    [
        ("jpeg", RED),
        ("jpg", RED),
        ("png", RED),
        ("", RED),
        ("bgr8; jpeg compressed bgr8", RED),
        ("rgb8; jpeg compressed bgr8", RED),
        ("rgb8; png compressed bgr8", RED),
        ("rgb8; png compressed", RED),
        ("nv12; jpeg compressed bgr8", RED),
        ("rgb8; png compressed rgb8", RED[..., ::-1]),  # red and blue exchanged before encoding
        ("bgr8; jpeg compressed rgb8", RED[..., ::-1]),
    ],
)
def test_colours_are_right_with_every_format_string(format, encoded):
    suffix = "png" if "png" in format else "jpg"
    message = compressed_message(np.ascontiguousarray(encoded), suffix)
    message.format = format
    assert np.abs(decode_image(message).astype(int) - RED).max() <= 3


@pytest.mark.parametrize(
    ("format", "grey"), [("mono8; jpeg compressed mono8", "jpg"), ("mono8; png compressed ", "png"), ("png", "png")]
)
def test_grey_stays_grey_with_every_format_string(format, grey):
    image = picture()[..., 0]
    message = compressed_message(image, grey)
    message.format = format
    assert np.abs(decode_image(message).astype(int) - image[..., None]).max() <= (0 if grey == "png" else 12)


def test_a_png_of_the_mosaic_is_demosaiced():
    """compressed_image_transport packs Bayer images into PNG as they are, and into JPEG as grey ones."""
    mosaic = np.tile(np.array([[200, 90], [90, 40]], np.uint8), (8, 8))  # rggb
    message = compressed_message(mosaic, "png")
    message.format = "bayer_rggb8; png compressed "
    np.testing.assert_array_equal(decode_image(message), np.broadcast_to(np.uint8((40, 90, 200)), (16, 16, 3)))
    message.format = "bayer_rggb8; jpeg compressed mono8"
    np.testing.assert_array_equal(decode_image(message), np.repeat(mosaic[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_is_scaled_as_raw_images_are(channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (12, 9, channels), np.uint16)
    message = compressed_message(pixels[..., 0] if channels == 1 else pixels, "png")
    message.format = "mono16; png compressed " if channels == 1 else "bgr16; png compressed bgr16"
    expected = np.round(pixels[..., :3] / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(message), np.broadcast_to(expected, (12, 9, 3)))


@pytest.mark.parametrize("format", ["16UC1; png compressed ", "32FC1; png compressed ", "16UC1; compressedDepth png"])
def test_depth_images_are_refused(format):
    message = compressed_message(np.zeros((4, 4), np.uint16), "png")
    message.format = format
    with pytest.raises(ConversionError, match="a depth image") as caught:
        decode_image(message)
    assert caught.value.cause == "encoding"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L"])
def test_png_of_every_kind(mode):
    """Transparency is dropped, palettes and single bits become pixels."""
    grey = np.full((6, 7), 255, np.uint8)
    data = io.BytesIO()
    PillowImage.fromarray(grey).convert(mode).save(data, "png")
    decoded = decode_image(CompressedImage(format="png", data=data.getvalue()))
    np.testing.assert_array_equal(decoded, np.full((6, 7, 3), 255, np.uint8))


def cmyk_jpeg() -> bytes:
    data = io.BytesIO()
    PillowImage.fromarray(np.ascontiguousarray(RED[..., ::-1])).convert("CMYK").save(data, "jpeg", quality=95)
    return data.getvalue()


def test_cmyk_jpeg():
    decoded = decode_image(CompressedImage(format="jpeg", data=cmyk_jpeg()))
    assert np.abs(decoded.astype(int) - RED).max() <= 3


def test_cmyk_jpeg_whose_inks_are_not_defined_is_refused():
    data = cmyk_jpeg()
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    data = data[:start] + data[start + 2 + length :]
    with pytest.raises(ConversionError, match="four components without an Adobe marker") as caught:
        decode_image(CompressedImage(format="jpeg", data=data))
    assert caught.value.cause == "encoding"


@settings(max_examples=30, deadline=None)
@given(reduction=st.sampled_from([2, 4, 8]), height=st.integers(1, 90), width=st.integers(1, 90))
def test_reduced_jpeg_has_every_size_rounded_up(reduction, height, width):
    message = compressed_message(np.full((height, width, 3), (10, 100, 200), np.uint8), "jpg")
    assert jpeg_reduction(message, reduction) == reduction
    decoded = decode_image(message, reduction)
    assert decoded.shape == (-(-height // reduction), -(-width // reduction), 3)
    assert np.abs(decoded.astype(int) - (10, 100, 200)).max() <= 3


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("size", [(450, 800), (451, 799)])
def test_reduced_jpeg_keeps_everything_in_its_place(reduction, size):
    """A blurred dot at (u, v), measured from the corner of the image, is found at (u, v) / reduction."""
    v, u = 231.0, 437.0
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    dot = 255 * np.exp(-((rows - v) ** 2 + (columns - u) ** 2) / (2 * 12**2))
    message = compressed_message(np.repeat(dot[..., None], 3, axis=2).astype(np.uint8), "jpg", (1, 100))
    decoded = decode_image(message, reduction)[..., 0].astype(float)
    rows, columns = np.mgrid[: decoded.shape[0], : decoded.shape[1]] + 0.5
    centre = np.array(((decoded * rows).sum(), (decoded * columns).sum())) / decoded.sum()
    np.testing.assert_allclose(centre * reduction, (v, u), atol=0.15)


def test_only_jpeg_is_reduced():
    png, raw = compressed_message(picture(), "png"), raw_message(picture(), "bgr8")
    assert jpeg_reduction(png, 4) == jpeg_reduction(raw, 4) == jpeg_reduction(CompressedImage(), 4) == 1
    for message, reduction in ((png, 2), (raw, 2), (compressed_message(picture(), "jpg"), 3)):
        with pytest.raises(ValueError, match="reduction"):
            decode_image(message, reduction)


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


def test_a_bridge_that_does_not_fit_opencv_costs_images_with_the_reason(monkeypatch):
    """pip's cv_bridge knows the type codes of OpenCV 4; beside OpenCV 5 it takes three channels for many."""

    class Bridge:
        def imgmsg_to_cv2(self, message, encoding):
            return np.ndarray((message.height, message.width, 33), np.uint8, message.data)

    monkeypatch.setattr(image_decoding, "_BRIDGE", Bridge())
    with pytest.raises(ConversionError, match=f"cv_bridge could not convert bgr8 with OpenCV {cv2.__version__}"):
        decode_image(raw_message(picture(), "bgr8"))
