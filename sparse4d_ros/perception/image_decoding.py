"""sensor_msgs/Image and CompressedImage ► BGR pixels. Damaged data is an error, never a grey picture.

Works on anything with the fields of the messages: rclpy's classes and those of a bag reader alike.
"""

from __future__ import annotations

import zlib
from typing import Any

import cv2
import numpy as np
from cv_bridge import CvBridge, CvBridgeError

# Encodings of sensor_msgs/image_encodings that cv_bridge's pip build lacks or gets wrong. YUV 4:2:2 has two channels:
# `yuv422` and `uyvy` are U Y V Y, `yuv422_yuy2` and `yuyv` are Y U Y V. OpenCV names Bayer patterns by the second row.
_OPENCV_CONVERSIONS = {
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUY2),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
}
_BRIDGE_CHANNELS = {"bgr8": 3, "rgb8": 3, "mono8": 1, "bgra8": 4, "rgba8": 4, "8UC3": 3, "8UC1": 1}
_BRIDGE_ALIASES = {"8UC3": "bgr8", "8UC1": "mono8"}  # untyped channels: the order that OpenCV itself uses
ENCODINGS = tuple(_BRIDGE_CHANNELS) + tuple(_OPENCV_CONVERSIONS)
"""The raw encodings understood."""

_BRIDGE = CvBridge()
JPEG_START, _JPEG_END, _PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"


class ConversionError(ValueError):
    """A message that cannot be used. `cause` is a short, constant name under which such messages are counted."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


def decode_image(message: Any) -> np.ndarray:
    """Pixels of an Image or a CompressedImage as [H, W, 3] uint8, BGR.

    An uncompressed `bgr8` image is a view of the message's own memory.

    Raises:
        ConversionError: cause `encoding`, `image_data` (too short, truncated, damaged) or `image_size` (zero).
    """
    return decode_raw(message) if hasattr(message, "encoding") else decode_compressed(message)


def decode_raw(message: Any) -> np.ndarray:
    """sensor_msgs/Image ► [H, W, 3] uint8, BGR. Row padding (`step`) is honoured."""
    encoding = message.encoding.lower() if message.encoding not in _BRIDGE_CHANNELS else message.encoding
    if encoding in _OPENCV_CONVERSIONS:
        channels, code = _OPENCV_CONVERSIONS[encoding]
        pixels = _rows(message, channels)
        if channels == 2 and message.width % 2:
            raise ConversionError(
                "image_size", f"image: width {message.width} with {encoding}; YUV 4:2:2 needs an even width"
            )
        return cv2.cvtColor(pixels, code)
    if encoding not in _BRIDGE_CHANNELS:
        raise ConversionError(
            "encoding", f"image: encoding {message.encoding!r}; expected one of {', '.join(ENCODINGS)}"
        )
    rows = _rows(message, _BRIDGE_CHANNELS[encoding])
    try:
        return _BRIDGE.imgmsg_to_cv2(_Packed(rows, _BRIDGE_ALIASES.get(encoding, encoding)), "bgr8")
    except (CvBridgeError, cv2.error, KeyError) as error:
        raise ConversionError("image_data", f"image: cv_bridge could not convert {encoding}: {error}") from error


class _Packed:
    """The fields of an Image without row padding, as cv_bridge reads them (its pip build ignores `step`)."""

    def __init__(self, rows: np.ndarray, encoding: str):
        self.height, self.width = rows.shape[:2]
        self.encoding, self.is_bigendian, self.step = encoding, 0, rows.strides[0]
        self.data = rows.reshape(-1).data


def _rows(message: Any, channels: int) -> np.ndarray:
    """[H, W, channels] uint8 (C-contiguous) of an 8-bit image; a view where rows have no padding."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ConversionError("image_size", f"image: {width}x{height} pixels; expected a positive size")
    if step < width * channels:
        raise ConversionError(
            "image_data", f"image: step {step} bytes; {width} pixels of {message.encoding} need {width * channels}"
        )
    data = np.frombuffer(message.data, np.uint8)
    if data.size < step * height:
        raise ConversionError(
            "image_data", f"image: {data.size} bytes; {height} rows of {step} bytes need {step * height}"
        )
    rows = data[: step * height].reshape(height, step)[:, : width * channels]
    return np.ascontiguousarray(rows).reshape(height, width, channels)


def decode_compressed(message: Any) -> np.ndarray:
    """sensor_msgs/CompressedImage (JPEG or PNG) ► [H, W, 3] uint8, BGR."""
    check_complete(memoryview(message.data).cast("B"))
    try:
        image = _BRIDGE.compressed_imgmsg_to_cv2(message)
    except (CvBridgeError, cv2.error) as error:
        raise ConversionError("image_data", f"compressed image: {error}") from error
    if image is None:
        raise ConversionError("image_data", f"compressed image ({message.format}): OpenCV cannot decode it")
    if image.dtype != np.uint8:
        raise ConversionError("encoding", f"compressed image ({message.format}): {image.dtype} pixels; expected 8 bits")
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def check_complete(data: memoryview) -> None:
    """Refuse a JPEG or PNG that ends early: OpenCV fills what is missing with grey and says nothing.

    Raises:
        ConversionError: cause `image_data` (truncated, damaged) or `encoding` (neither JPEG nor PNG).
    """
    start = bytes(data[:8])
    if start[:2] == JPEG_START:
        _check_jpeg(bytes(data))
    elif start == _PNG_START:
        _check_png(data)
    elif len(data) == 0:
        raise ConversionError("image_data", "compressed image: no data")
    else:
        raise ConversionError("encoding", f"compressed image: starts with {start.hex()}; expected JPEG or PNG data")


def _check_jpeg(data: bytes) -> None:
    """Walk the segments to the first scan, then find the end marker: scans escape every 0xff (ITU T.81, B.1)."""
    position = 2
    while position + 4 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position] != 0xFF:
            raise ConversionError("image_data", f"JPEG: no marker at byte {position} of {len(data)}: damaged data")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2 + length
        if marker == 0xDA:
            if data.find(_JPEG_END, position) < 0:
                break
            return
    raise ConversionError("image_data", f"JPEG: no end marker in {len(data)} bytes: the image is truncated")


def _check_png(data: memoryview) -> None:
    """Check length and CRC of every chunk up to IEND (PNG specification, section 5.3)."""
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ConversionError("image_data", f"PNG: wrong checksum in the chunk at byte {position}: damaged data")
        if data[position + 4 : position + 8] == b"IEND":
            return
        position = end
    raise ConversionError("image_data", f"PNG: no end chunk in {len(data)} bytes: the image is truncated")
