"""From camera images to network input: one transform moves the image AND its intrinsics.

    camera image ──scale, crop, flip, rotate──► uint8 at network size ──normalize──► float32 planes

The geometry is that of the published models (Sparse4D, nuScenes): Pillow's bicubic filter, the new size truncated to
whole pixels, the lower part kept. `inference/device/device_preprocess.py` does the same on a GPU, to the
last grey level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .config import ImageConfig, Sparse4DConfig
from .model_io import ModelInput
from .resize import RESIZED_PART, Resize
from .types import Frame

REDUCTIONS = (8, 4, 2)  # of a JPEG's size, while it is decoded

_RESIZE_THREADS = 6


@dataclass(frozen=True)
class ImageTransform:
    """Scale, then crop (may leave the image: filled with 0), then mirror, then rotate about the centre of the crop."""

    scale: float = 1.0  # new pixels per old pixel
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, top, right, bottom in scaled pixels
    flip: bool = False  # left-right
    rotate_deg: float = 0.0  # counter-clockwise as seen

    def __post_init__(self):
        left, top, right, bottom = self.crop
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale: expected a positive number, got {self.scale}")
        if right <= left or bottom <= top:
            raise ValueError(f"crop: expected left < right and top < bottom, got {self.crop}")

    @property
    def output_wh(self) -> tuple[int, int]:
        left, top, right, bottom = self.crop
        return right - left, bottom - top

    @property
    def matrix(self) -> np.ndarray:
        """[3, 3] float64: homogeneous pixels of the given image -> pixels of the result."""
        left, top, _, _ = self.crop
        width, height = self.output_wh
        matrix = np.array([[self.scale, 0, -left], [0, self.scale, -top], [0, 0, 1]], dtype=np.float64)
        if self.flip:
            matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]], dtype=np.float64) @ matrix
        angle = math.radians(self.rotate_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        x, y = width / 2, height / 2
        about_centre = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])
        return about_centre @ matrix

    def apply(self, image: np.ndarray, resize: Resize = "pillow") -> np.ndarray:
        """Transform an image [H, W, 3] uint8; the result has the crop's size."""
        result = self._scaled_crop(image, resize)
        if self.flip:
            result = result[:, ::-1]
        if self.rotate_deg:
            rotated = Image.fromarray(np.ascontiguousarray(result)).rotate(self.rotate_deg)
            result = np.asarray(rotated)
        return np.ascontiguousarray(result)

    def apply_intrinsics(self, intrinsics: np.ndarray) -> np.ndarray:
        """[..., 3, 3] float64 camera matrix of the given image -> camera matrix of the result."""
        return self.matrix @ intrinsics

    def _scaled_crop(self, image: np.ndarray, resize: Resize) -> np.ndarray:
        """Resamples only what the crop keeps; equal to scaling the whole image and cropping it."""
        left, top, right, bottom = self.crop
        x0, y0, x1, y1 = kept = self.kept((image.shape[1], image.shape[0]))
        new_wh = self.scaled_wh((image.shape[1], image.shape[0]))
        if new_wh == (image.shape[1], image.shape[0]):
            part = image[y0:y1, x0:x1]
        else:
            part = RESIZED_PART[resize](image, new_wh, kept)
        if kept == tuple(self.crop):
            return part
        padded = np.zeros((bottom - top, right - left, 3), np.uint8)
        padded[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return padded

    def scaled_wh(self, image_wh: tuple[int, int]) -> tuple[int, int]:
        """Size of the whole image after scaling: truncated to whole pixels."""
        return int(image_wh[0] * self.scale), int(image_wh[1] * self.scale)

    def kept(self, image_wh: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what the crop keeps of the scaled image; the rest of the crop is filled with 0.

        Raises:
            ValueError: the crop keeps nothing.
        """
        width, height = self.scaled_wh(image_wh)
        left, top, right, bottom = self.crop
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if x0 >= x1 or y0 >= y1:
            raise ValueError(f"crop: {self.crop} lies outside the scaled image of {width}x{height} pixels")
        return x0, y0, x1, y1


def test_time_transform(config: ImageConfig, image_wh: tuple[int, int]) -> ImageTransform:
    """The fixed transform used outside training, for an image of any size.

    Published geometry: scale until the network input is filled, keep the bottom rows and the horizontal centre. With
    `crop_top` (v1) the image is scaled to `original_wh` and the rows from `crop_top` on are kept.
    """
    width, height = image_wh
    input_width, input_height = config.input_wh
    target_width, target_height = config.input_wh if config.crop_top is None else config.original_wh
    scale = max(target_width / width, target_height / height)
    new_width, new_height = int(width * scale), int(height * scale)
    left = int(max(0, new_width - input_width) / 2)
    top = new_height - input_height if config.crop_top is None else config.crop_top
    return ImageTransform(scale, (left, top, left + input_width, top + input_height))


test_time_transform.__test__ = False  # "test" as in test time: pytest must not collect it


def decoding_reduction(config: ImageConfig, image_wh: tuple[int, int]) -> int:
    """How far a JPEG of this size may be reduced while it is decoded, if the image is not to be enlarged afterwards.

    Returns:
        1, 2, 4 or 8: sizes are divided by it and rounded up, intrinsics are divided by it exactly.
    """
    scale = test_time_transform(config, image_wh).scale
    return next((reduction for reduction in REDUCTIONS if scale * reduction <= 1), 1)


def normalize(image: np.ndarray, config: ImageConfig, out: np.ndarray | None = None) -> np.ndarray:
    """(image - mean) / std as planes.

    Args:
        image: [H, W, 3] BGR, uint8 or (after augmentation) float32 of the same range.
        out: [3, H, W] float32 to write into.

    Returns:
        [3, H, W] float32 in the channel order of `config` (RGB or BGR).
    """
    table = normalization_table(config.mean, config.std)
    if out is None:
        out = np.empty((3, *image.shape[:2]), np.float32)
    channels = cv2.split(image)
    for plane, channel in enumerate(channels[::-1] if config.to_rgb else channels):
        if image.dtype == np.uint8:
            cv2.LUT(channel, table[plane], dst=out[plane])
        else:
            np.subtract(channel, config.mean[plane], out=out[plane])
            out[plane] /= config.std[plane]
    return out


def preprocess(frame: Frame, config: Sparse4DConfig, resize: Resize = "pillow") -> ModelInput:
    """Network input of one frame (batch 1), by the test-time transform of the preset.

    A missing camera (image None) becomes a grey image whose projection sends every point outside of it, so that no
    instance takes anything from it.

    Args:
        resize: what makes the images smaller.

    Raises:
        ValueError: for images or calibration of another shape or type, for calibration that is not finite, or if all
            cameras are missing.
    """
    check_frame(frame)
    transforms = test_time_transforms(frame, config.image)
    width, height = config.image.input_wh
    pixels = np.zeros((len(frame.images), 3, height, width), np.float32)

    def fill(camera: int) -> None:
        transform = transforms[camera]
        if transform is not None:
            normalize(transform.apply(frame.images[camera], resize), config.image, out=pixels[camera])

    list(image_pool().map(fill, range(len(frame.images))))
    return model_input(frame, transforms, pixels, (width, height))


def test_time_transforms(frame: Frame, config: ImageConfig) -> list[ImageTransform | None]:
    """The transform of each image, None where the camera is missing."""
    sizes = [None if image is None else (image.shape[1], image.shape[0]) for image in frame.images]
    return [None if size is None else test_time_transform(config, size) for size in sizes]


test_time_transforms.__test__ = False


def model_input(
    frame: Frame, transforms: Sequence[ImageTransform | None], pixels: np.ndarray | Tensor, input_wh: tuple[int, int]
) -> ModelInput:
    """Network input from normalised pixels [N, 3, H, W] and the transforms (None: camera missing) they went through."""
    cameras = len(transforms)
    projection = np.empty((cameras, 4, 4), np.float64)
    focal = np.zeros(cameras, np.float64)
    for camera, transform in enumerate(transforms):
        if transform is None:
            projection[camera] = _projection_to_nowhere(input_wh[0])
            continue
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = transform.apply_intrinsics(frame.intrinsics[camera])
        projection[camera] = intrinsics @ frame.T_cam_from_model[camera]
        focal[camera] = transform.scale * frame.intrinsics[camera, 0, 0]
    return ModelInput(
        images=torch.as_tensor(pixels)[None],
        projection=torch.from_numpy(projection).to(torch.float32)[None],
        image_wh=torch.tensor(input_wh, dtype=torch.float32).expand(1, cameras, 2),
        timestamp=torch.tensor([frame.stamp_ns * 1e-9], dtype=torch.float64),
        T_global_from_model=torch.from_numpy(np.asarray(frame.T_global_from_model, np.float64))[None],
        focal=torch.from_numpy(focal).to(torch.float32)[None],
    )


def collate(inputs: Sequence[ModelInput]) -> ModelInput:
    """One batch from several inputs of the same number of cameras and size."""
    if not inputs:
        raise ValueError("inputs: expected at least one ModelInput, got none")
    joined = {}
    for field in fields(ModelInput):
        values = [getattr(item, field.name) for item in inputs]
        joined[field.name] = None if any(value is None for value in values) else torch.cat(values)
    return ModelInput(**joined)


def check_frame(frame: Frame) -> None:
    """Refuse what would give wrong boxes silently.

    Raises:
        ValueError: naming the field, what was expected and what came.
    """
    cameras = len(frame.images)
    if not any(image is not None for image in frame.images):
        raise ValueError(f"images: all {cameras} cameras are missing; expected at least one image")
    for index, image in enumerate(frame.images):
        if image is not None and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size):
            name = frame.camera_names[index] if frame.camera_names else index
            raise ValueError(
                f"images: camera {name} has shape {image.shape} of {image.dtype}; expected [H, W, 3] of uint8 (BGR)"
            )
    expected = {
        "intrinsics": (cameras, 3, 3),
        "T_cam_from_model": (cameras, 4, 4),
        "T_global_from_model": (4, 4),
    }
    for name, shape in expected.items():
        value = np.asarray(getattr(frame, name))
        if value.shape != shape:
            raise ValueError(f"{name}: expected shape {shape} for {cameras} cameras, got {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: holds values that are not finite; check the calibration and the transforms")


def _projection_to_nowhere(width: int) -> np.ndarray:
    """Every point lands one image width left of the image, at depth 1."""
    matrix = np.zeros((4, 4))
    matrix[0, 3] = -width
    matrix[2, 3] = matrix[3, 3] = 1
    return matrix


@cache
def normalization_table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """[3, 256] float32: the normalised value of every grey level, computed in float64."""
    levels = np.arange(256, dtype=np.float64)
    return np.stack([(levels - m) / s for m, s in zip(mean, std, strict=True)]).astype(np.float32)


@cache
def image_pool() -> ThreadPoolExecutor:
    """Pillow and NumPy release the interpreter lock while they work on pixels."""
    return ThreadPoolExecutor(_RESIZE_THREADS, thread_name_prefix="preprocess")
