"""What of the own vehicle is in a camera's picture, taken out of it before the network sees it.

A mask is a picture of the camera's field of view, white (above 127) where the own vehicle is. Those pixels get the mean
colour that the network's input is normalised with, so that they carry nothing: the same as beyond the image's edge.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .config import ImageConfig


def read_mask(path: str | Path) -> np.ndarray:
    """[H, W] bool, True where the own vehicle is.

    Raises:
        ValueError: no such file, no picture, or one that leaves nothing of the image.
    """
    path = Path(path)
    data = np.fromfile(path, dtype=np.uint8) if path.is_file() else np.empty(0, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    if picture is None:
        raise ValueError(f"ego_mask: {path} is no picture that can be read")
    mask = picture > 127
    if mask.all():
        raise ValueError(f"ego_mask: {path} is white throughout; white is what is hidden")
    return mask


def hidden_colour(config: ImageConfig) -> tuple[int, int, int]:
    """BGR: the mean of the network's input."""
    mean = config.mean[::-1] if config.to_rgb else config.mean
    return tuple(round(value) for value in mean)


def hide(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of an image [H, W, 3] with one colour where the mask, scaled to its size, is True."""
    height, width = image.shape[:2]
    if mask.shape != (height, width):
        mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    hidden = np.array(image)
    hidden[mask] = colour
    return hidden
