"""Layouts of uncompressed images (sensor_msgs/image_encodings), and what makes BGR of them: cv_bridge, or OpenCV where
cv_bridge's pip build lacks an encoding or gets it wrong."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class RawEncoding:
    """How the pixels of one encoding lie in memory."""

    channels: int  # numbers of a pixel in a row
    to_bgr: int | None = None  # code of cv2.cvtColor; None: BGR already
    bridge: str = ""  # the name under which cv_bridge converts it
    dtype: type = np.uint8  # uint16: in the message's byte order, the full range of 0 to 65535
    even_width: bool = False  # two pixels of a row share their colour
    chroma_rows: bool = False  # 4:2:0: height / 2 rows of colour (two numbers for 2x2 pixels) follow those of luma
    smallest: int = 1  # pixels each way


def _bayer(second_row: int, dtype: type) -> RawEncoding:
    """OpenCV names a pattern by its second row, from the second pixel on; ROS by its first two rows of two."""
    return RawEncoding(1, second_row, dtype=dtype, smallest=3)  # OpenCV leaves narrower ones black


_YUV422 = {"uyvy": cv2.COLOR_YUV2BGR_UYVY, "yuyv": cv2.COLOR_YUV2BGR_YUY2}
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2BGR,
    "bggr": cv2.COLOR_BayerRG2BGR,
    "gbrg": cv2.COLOR_BayerGR2BGR,
    "grbg": cv2.COLOR_BayerGB2BGR,
}

RAW_ENCODINGS: dict[str, RawEncoding] = {
    "bgr8": RawEncoding(3, bridge="bgr8"),
    "rgb8": RawEncoding(3, bridge="rgb8"),
    "mono8": RawEncoding(1, bridge="mono8"),
    "bgra8": RawEncoding(4, bridge="bgra8"),
    "rgba8": RawEncoding(4, bridge="rgba8"),
    "8uc3": RawEncoding(3, bridge="bgr8"),  # untyped channels: the order that OpenCV itself uses
    "8uc1": RawEncoding(1, bridge="mono8"),
    "bgr16": RawEncoding(3, dtype=np.uint16),
    "rgb16": RawEncoding(3, cv2.COLOR_RGB2BGR, dtype=np.uint16),
    "mono16": RawEncoding(1, cv2.COLOR_GRAY2BGR, dtype=np.uint16),
    "bgra16": RawEncoding(4, cv2.COLOR_BGRA2BGR, dtype=np.uint16),
    "rgba16": RawEncoding(4, cv2.COLOR_RGBA2BGR, dtype=np.uint16),
    "uyvy": RawEncoding(2, _YUV422["uyvy"], even_width=True),
    "yuv422": RawEncoding(2, _YUV422["uyvy"], even_width=True),  # the older name
    "yuyv": RawEncoding(2, _YUV422["yuyv"], even_width=True),
    "yuv422_yuy2": RawEncoding(2, _YUV422["yuyv"], even_width=True),  # the older name
    "nv12": RawEncoding(1, cv2.COLOR_YUV2BGR_NV12, even_width=True, chroma_rows=True),
    "nv21": RawEncoding(1, cv2.COLOR_YUV2BGR_NV21, even_width=True, chroma_rows=True),
    **{f"bayer_{pattern}8": _bayer(code, np.uint8) for pattern, code in _BAYER.items()},
    **{f"bayer_{pattern}16": _bayer(code, np.uint16) for pattern, code in _BAYER.items()},
}
"""By the encoding's name in lower case."""


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """uint16 ► uint8: 65535 becomes 255, in between rounded to the nearest (v / 257).

    The full range counts, as the encodings define it. A sensor of 10 or 12 bits must publish its numbers shifted up to
    16 bits; one that leaves them in the lower bits gives a dark picture.
    """
    return cv2.convertScaleAbs(image, alpha=255 / 65535)
