"""Ground and sky of a rendered scene."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .textures import hsv
from .world import Road, World

_PIXELS_PER_METRE = 12.0
_MARGIN = 75.0  # m of ground painted around the road
_NOISE = 512  # pixels, side of the repeated noise tile

PANORAMA_ELEVATION = (-4.0, 36.0)  # degrees above the horizon that the panorama shows
PANORAMA_WIDTH = 3072  # pixels for the full turn


@dataclass(frozen=True)
class Ground:
    """Pictures of the ground from above, each a quarter the size of the one before, and where they lie."""

    levels: tuple[np.ndarray, ...]  # [H, W, 4] BGRA
    origin: tuple[float, float]  # m, global x and y of the first picture's corner
    colour: tuple[int, int, int]  # BGR beyond the painted part

    def T_global_from_pixel(self, level: int) -> np.ndarray:
        """[3, 3]: homogeneous pixel (column, row) of a level -> (x, y, 1) in metres, on the plane z = 0."""
        metres = 4**level / _PIXELS_PER_METRE
        shift = 0.5 * metres  # a pixel's coordinates are those of its centre
        return np.array([[metres, 0, self.origin[0] + shift], [0, metres, self.origin[1] + shift], [0, 0, 1.0]])


def paint_ground(world: World) -> Ground:
    rng = np.random.default_rng([world.seed, world.index, 1001])
    path, road = world.path, world.road
    s = path.arc_lengths[::2]
    low = np.array([path.x.min(), path.y.min()]) - _MARGIN
    extent = np.array([path.x.max(), path.y.max()]) + _MARGIN - low
    width, height = (int(v) for v in np.ceil(extent * _PIXELS_PER_METRE))
    grass = hsv(rng, (60, 110), (0.2, 0.45), (0.25, 0.45))
    row = np.full((width, 3), grass, dtype=np.uint8)
    picture = np.repeat(row[None], height, axis=0)  # many times faster than filling pixel by pixel

    def line(d: float, metres: float, colour, dashes: tuple[float, float] | None = None) -> None:
        points = np.round((path.pose(s, np.full_like(s, d))[:, :2] - low) * _PIXELS_PER_METRE * 16).astype(np.int32)
        thickness = max(1, int(round(metres * _PIXELS_PER_METRE)))
        if dashes is None:
            cv2.polylines(picture, [points], False, colour, thickness, cv2.LINE_AA, 4)
            return
        on = (s % sum(dashes)) < dashes[0]
        ends = np.flatnonzero(np.diff(on.astype(int))) + 1
        pieces = [piece for piece, keep in zip(np.split(points, ends), np.split(on, ends), strict=True) if keep[0]]
        cv2.polylines(picture, pieces, False, colour, thickness, cv2.LINE_AA, 4)

    asphalt = int(rng.integers(72, 105))
    _paint_road(road, line, asphalt)
    _add_noise(picture, rng)
    levels = [cv2.cvtColor(picture, cv2.COLOR_BGR2BGRA)]
    for _ in range(2):
        previous = levels[-1]
        levels.append(
            cv2.resize(previous, (previous.shape[1] // 4, previous.shape[0] // 4), interpolation=cv2.INTER_AREA)
        )
    return Ground(tuple(levels), (float(low[0]), float(low[1])), grass)


def _paint_road(road: Road, line, asphalt: int) -> None:
    grey = (asphalt + 4, asphalt, asphalt)
    middle = (road.kerb + road.pavement) / 2
    for side in (-1, 1):
        line(side * middle, road.pavement - road.kerb, (150, 152, 155))
    line(0.0, 2 * road.kerb, grey)
    white, yellow = (225, 225, 225), (70, 190, 225)
    for side in (-1, 1):
        line(side * road.kerb, 0.3, (120, 122, 125))
        line(side * (road.parking), road.kerb - road.edge - 0.3, (asphalt - 14,) * 3)
        line(side * road.edge, 0.15, white)
        for lane in range(1, road.lanes):
            line(side * lane * road.lane_width, 0.15, white, (3.0, 6.0))
        line(side * 0.2, 0.14, yellow)


def _add_noise(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Grain and stains, in place."""
    grain = rng.normal(0, 6, (_NOISE, _NOISE)).astype(np.float32)
    for scale, strength in ((16, 9.0), (64, 8.0)):
        coarse = rng.normal(0, strength, (_NOISE // scale, _NOISE // scale)).astype(np.float32)
        grain += cv2.resize(np.pad(coarse, 1, mode="wrap"), None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[
            scale : scale + _NOISE, scale : scale + _NOISE
        ]
    tile = np.clip(grain + 40, 0, 80).astype(np.uint8)[..., None].repeat(3, axis=2)
    for top in range(0, picture.shape[0], _NOISE):
        for left in range(0, picture.shape[1], _NOISE):
            part = picture[top : top + _NOISE, left : left + _NOISE]
            part[:] = cv2.subtract(cv2.add(part, tile[: part.shape[0], : part.shape[1]]), (40, 40, 40, 0))


def paint_panorama(world: World) -> np.ndarray:
    """[H, 2 PANORAMA_WIDTH, 4] BGRA: the far surroundings; rows fall linearly from the highest elevation shown.

    Azimuth grows to the left (counter-clockwise); painted twice side by side, so that a camera's view never wraps.
    """
    rng = np.random.default_rng([world.seed, world.index, 1002])
    width = PANORAMA_WIDTH
    top, bottom = PANORAMA_ELEVATION[1], PANORAMA_ELEVATION[0]
    height = int((top - bottom) * width / 360)
    horizon = int(top * width / 360)
    zenith, haze = (
        np.array(hsv(rng, (205, 222), (0.35, 0.65), (0.65, 0.9))),
        np.array(hsv(rng, (200, 215), (0.05, 0.15), (0.8, 0.92))),
    )
    fade = np.clip(np.linspace(0, 1, height) * height / horizon, 0, 1)[:, None, None] ** 1.5
    picture = np.broadcast_to(zenith * (1 - fade) + haze * fade, (height, width, 3)).copy()
    _paint_clouds(picture, rng, horizon)
    picture = picture.clip(0, 255).astype(np.uint8)
    _paint_skyline(picture, rng, horizon, haze)
    return cv2.cvtColor(np.hstack([picture, picture]), cv2.COLOR_BGR2BGRA)


def _paint_clouds(picture: np.ndarray, rng: np.random.Generator, horizon: int) -> None:
    height, width = picture.shape[:2]
    cover = np.zeros((height, width), dtype=np.float32)
    for columns, rows, weight in ((16, 4, 1.0), (48, 10, 0.6), (128, 24, 0.3)):
        coarse = rng.normal(size=(rows, columns)).astype(np.float32)
        cover += weight * cv2.resize(np.hstack([coarse, coarse[:, :1]]), (width, height), interpolation=cv2.INTER_CUBIC)
    density = np.clip((cover - rng.uniform(0.1, 1.0)) * 0.6, 0, 0.85)[..., None]
    density *= np.clip((horizon - np.arange(height)) / horizon * 3, 0, 1)[:, None, None]
    picture[:] = picture * (1 - density) + 245.0 * density


def _paint_skyline(picture: np.ndarray, rng: np.random.Generator, horizon: int, haze: np.ndarray) -> None:
    """Hills, far houses and trees, blended into the haze."""
    height, width = picture.shape[:2]
    degree = width / 360
    ridge = np.zeros(width)
    for waves in (2, 3, 5, 9):
        ridge += rng.uniform(0.2, 0.7) * np.sin(2 * np.pi * waves * np.arange(width) / width + rng.uniform(0, 6.3))
    ridge = horizon - (1.8 + ridge.clip(-1.5, 3)) * degree
    hill = 0.55 * haze + 0.45 * np.array(hsv(rng, (90, 150), (0.2, 0.35), (0.35, 0.5)))
    picture[np.arange(height)[:, None] > ridge[None]] = hill.astype(np.uint8)
    for _ in range(110):
        left, wide = int(rng.integers(width)), int(rng.uniform(1, 5) * degree)
        rise = rng.uniform(0.8, 5.5) * degree
        colour = 0.35 * haze + 0.65 * np.array(hsv(rng, (10, 60), (0.05, 0.25), (0.4, 0.7)))
        cv2.rectangle(picture, (left, int(horizon - rise)), (left + wide, height), tuple(map(int, colour)), -1)
    for _ in range(260):
        centre = (int(rng.integers(width)), int(horizon - rng.uniform(0.2, 1.2) * degree))
        colour = 0.25 * haze + 0.75 * np.array(hsv(rng, (80, 130), (0.25, 0.45), (0.2, 0.4)))
        cv2.circle(picture, centre, int(rng.uniform(0.6, 1.8) * degree), tuple(map(int, colour)), -1)
