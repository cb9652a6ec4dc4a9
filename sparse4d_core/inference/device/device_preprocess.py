"""From camera images to network input on a device: bytes go up once, resampling and normalisation run there.

    camera image ──rows that count──► one upload of uint8 ──resample, crop──► uint8 ──normalise──► float32 planes

The result equals `preprocess` bit for bit: Pillow's bicubic filter has coefficients in whole multiples of 2^-22 and
rounds to grey levels after the horizontal and again after the vertical pass, and both are done here in integers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import ImageConfig, Sparse4DConfig
from ...model_io import ModelInput
from ...preprocess import (
    ImageTransform,
    check_frame,
    image_pool,
    model_input,
    normalization_table,
    test_time_transforms,
)
from ...types import Frame
from .compiled import Compiled

_FRACTION_BITS = 22  # of a coefficient
_SUPPORT = 2.0  # of the bicubic filter, in pixels of the smaller of the two images
_CACHED = 64  # rigs have at most 12 cameras, and four entries each


class _Axis(NamedTuple):
    """How one axis of the images is resampled: taps [T, n] int64 and their coefficients [T, n] int32 on the device, or,
    where there is nothing to scale, the entries that stay."""

    stay: tuple[int, int]
    taps: Tensor | None = None
    coefficients: Tensor | None = None


def preprocess_on_device(
    frame: Frame, config: Sparse4DConfig, device: torch.device, compile: bool = False
) -> ModelInput:
    """Network input of one frame (batch 1) on the device; the same numbers as `preprocess`.

    Nothing comes back from the device, and nothing waits for it.

    Args:
        compile: run what comes after the upload through torch.compile: one pass over the pixels for each axis, in place
            of three for every tap of the filter.

    Raises:
        ValueError: as `preprocess`.
    """
    check_frame(frame)
    transforms = test_time_transforms(frame, config.image)
    groups = defaultdict(list)  # images of one size share their transform and go through it together
    for camera, image in enumerate(frame.images):
        if image is not None:
            groups[image.shape].append(camera)
    width, height = config.image.input_wh
    host = model_input(frame, transforms, torch.empty(0), (width, height))
    geometry = {name: value for name, value in vars(host).items() if name != "images"}
    uploaded, geometry = _upload(frame, transforms, list(groups.values()), geometry, device)
    planes = [torch.zeros(3, height, width, device=device)] * len(frame.images)  # of missing cameras
    for cameras, rows, top in uploaded:
        image, transform = frame.images[cameras[0]], transforms[cameras[0]]
        normalised = _planes(rows, top, (image.shape[1], image.shape[0]), transform, config.image, compile)
        for camera, result in zip(cameras, normalised, strict=True):
            planes[camera] = result
    return ModelInput(images=torch.stack(planes)[None], **geometry)


def _upload(
    frame: Frame,
    transforms: list[ImageTransform | None],
    groups: list[list[int]],
    geometry: dict[str, Tensor],
    device: torch.device,
) -> tuple[list[tuple[list[int], Tensor, int]], dict[str, Tensor]]:
    """Of each group its cameras, the rows of their images that the result needs, [n, rows, W, 3] uint8 on the device,
    and the first row's number; and the geometry on the device. All travel in one piece, from memory that the device
    reads by itself.
    """
    parts = []
    for cameras in groups:
        height, width = frame.images[cameras[0]].shape[:2]
        parts.append(_rows_needed(transforms[cameras[0]], (width, height)))
    shapes = [
        (len(cameras), last - first, frame.images[cameras[0]].shape[1], 3)
        for cameras, (first, last) in zip(groups, parts, strict=True)
    ]
    # Wide numbers first: each then starts at a multiple of its own size.
    numbers = sorted(geometry, key=lambda name: -geometry[name].element_size())
    sizes = [*(geometry[name].nbytes for name in numbers), *map(math.prod, shapes)]
    staging = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    pieces = staging.split(sizes)
    for name, piece in zip(numbers, pieces, strict=False):
        piece.view(geometry[name].dtype).view(geometry[name].shape).copy_(geometry[name])
    blocks = [block.view(shape).numpy() for block, shape in zip(pieces[len(numbers) :], shapes, strict=True)]
    copies = [
        (block[index], frame.images[camera][first:last])
        for cameras, (first, last), block in zip(groups, parts, blocks, strict=True)
        for index, camera in enumerate(cameras)
    ]
    list(image_pool().map(lambda copy: np.copyto(*copy), copies))
    arrived = staging.to(device, non_blocking=True).split(sizes)
    on_device = {
        name: piece.clone().view(geometry[name].dtype).view(geometry[name].shape)  # the memory must not keep the images
        for name, piece in zip(numbers, arrived, strict=False)
    }
    images = [
        (cameras, block.view(shape), first)
        for cameras, block, shape, (first, _) in zip(groups, arrived[len(numbers) :], shapes, parts, strict=True)
    ]
    return images, on_device


def _rows_needed(transform: ImageTransform, image_wh: tuple[int, int]) -> tuple[int, int]:
    """First and last (exclusive) row of the image that a crop of the scaled image depends on."""
    _, y0, _, y1 = transform.kept(image_wh)
    first, coefficients = _filter(image_wh[1], transform.scaled_wh(image_wh)[1], y0, y1)
    return int(first[0]), min(int(first[-1]) + len(coefficients), image_wh[1])


def _planes(
    rows: Tensor, top: int, image_wh: tuple[int, int], transform: ImageTransform, config: ImageConfig, compile: bool
) -> Tensor:
    """[n, 3, H, W] float32, normalised, of uploaded rows [n, rows, W, 3] of images; the first is row `top` of them."""
    x0, y0, x1, y1 = transform.kept(image_wh)
    new_width, new_height = transform.scaled_wh(image_wh)
    horizontal = _axis(image_wh[0], new_width, x0, x1, 0, rows.shape[2], rows.device)
    vertical = _axis(image_wh[1], new_height, y0, y1, top, rows.shape[1], rows.device)
    left, crop_top, right, bottom = transform.crop
    border = (x0 - left, right - x1, y0 - crop_top, bottom - y1)
    run = _compiled_normalised() if compile else _normalised
    return run(rows, horizontal, vertical, border, _table(config.mean, config.std, rows.device), config.to_rgb)


def _normalised(
    rows: Tensor, horizontal: _Axis, vertical: _Axis, border: tuple[int, int, int, int], table: Tensor, to_rgb: bool
) -> Tensor:
    """[n, rows, W, 3] uint8 -> [n, 3, H, W] float32; `border`: black pixels left, right, above and below."""
    pixels = _resampled(_resampled(rows, 2, horizontal), 1, vertical)
    if any(border):
        pixels = F.pad(pixels, (0, 0, *border))
    channels = pixels.permute(3, 0, 1, 2).long()
    channels = channels.flip(0) if to_rgb else channels
    return torch.stack([table[plane][channels[plane]] for plane in range(3)], dim=1)


@cache
def _compiled_normalised() -> Compiled:
    return Compiled(_normalised, "the preprocessing")


def _axis(
    old_size: int, new_size: int, start: int, stop: int, offset: int, available: int, device: torch.device
) -> _Axis:
    """For entries [start, stop) of an axis that is scaled from `old_size` to `new_size`, from `available` old ones, of
    which the first is number `offset`."""
    stay = (start - offset, stop - offset)
    if old_size == new_size:
        return _Axis(stay)
    return _Axis(stay, *_device_filter(old_size, new_size, start, stop, offset, available, device))


def _resampled(pixels: Tensor, dim: int, axis: _Axis) -> Tensor:
    """The pixels [n, h, w, 3] resampled along `dim`, uint8."""
    if axis.taps is None:
        return pixels.narrow(dim, axis.stay[0], axis.stay[1] - axis.stay[0])
    shape = [1] * pixels.ndim
    shape[dim] = axis.taps.shape[1]
    total = 1 << (_FRACTION_BITS - 1)  # a half, to round
    for tap, coefficient in zip(axis.taps, axis.coefficients, strict=True):
        total = total + pixels.index_select(dim, tap).int() * coefficient.view(shape)
    return (total >> _FRACTION_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(_CACHED)
def _device_filter(
    old_size: int, new_size: int, start: int, stop: int, offset: int, available: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Taps [T, stop - start] int64 into pixels that start at `offset`, and coefficients int32, on the device.

    Taps that the filter does not have are 0 times some pixel that is there.
    """
    first, coefficients = _filter(old_size, new_size, start, stop)
    taps = np.clip(first - offset + np.arange(len(coefficients))[:, None], 0, available - 1)
    return torch.from_numpy(taps).to(device), torch.from_numpy(coefficients).to(device)


@lru_cache(_CACHED)
def _filter(old_size: int, new_size: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Of new pixels [start, stop): the first old pixel that counts, [n] int64, and T coefficients, [T, n] int32.

    Bicubic with a = -0.5, stretched over the old pixels if the image becomes smaller, cut off at the image's border;
    coefficients of a pixel sum to 1 before they are rounded to multiples of 2^-22, halves away from 0.
    """
    if old_size == new_size:
        return np.arange(start, stop), np.full((1, stop - start), 1 << _FRACTION_BITS, np.int32)
    scale = old_size / new_size
    stretch = max(scale, 1.0)
    centre = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum((centre - _SUPPORT * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + _SUPPORT * stretch + 0.5).astype(np.int64), old_size)
    old = first + np.arange((last - first).max())[:, None]
    weights = np.where(old < last, _bicubic((old - centre + 0.5) / stretch), 0.0)
    weights /= weights.sum(0)
    return first, np.trunc(weights * (1 << _FRACTION_BITS) + np.copysign(0.5, weights)).astype(np.int32)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(_CACHED)
def _table(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """[3, 256] float32: the normalised value of every grey level."""
    return torch.from_numpy(normalization_table(mean, std)).to(device)
