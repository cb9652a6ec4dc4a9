"""Images as weather, light and sensors spoil them: those types of RoboBEV (arXiv 2405.17426) that change pixels.

The types and their three severities are those of the benchmark; how each is computed, and how strong it is, is our own,
so that numbers compare between models measured here and only roughly with the benchmark's tables. Strengths are given
by severity, easy, moderate, hard; lengths are parts of the image's width, so that they mean the same at any size.

Every function takes an image [H, W, 3] uint8 BGR, a severity of 0 to 2 and random numbers, and returns a new image.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SEVERITIES = ("easy", "moderate", "hard")

_BRIGHTER = (0.2, 0.4, 0.5)  # added to the value (HSV) of 0 to 1
_LIGHT_LEFT = (0.45, 0.3, 0.18)  # of the light that falls onto the sensor
_FULL_WELL = (900.0, 500.0, 250.0)  # electrons of a white pixel in full light: fewer of them are noisier
_READ_NOISE = (2.0, 3.0, 4.0)  # electrons
_FOG = (0.35, 0.5, 0.65)  # share of the fog in a pixel where it is of mean thickness
_FLAKES = (0.004, 0.009, 0.016)  # share of pixels where a flake begins
_BLUR = (0.012, 0.022, 0.034)  # of the width, length of the motion
_BITS = (4, 3, 2)  # a colour channel


def brightness(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Overexposed: light that is added to every pixel and cut off at white."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_BGR2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + _BRIGHTER[severity], 1)
    return _to_uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def low_light(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Night: less light, with the noise of few electrons and of reading them out."""
    electrons = (image.astype(np.float32) / 255) ** 2.2 * _FULL_WELL[severity] * _LIGHT_LEFT[severity]
    noisy = rng.poisson(electrons) + rng.normal(0, _READ_NOISE[severity], image.shape)
    return _to_uint8(np.clip(noisy / _FULL_WELL[severity], 0, 1) ** (1 / 2.2))


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Banks of light grey, thicker and thinner over the image, and less contrast behind them."""
    height, width = image.shape[:2]
    thickness = _clouds(height, width, rng)
    share = np.clip(_FOG[severity] * (0.55 + 0.9 * thickness), 0, 0.95)[..., None]
    return _to_uint8((image.astype(np.float32) / 255) * (1 - share) + 0.82 * share)


def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Flakes that leave streaks as they fall, over a picture that has lost colour."""
    height, width = image.shape[:2]
    flakes = (rng.random((height, width)) < _FLAKES[severity]).astype(np.float32)
    streaks = cv2.filter2D(flakes, -1, _line(max(3, round(0.012 * width)), rng.uniform(55, 125)))
    streaks = cv2.GaussianBlur(streaks, (0, 0), max(0.4, 0.0012 * width))
    streaks = np.clip(streaks / max(float(np.percentile(streaks, 99.5)), 1e-6), 0, 1)[..., None]
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None].astype(np.float32) / 255
    pale = 0.75 * image.astype(np.float32) / 255 + 0.25 * np.maximum(grey, 1.2 * grey**0.5 * 0.7)
    return _to_uint8(pale * (1 - 0.9 * streaks) + 0.95 * streaks)


def motion_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The camera moved while the shutter was open: a streak in one direction, the same over the image."""
    length = max(3, round(_BLUR[severity] * image.shape[1]))
    return cv2.filter2D(image, -1, _line(length, rng.uniform(-45, 45)), borderType=cv2.BORDER_REPLICATE)


def color_quant(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Fewer bits a channel, as a bad link or encoder leaves them."""
    levels = (1 << _BITS[severity]) - 1
    table = np.round(np.round(np.arange(256) / 255 * levels) / levels * 255).astype(np.uint8)
    return cv2.LUT(image, table)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    function.__name__: function for function in (brightness, low_light, fog, snow, motion_blur, color_quant)
}


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image * 255), 0, 255).astype(np.uint8)


def _line(length: int, degrees: float) -> np.ndarray:
    """A kernel of so many pixels in a row, rotated; its sum is 1."""
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), degrees, 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return kernel / kernel.sum()


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[H, W] 0 to 1: random fields of growing fineness and falling weight, added up."""
    field, cells, weight = np.zeros((height, width), np.float32), 3, 1.0
    for _ in range(5):
        rough = rng.random((cells, 2 * cells)).astype(np.float32)
        field += weight * cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = 2 * cells, 0.5 * weight
    low, high = float(field.min()), float(field.max())
    return (field - low) / max(high - low, 1e-6)
