"""Random variation of training samples. Images and calibration move together, as do boxes and poses.

one draw per sequence:  scale, crop, flip, small rotation of the images; rotation of the world about the z axis
one draw per stretch:   cameras that give no image
one draw per image:     brightness, contrast, saturation, hue, channel order
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ...config import ImageConfig
from ...preprocess import ImageTransform, test_time_transform
from ...types import Frame
from ..schedule import AugmentationConfig


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for all cameras alike; the transform that comes of it depends on the size of an image."""

    image: ImageConfig
    scale: float | None = None  # of images of `image.original_wh`; None: images are treated as outside training
    bottom_crop: float = 0.0  # share of the rows that the crop leaves out below
    left_crop: float = 0.0  # share of the columns beside the crop that lie left of it
    flip: bool = False
    rotate_deg: float = 0.0
    bev_rotation: float = 0.0  # rad: the world turns by it about the model frame's z axis

    def transform(self, image_wh: tuple[int, int]) -> ImageTransform:
        """For images of `image_wh` pixels. Their scale is to the one outside training as the scale drawn is to that of
        `image.original_wh`: images of any shape are trained at the scales at which they are seen later."""
        if self.scale is None:
            return test_time_transform(self.image, image_wh)
        width, height = image_wh
        input_width, input_height = self.image.input_wh
        here, original = (test_time_transform(self.image, wh).scale for wh in (image_wh, self.image.original_wh))
        scale = self.scale * (here / original)  # exactly the scale drawn where the sizes are the same
        new_width, new_height = int(width * scale), int(height * scale)
        top = int((1 - self.bottom_crop) * new_height) - input_height
        left = int(self.left_crop * max(0, new_width - input_width))
        crop = (left, top, left + input_width, top + input_height)
        return ImageTransform(scale, crop, self.flip, self.rotate_deg)


def draw_augmentation(config: AugmentationConfig, image: ImageConfig, rng: np.random.RandomState) -> Augmentation:
    """One random augmentation, drawn in the published order."""
    if config.scale_range is None:
        return Augmentation(image)
    return Augmentation(
        image,
        scale=rng.uniform(*config.scale_range),
        bottom_crop=rng.uniform(*config.bottom_crop_range),
        left_crop=rng.uniform(),
        flip=bool(config.flip and rng.choice([0, 1])),
        rotate_deg=rng.uniform(*config.rotation_range_deg),
        bev_rotation=rng.uniform(*config.bev_rotation_range),
    )


def cameras_gone(config: AugmentationConfig, cameras: int, step: int, rng: np.random.RandomState) -> frozenset[int]:
    """Cameras without an image in frame `step` of a sequence; `rng` is the sequence's own, from its beginning.

    One camera always stays.
    """
    first, end = config.cameras_gone_frames
    while step >= 0:
        step -= rng.randint(first, end + 1)
        count = min(int(rng.choice(config.cameras_gone)), cameras - 1)
        gone = rng.permutation(cameras)[:count]
    return frozenset(gone.tolist())


def rotation_about_z(angle: float) -> np.ndarray:
    """[4, 4] float64."""
    matrix = np.eye(4)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    return matrix


def rotate_world(frame: Frame, angle: float) -> Frame:
    """The same frame in a model frame turned by -angle, in which the world appears turned by `angle`."""
    inverse = rotation_about_z(-angle)
    return replace(
        frame,
        T_cam_from_model=frame.T_cam_from_model @ inverse,
        T_global_from_model=frame.T_global_from_model @ inverse,
    )


def rotate_boxes(boxes: np.ndarray, angle: float) -> np.ndarray:
    """Boxes [n, 9] (x y z, length width height, yaw, vx vy) turned about the z axis; their yaw is not wrapped."""
    rotation = rotation_about_z(angle)[:2, :2]
    turned = np.array(boxes, dtype=np.float64)
    turned[:, :2] = turned[:, :2] @ rotation.T
    turned[:, 6] += angle
    turned[:, 7:9] = turned[:, 7:9] @ rotation.T
    return turned


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """To [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


class PhotometricDistortion:
    """Brightness, contrast, saturation, hue and channel order of single images, each with probability 1/2.

    Contrast comes before or after saturation and hue, by another draw (as in SSD, Liu et al. 2016).
    """

    def __init__(self, rng: np.random.RandomState):
        self._rng = rng

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """image [H, W, 3] BGR of values 0 to 255 -> float32, which may leave that range."""
        rng = self._rng
        image = image.astype(np.float32)
        if rng.randint(2):
            image += np.float32(rng.uniform(-32, 32))
        contrast_first = rng.randint(2)
        if contrast_first and rng.randint(2):
            image *= np.float32(rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if rng.randint(2):
            image[..., 1] *= np.float32(rng.uniform(0.5, 1.5))
        if rng.randint(2):
            image[..., 0] += np.float32(rng.uniform(-18, 18))
            image[..., 0][image[..., 0] > 360] -= 360
            image[..., 0][image[..., 0] < 0] += 360
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
        if not contrast_first and rng.randint(2):
            image *= np.float32(rng.uniform(0.5, 1.5))
        if rng.randint(2):
            image = image[..., rng.permutation(3)]
        return image
