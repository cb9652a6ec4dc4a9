"""Painted surfaces of the rendered world: small BGRA pictures, transparent where there is nothing."""

from __future__ import annotations

import cv2
import numpy as np

Colour = tuple[int, int, int]  # BGR
GLASS: Colour = (70, 60, 50)
TYRE: Colour = (28, 28, 30)
LAMP: Colour = (215, 250, 255)
REAR_LAMP: Colour = (40, 30, 215)


def hsv(
    rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    """A random colour; ranges in degrees (0 to 360), and 0 to 1."""
    h, s, v = rng.uniform(*hue) % 360, rng.uniform(*saturation), rng.uniform(*value)
    bgr = cv2.cvtColor(np.array([[[h, s, v]]], dtype=np.float32), cv2.COLOR_HSV2BGR)[0, 0]
    return tuple(int(round(float(c) * 255)) for c in bgr)


def shade(colour: Colour, factor: float) -> Colour:
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour)


def panel(colour: Colour | None, width: int, height: int) -> np.ndarray:
    """[height, width, 4]: a plain surface, a little darker towards the bottom; None = fully transparent."""
    picture = np.zeros((height, width, 4), dtype=np.uint8)
    if colour is not None:
        fall = np.linspace(1.08, 0.88, height)[:, None, None]
        picture[..., :3] = np.clip(np.array(colour)[None, None] * fall, 0, 255)
        picture[..., 3] = 255
    return picture


def rectangle(picture: np.ndarray, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Fill (left, top, right, bottom), fractions of the picture."""
    height, width = picture.shape[:2]
    left, top, right, bottom = box
    corner = (max(int(round(right * width)) - 1, 0), max(int(round(bottom * height)) - 1, 0))
    cv2.rectangle(picture, (int(round(left * width)), int(round(top * height))), corner, (*colour, 255), -1)


def polygon(picture: np.ndarray, points: list[tuple[float, float]], colour: Colour) -> None:
    """Fill a polygon given in fractions of the picture."""
    height, width = picture.shape[:2]
    cv2.fillPoly(picture, [np.int32([(x * width, y * height) for x, y in points])], (*colour, 255))


def disc(picture: np.ndarray, centre: tuple[float, float], radius: float, colour: Colour, thickness: int = -1) -> None:
    """A disc or ring; the centre in fractions of the picture, the radius in fractions of its height."""
    height, width = picture.shape[:2]
    middle = (int(centre[0] * width), int(centre[1] * height))
    cv2.circle(picture, middle, int(radius * height), (*colour, 255), thickness, cv2.LINE_AA)


def wheels(picture: np.ndarray, positions: tuple[float, ...], radius: float, hub: Colour = (150, 150, 150)) -> None:
    """Wheels standing on the lower edge; everything else in the lowest part becomes transparent."""
    picture[int(picture.shape[0] * (1 - 0.55 * radius)) :] = 0
    for x in positions:
        disc(picture, (x, 1 - radius), radius, TYRE)
        disc(picture, (x, 1 - radius), radius * 0.45, hub)


def stripes(colour_a: Colour, colour_b: Colour, width: int, height: int, period: int, slope: float = 1.0) -> np.ndarray:
    """[height, width, 4] diagonal stripes; slope 0 = upright ones. The period is in pixels."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    first = ((x + slope * y) // (period / 2)) % 2 == 0
    picture = np.full((height, width, 4), 255, dtype=np.uint8)
    picture[..., :3] = np.where(first[..., None], colour_a, colour_b)
    return picture


def window_rows(
    picture: np.ndarray,
    columns: int,
    top: float,
    bottom: float,
    left: float = 0.04,
    right: float = 0.96,
    colour: Colour = GLASS,
):
    """A band of windows between the heights `top` and `bottom` (fractions)."""
    step = (right - left) / columns
    for i in range(columns):
        rectangle(picture, (left + i * step, top, left + (i + 0.86) * step, bottom), colour)


def facade(rng: np.random.Generator, floors: int, columns: int) -> np.ndarray:
    """A wall of a house with rows of windows."""
    wall = hsv(rng, (15, 45), (0.05, 0.25), (0.45, 0.75))
    picture = panel(wall, 16 * columns, 16 * floors)
    for floor in range(floors):
        lit = rng.random(columns) < 0.12
        for column in range(columns):
            colour = (150, 200, 225) if lit[column] else shade((120, 105, 90), rng.uniform(0.7, 1.1))
            left, top = (column + 0.25) / columns, (floor + 0.2) / floors
            rectangle(picture, (left, top, left + 0.5 / columns, top + 0.6 / floors), colour)
    return picture


def foliage(rng: np.random.Generator) -> np.ndarray:
    """The crown of a tree: blobs of green on transparent ground."""
    picture = panel(None, 64, 64)
    for radius in np.linspace(0.24, 0.08, 70):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.46 - radius)
        green = hsv(rng, (75, 125), (0.35, 0.6), (0.22, 0.5))
        disc(picture, (0.5 + distance * np.cos(angle), 0.5 + distance * np.sin(angle)), radius, green)
    return picture


def soft_shadow(size: int = 64) -> np.ndarray:
    """[size, size, 4] factors (255 = untouched) of the shadow beneath an object, soft at its rim."""
    picture = np.full((size, size, 4), 255, dtype=np.uint8)
    cv2.rectangle(
        picture, (size // 6, size // 6), (size - size // 6 - 1, size - size // 6 - 1), (105, 100, 95, 255), -1
    )
    picture = cv2.GaussianBlur(picture, (0, 0), size / 14)
    picture[..., 3] = 255
    return picture


def rim_colour(picture: np.ndarray) -> tuple[int, int, int, int]:
    """The mean colour of what is opaque, fully transparent: what a texture blends into at its edges."""
    opaque = picture[picture[..., 3] > 127]
    mean = opaque[:, :3].mean(axis=0) if len(opaque) else np.zeros(3)
    return (*(int(0.8 * c) for c in mean), 0)


def fill_transparent(picture: np.ndarray) -> np.ndarray:
    """A copy whose transparent pixels have the rim's colour, so that interpolation draws no black outline."""
    filled = np.ascontiguousarray(picture)
    filled[filled[..., 3] <= 127] = rim_colour(picture)
    return filled


def pyramid(picture: np.ndarray) -> list[np.ndarray]:
    """The picture at falling sizes, each half the one before, so that far faces do not flicker."""
    levels = [picture]
    while min(levels[-1].shape[:2]) > 4 and len(levels) < 6:
        half = (max(levels[-1].shape[1] // 2, 1), max(levels[-1].shape[0] // 2, 1))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return levels
