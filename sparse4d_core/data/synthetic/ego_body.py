"""The own vehicle in rendered pictures: bonnet, tail and flanks at their lower edge, painted and shining."""

from __future__ import annotations

import cv2
import numpy as np

from .cameras import CameraMount

PAINT = (58, 42, 36)  # BGR
_MIRRORED = 0.35  # of the surroundings, in the paint
_FRONT, _REAR, _FLANK = 0.17, 0.14, 0.24  # of the image's height, where the body is highest


def body_mask(camera: CameraMount, image_wh: tuple[int, int]) -> np.ndarray:
    """[H, W] bool, True where the body is: an arc for cameras along the vehicle, a wedge in a corner for the others."""
    width, height = image_wh
    across = np.linspace(-1, 1, width)
    forward, left = camera.T_ego_from_cam[:2, 2]  # of the direction that the camera looks in
    if abs(forward) > 0.85:
        top, fall = (_FRONT, 0.09) if forward > 0 else (_REAR, 0.05)
        share = top - fall * across**2
    else:  # the own bonnet, or tail, is where the camera's view comes nearest to the vehicle's axis
        side = 1 if (left > 0) == (forward > 0) else -1
        share = _FLANK * np.clip(side * across - 0.25, 0, None)
    return np.arange(height)[:, None] >= height * (1 - share)[None, :]


def draw_body(image: np.ndarray, mask: np.ndarray) -> None:
    """Paints the body onto an image [H, W, 3] BGR, in place, with what is above it mirrored in its paint."""
    first = int(np.argmax(mask.any(axis=1)))
    if not mask[first].any():
        return
    part, rows = mask[first:], mask.shape[0] - first
    mirrored = cv2.flip(image[max(first - rows, 0) : first], 0)
    mirrored = cv2.resize(mirrored, (image.shape[1], rows), interpolation=cv2.INTER_LINEAR)
    paint = (1 - _MIRRORED) * np.array(PAINT, np.float32) + _MIRRORED * mirrored.astype(np.float32)
    image[first:][part] = np.clip(paint, 0, 255).astype(np.uint8)[part]
