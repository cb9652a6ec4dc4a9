"""sensor_msgs/Image and CompressedImage ► BGR pixels. Damaged data is an error, never a grey picture.

Works on anything with the fields of the messages: rclpy's classes and those of a bag reader alike.

Numbers of 16 bits are scaled to 8 (`raw_encodings.to_8_bits`). A JPEG can be decoded at half, a quarter or an eighth of
its size for a fraction of the time; that is not what published models were trained on.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import cv2
import numpy as np
from cv_bridge import CvBridge, CvBridgeError

from .raw_encodings import RAW_ENCODINGS, RawEncoding, to_8_bits

ENCODINGS = tuple(RAW_ENCODINGS)
"""The raw encodings understood."""

_BRIDGE = CvBridge()
JPEG_START, _JPEG_END, _PNG_START = b"\xff\xd8", b"\xff\xd9", b"\x89PNG\r\n\x1a\n"
_NOT_FRAMES = {0xC4, 0xC8, 0xCC}  # markers between 0xC0 and 0xCF that do not start a frame (ITU T.81, table B.1)
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


class ConversionError(ValueError):
    """A message that cannot be used. `cause` is a short, constant name under which such messages are counted."""

    def __init__(self, cause: str, message: str):
        super().__init__(message)
        self.cause = cause


def decode_image(message: Any, reduction: int = 1) -> np.ndarray:
    """Pixels of an Image or a CompressedImage as [H, W, 3] uint8, BGR.

    An uncompressed `bgr8` image is a view of the message's own memory.

    Args:
        reduction: 1, or what `jpeg_reduction` returned for this message: 2, 4 or 8. H and W are those of the message
            divided by it and rounded up; pixel (u, v) of the message lies at (u / reduction, v / reduction).

    Raises:
        ConversionError: cause `encoding`, `image_data` (too short, too long, truncated, damaged) or `image_size` (zero,
            or not possible with this encoding).
        ValueError: a reduction that is not possible.
    """
    if hasattr(message, "encoding"):
        if reduction != 1:
            raise ValueError(f"reduction: only JPEG data have one; got {reduction} for a raw image")
        return decode_raw(message)
    return decode_compressed(message, reduction)


def jpeg_reduction(message: Any, wanted: int) -> int:
    """`wanted` for JPEG data, 1 for everything else: only JPEG saves time by it."""
    is_jpeg = not hasattr(message, "encoding") and bytes(message.data[:2]) == JPEG_START
    return wanted if is_jpeg else 1


def compressed_wh(message: Any) -> tuple[int, int] | None:
    """Width and height that JPEG or PNG data give at their beginning; None for raw images and other data."""
    data = b"" if hasattr(message, "encoding") else bytes(message.data)
    if data[:8] == _PNG_START:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    position = 2
    while data[:2] == JPEG_START and position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else 2 + length  # a fill byte, or a segment
    return None


# ----------------------------------------------------------------------------------------------------------------- raw


def decode_raw(message: Any) -> np.ndarray:
    """sensor_msgs/Image ► [H, W, 3] uint8, BGR. Row padding (`step`) and byte order (`is_bigendian`) are honoured."""
    layout = RAW_ENCODINGS.get(message.encoding.lower())
    if layout is None:
        raise ConversionError(
            "encoding",
            f"image: encoding = {message.encoding!r}; expected one of {', '.join(ENCODINGS)}: convert it in the driver",
        )
    _check_size(message, layout)
    rows = _rows(message, layout)
    if layout.bridge:
        return _through_bridge(rows, layout.bridge)
    pixels = rows if layout.to_bgr is None else cv2.cvtColor(rows, layout.to_bgr)
    return pixels if layout.dtype == np.uint8 else to_8_bits(pixels)


def _through_bridge(rows: np.ndarray, encoding: str) -> np.ndarray:
    try:
        return _BRIDGE.imgmsg_to_cv2(_Packed(rows, encoding), "bgr8")
    except (TypeError, cv2.error, KeyError) as error:  # TypeError: CvBridgeError, and pip's bridge beside OpenCV 5
        text = f"image: cv_bridge could not convert {encoding} with OpenCV {cv2.__version__}: {error}"
        raise ConversionError("image_data", text) from error


class _Packed:
    """The fields of an Image without row padding, as cv_bridge reads them (its pip build ignores `step`)."""

    def __init__(self, rows: np.ndarray, encoding: str):
        self.height, self.width = rows.shape[:2]
        self.encoding, self.is_bigendian, self.step = encoding, 0, rows.strides[0]
        self.data = rows.reshape(-1).data


def _check_size(message: Any, layout: RawEncoding) -> None:
    height, width = message.height, message.width
    needs = f"at least {layout.smallest}x{layout.smallest} pixels"
    ok = min(height, width) >= layout.smallest
    if layout.even_width:
        needs = "an even width" + (" and height" if layout.chroma_rows else "")
        ok = ok and not width % 2 and not (layout.chroma_rows and height % 2)
    if not ok:
        raise ConversionError(
            "image_size",
            f"image: width, height = {width}, {height}; expected {needs} with {message.encoding}: check the driver",
        )


def _rows(message: Any, layout: RawEncoding) -> np.ndarray:
    """[H, W, channels] uint8 or uint16 (C-contiguous, [H, W] with one channel); a view where rows have no padding.

    With chroma rows H is 3/2 of the image's.
    """
    width, step, bytes_each = message.width, message.step, np.dtype(layout.dtype).itemsize
    height = message.height * 3 // 2 if layout.chroma_rows else message.height
    used = width * layout.channels * bytes_each
    if step < used:
        raise ConversionError(
            "image_data",
            f"image: step = {step} bytes; expected at least {used} for {width} pixels of {message.encoding}: the "
            "driver states the wrong step or encoding",
        )
    data = np.frombuffer(message.data, np.uint8)
    if data.size != step * height:
        raise ConversionError(
            "image_data",
            f"image: data = {data.size} bytes, too {'short' if data.size < step * height else 'long'}; expected "
            f"{step * height} for {height} rows of {step} bytes: the driver states the wrong size, step or encoding",
        )
    rows = np.ascontiguousarray(data.reshape(height, step)[:, :used])
    if bytes_each == 2:
        rows = rows.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16, copy=False)
    return rows if layout.channels == 1 else rows.reshape(height, width, layout.channels)


# ---------------------------------------------------------------------------------------------------------- compressed


def format_decides_colours(message: Any) -> bool:
    """Whether the JPEG or PNG data by themselves, without the message's `format`, would show other colours.

    Raises:
        ConversionError: cause `encoding`: a depth image.
    """
    encoding, compression = _encodings(message)
    return _is_mosaic(encoding, compression) or "compressed rgb" in compression


def _encodings(message: Any) -> tuple[str, str]:
    """What `format` says of the image and of its compression, in lower case."""
    encoding, _, compression = message.format.lower().partition(";")
    encoding, compression = encoding.strip(), compression.strip()
    if re.fullmatch(r"(16|32|64)[usf]c\d*", encoding):
        raise ConversionError(
            "encoding", f"compressed image: format = {message.format!r}, a depth image; expected colour or grey: check "
            "the topic in the rig file",
        )  # fmt: skip
    return encoding, compression


def _is_mosaic(encoding: str, compression: str) -> bool:
    """Whether a grey image is the sensor's mosaic."""
    return encoding.startswith("bayer_") and encoding in RAW_ENCODINGS and compression == "png compressed"


def decode_compressed(message: Any, reduction: int = 1) -> np.ndarray:
    """sensor_msgs/CompressedImage (JPEG or PNG) ► [H, W, 3] uint8, BGR.

    The data decide what they are. Of `format`, which compressed_image_transport writes as `bgr8; jpeg compressed bgr8`
    and others as `jpeg`, three things count: `compressed rgb8` says that red and blue were exchanged before encoding; a
    Bayer encoding with no target says that a grey PNG is the sensor's mosaic; a depth encoding is refused.
    """
    data = memoryview(message.data).cast("B")
    check_complete(data)
    encoding, compression = _encodings(message)
    image = _decoded(message, data, reduction)
    if image.ndim == 2:
        is_mosaic = _is_mosaic(encoding, compression)
        return cv2.cvtColor(image, RAW_ENCODINGS[encoding].to_bgr if is_mosaic else cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if "compressed rgb" in compression else image


def _decoded(message: Any, data: memoryview, reduction: int) -> np.ndarray:
    """[H, W, 3] BGR or [H, W] grey, uint8."""
    is_jpeg = data[:2] == JPEG_START
    if reduction != 1 and not (is_jpeg and reduction in _REDUCED):
        raise ValueError(f"reduction: expected 1, or 2, 4 or 8 for JPEG data; got {reduction}")
    try:
        if is_jpeg and reduction == 1:
            image = _BRIDGE.compressed_imgmsg_to_cv2(message)
        else:  # cv_bridge has no reduction, and depth and channels that it gives of a PNG differ between its versions
            flags = _REDUCED[reduction] if is_jpeg else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (CvBridgeError, cv2.error) as error:
        raise ConversionError("image_data", f"compressed image ({message.format}): {error}") from error
    if image is None:
        raise ConversionError("image_data", f"compressed image ({message.format}): OpenCV cannot decode it")
    return image if image.dtype == np.uint8 else to_8_bits(image)


def check_complete(data: memoryview) -> None:
    """Refuse a JPEG or PNG that ends early: OpenCV fills what is missing with grey and says nothing.

    Raises:
        ConversionError: cause `image_data` (truncated, damaged) or `encoding` (neither JPEG nor PNG, or a JPEG whose
            colours are not defined).
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
    position, components, adobe = 2, 0, False
    while position + 4 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position] != 0xFF:
            raise ConversionError("image_data", f"JPEG: no marker at byte {position} of {len(data)}: damaged data")
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xEE:
            adobe = data[position + 4 : position + 9] == b"Adobe"
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            components = int.from_bytes(data[position + 9 : position + 10], "big")
        position += 2 + length
        if marker == 0xDA:
            if data.find(_JPEG_END, position) < 0:
                break
            if components == 4 and not adobe:  # only Adobe's marker defines what the four components are
                raise ConversionError("encoding", "JPEG: four components without an Adobe marker; expected 1 or 3")
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
