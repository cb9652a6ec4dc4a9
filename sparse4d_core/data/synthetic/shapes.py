"""What each class looks like: textured faces in the object's own frame (x forward, y left, z up, origin on the ground).

Every class has a hue family and a silhouette of its own, and a front that differs from its rear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import textures as paint
from .textures import GLASS, LAMP, REAR_LAMP, TYRE, panel, rectangle

Size = tuple[float, float, float]  # length, width, height in metres


@dataclass
class Shape:
    """Parallelogram faces: points `origin + a u + b v`, a and b in [0, 1]; seen from outside u is right and v down."""

    origins: list[np.ndarray] = field(default_factory=list)  # F of [3] m
    u: list[np.ndarray] = field(default_factory=list)  # F of [3] m
    v: list[np.ndarray] = field(default_factory=list)  # F of [3] m
    textures: list[np.ndarray] = field(default_factory=list)  # F of [h, w, 4] BGRA

    def face(self, origin, u, v, texture: np.ndarray) -> None:
        for store, value in ((self.origins, origin), (self.u, u), (self.v, v)):
            store.append(np.asarray(value, dtype=np.float64))
        self.textures.append(texture)

    def sheet(self, origin, u, v, texture: np.ndarray) -> None:
        """A face visible from both sides."""
        self.face(origin, u, v, texture)
        origin, u = np.asarray(origin, dtype=np.float64), np.asarray(u, dtype=np.float64)
        self.face(origin + u, -u, v, texture[:, ::-1])

    def box(self, centre, size, front: np.ndarray, rear: np.ndarray, side: np.ndarray, top: np.ndarray) -> None:
        """A cuboid. `side` is painted with the front on its right."""
        (x, y, z), (l, w, h) = centre, size
        x0, x1, y0, y1, z1 = x - l / 2, x + l / 2, y - w / 2, y + w / 2, z + h / 2
        down = (0, 0, -h)
        self.face((x1, y0, z1), (0, w, 0), down, front)
        self.face((x0, y1, z1), (0, -w, 0), down, rear)
        self.face((x1, y1, z1), (-l, 0, 0), down, side[:, ::-1])
        self.face((x0, y0, z1), (l, 0, 0), down, side)
        self.face((x0, y1, z1), (l, 0, 0), (0, -w, 0), top)

    def block(self, centre, size, colour) -> None:
        """A cuboid of one colour."""
        plain = panel(colour, 8, 8)
        self.box(centre, size, plain, plain, plain, plain)


def _front(colour, windscreen=None, lamps_top: float = 0.35) -> np.ndarray:
    picture = panel(colour, 64, 48)
    if windscreen:
        rectangle(picture, (0.08, windscreen[0], 0.92, windscreen[1]), GLASS)
    rectangle(picture, (0.3, lamps_top + 0.1, 0.7, lamps_top + 0.35), (40, 40, 40))
    for left in (0.05, 0.75):
        rectangle(picture, (left, lamps_top, left + 0.2, lamps_top + 0.22), LAMP)
    return picture


def _rear(colour, window=None, lamps_top: float = 0.3) -> np.ndarray:
    picture = panel(paint.shade(colour, 0.85), 64, 48)
    if window:
        rectangle(picture, (0.15, window[0], 0.85, window[1]), GLASS)
    rectangle(picture, (0.35, lamps_top + 0.15, 0.65, lamps_top + 0.32), (220, 220, 220))
    for left in (0.03, 0.8):
        rectangle(picture, (left, lamps_top, left + 0.17, lamps_top + 0.26), REAR_LAMP)
    return picture


def car(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    colour = paint.hsv(rng, (195, 240), (0.55, 0.95), (0.35, 0.9))
    shape = Shape()
    side = panel(colour, 128, 40)
    rectangle(side, (0.05, 0.3, 0.95, 0.36), paint.shade(colour, 0.6))
    paint.wheels(side, (0.2, 0.79), 0.36)
    shape.box((0, 0, 0.31 * h), (l, w, 0.62 * h), _front(colour), _rear(colour), side, panel(colour, 16, 16))
    # Cabin: slanted screens, trapezoid windows.
    z0, z1 = 0.62 * h, h
    x_rear, x_front, top_rear, top_front, half = -0.42 * l, 0.26 * l, -0.3 * l, 0.08 * l, 0.44 * w
    length = x_front - x_rear
    a, b = (top_rear - x_rear) / length, (top_front - x_rear) / length
    window = panel(None, 96, 32)
    paint.polygon(window, [(0, 1), (a, 0), (b, 0), (1, 1)], colour)
    paint.polygon(window, [(0.1, 0.92), (a + 0.03, 0.18), (b - 0.02, 0.18), (0.9, 0.92)], GLASS)
    rectangle(window, (0.45, 0.1, 0.5, 1), colour)
    shape.face((x_front, half, z1), (-length, 0, 0), (0, 0, z0 - z1), window[:, ::-1])
    shape.face((x_rear, -half, z1), (length, 0, 0), (0, 0, z0 - z1), window)
    for glass, top_x, low_x, sign in ((GLASS, top_front, x_front, 1), (paint.shade(GLASS, 0.7), top_rear, x_rear, -1)):
        screen = panel(colour, 48, 24)
        rectangle(screen, (0.07, 0.1, 0.93, 0.95), glass)
        shape.face((top_x, -sign * half, z1), (0, sign * 2 * half, 0), (low_x - top_x, 0, z0 - z1), screen)
    shape.face(
        (top_rear, half, z1), (top_front - top_rear, 0, 0), (0, -2 * half, 0), panel(paint.shade(colour, 1.1), 16, 16)
    )
    return shape


def truck(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    cab, cargo = paint.hsv(rng, (18, 32), (0.75, 0.95), (0.65, 0.9)), paint.hsv(rng, (22, 36), (0.35, 0.6), (0.45, 0.7))
    shape = Shape()
    cab_side = panel(cab, 48, 64)
    rectangle(cab_side, (0.3, 0.12, 0.9, 0.45), GLASS)
    paint.wheels(cab_side, (0.55,), 0.2)
    shape.box(
        (0.36 * l, 0, 0.42 * h),
        (0.28 * l, 0.94 * w, 0.84 * h),
        _front(cab, (0.1, 0.45), 0.6),
        panel(cab, 8, 8),
        cab_side,
        panel(cab, 8, 8),
    )
    side = paint.stripes(cargo, paint.shade(cargo, 0.85), 128, 64, 16, slope=0)
    paint.wheels(side, (0.16, 0.32), 0.17)
    rear = _rear(cargo, None, 0.72)
    rectangle(rear, (0.48, 0, 0.52, 0.7), paint.shade(cargo, 0.5))
    shape.box(
        (-0.15 * l, 0, 0.5 * h), (0.7 * l, w, h), panel(cargo, 8, 8), rear, side, panel(paint.shade(cargo, 1.1), 16, 16)
    )
    return shape


def bus(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    colour = paint.hsv(rng, (352, 364), (0.8, 0.95), (0.6, 0.85))
    shape = Shape()
    side = panel(colour, 192, 64)
    paint.window_rows(side, 7, 0.18, 0.52)
    rectangle(side, (0, 0.6, 1, 0.66), (230, 230, 235))
    rectangle(side, (0.86, 0.2, 0.93, 0.85), paint.shade(GLASS, 1.3))
    paint.wheels(side, (0.2, 0.76), 0.15)
    rear = _rear(colour, (0.15, 0.35), 0.6)
    shape.box(
        (0, 0, 0.5 * h), (l, w, h), _front(colour, (0.12, 0.58), 0.68), rear, side, panel((225, 225, 230), 16, 16)
    )
    return shape


def trailer(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    white = paint.hsv(rng, (180, 220), (0.0, 0.06), (0.78, 0.95))
    shape = Shape()
    side = paint.stripes(white, paint.shade(white, 0.88), 160, 56, 10, slope=0)
    rectangle(side, (0, 0.78, 1, 0.84), (170, 120, 30))
    side[47:] = 0
    for x in (0.1, 0.2, 0.3):
        paint.disc(side, (x, 0.88), 0.12, TYRE)
    rectangle(side, (0.82, 0.8, 0.84, 1.0), (60, 60, 60))
    front = panel(white, 48, 48)
    rectangle(front, (0.1, 0.1, 0.9, 0.4), (170, 120, 30))
    rear = panel(white, 48, 48)
    rectangle(rear, (0.48, 0, 0.52, 0.8), (110, 110, 110))
    for x in (0.02, 0.86):
        rectangle(rear, (x, 0.72, x + 0.12, 0.8), REAR_LAMP)
    for plate in (front, rear):
        plate[40:] = 0
    shape.box((-0.03 * l, 0, 0.5 * h), (0.94 * l, w, h), front, rear, side, panel(white, 16, 16))
    shape.block((0.45 * l, 0, 0.25 * h), (0.1 * l, 0.2 * w, 0.05 * h), (60, 60, 60))
    return shape


def construction_vehicle(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    yellow = paint.hsv(rng, (48, 56), (0.85, 1.0), (0.85, 1.0))
    shape = Shape()
    track = panel(TYRE, 96, 32)
    for x in np.linspace(0.12, 0.88, 5):
        paint.disc(track, (x, 0.5), 0.3, (85, 85, 85))
    end = panel(TYRE, 16, 8)
    end[:, 5:11] = 0
    shape.box((-0.1 * l, 0, 0.13 * h), (0.75 * l, w, 0.26 * h), end, end, track, panel(TYRE, 8, 8))
    side = panel(yellow, 64, 32)
    rectangle(side, (0, 0.7, 1, 0.85), (30, 30, 30))
    engine_rear = paint.stripes(yellow, (30, 30, 30), 48, 32, 16)
    shape.box(
        (-0.2 * l, 0, 0.42 * h),
        (0.55 * l, 0.85 * w, 0.32 * h),
        panel(yellow, 8, 8),
        engine_rear,
        side,
        panel(yellow, 8, 8),
    )
    cabin = panel(yellow, 32, 32)
    rectangle(cabin, (0.12, 0.12, 0.88, 0.8), GLASS)
    shape.box((-0.02 * l, 0.15 * w, 0.79 * h), (0.25 * l, 0.45 * w, 0.42 * h), cabin, cabin, cabin, panel(yellow, 8, 8))
    shape.block((0.27 * l, -0.1 * w, 0.62 * h), (0.34 * l, 0.14 * w, 0.12 * h), paint.shade(yellow, 0.9))
    shape.block((0.42 * l, -0.1 * w, 0.38 * h), (0.08 * l, 0.14 * w, 0.45 * h), paint.shade(yellow, 0.9))
    shape.block((0.44 * l, -0.1 * w, 0.12 * h), (0.12 * l, 0.4 * w, 0.22 * h), (70, 70, 75))
    return shape


def barrier(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    front = paint.stripes((235, 235, 240), (45, 40, 205), 96, 40, 32)
    rear = paint.stripes((225, 225, 225), (200, 200, 205), 96, 40, 32, slope=0)
    for plate in (front, rear):
        plate[18:24] = 0
        plate[24:, 10:86] = 0
        plate[24:, :10] = plate[24:, 86:] = (90, 90, 90, 255)
    grey = panel((150, 150, 155), 8, 8)
    shape = Shape()
    shape.box((0, 0, 0.5 * h), (0.3 * l, w, h), front, rear, panel((60, 60, 180), 8, 8), grey)
    for y in (-0.44, 0.44):
        shape.block((0, y * w, 0.04 * h), (l, 0.1 * w, 0.08 * h), (80, 80, 80))
    return shape


def _rider(shape: Shape, size: Size, colour, z: float) -> None:
    """A seated person between the height fractions z and 1."""
    l, w, h = size
    rise = (1 - z) * h
    shape.block((-0.08 * l, 0, z * h + 0.32 * rise), (0.2 * l, 0.7 * w, 0.64 * rise), colour)
    shape.block((-0.04 * l, 0, h - 0.17 * rise), (0.13 * l, 0.32 * w, 0.34 * rise), (40, 40, 45))


def motorcycle(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    violet = paint.hsv(rng, (265, 290), (0.6, 0.9), (0.45, 0.75))
    shape = Shape()
    side = panel(None, 96, 48)
    for x in (0.2, 0.8):
        paint.disc(side, (x, 0.66), 0.32, TYRE)
        paint.disc(side, (x, 0.66), 0.12, (140, 140, 140))
    paint.polygon(side, [(0.25, 0.4), (0.3, 0.75), (0.7, 0.75), (0.85, 0.3), (0.6, 0.25)], violet)
    low = 0.62 * h
    shape.sheet((-l / 2, 0, low), (l, 0, 0), (0, 0, -low), side)
    front = panel(violet, 24, 24)
    paint.disc(front, (0.5, 0.35), 0.25, LAMP)
    rear = panel(TYRE, 24, 24)
    rectangle(rear, (0.3, 0.1, 0.7, 0.4), REAR_LAMP)
    body = panel(violet, 24, 16)
    shape.box((0.02 * l, 0, 0.43 * h), (0.6 * l, 0.36 * w, 0.26 * h), front, rear, body, panel(TYRE, 8, 8))
    shape.block((0.3 * l, 0, 0.66 * h), (0.05 * l, w, 0.06 * h), (60, 60, 60))
    if moving:
        _rider(shape, size, paint.shade(violet, 0.7), 0.5)
    else:
        shape.block((0.34 * l, 0, 0.84 * h), (0.04 * l, 0.4 * w, 0.32 * h), (150, 120, 140))
    return shape


def bicycle(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    green = paint.hsv(rng, (125, 160), (0.75, 0.95), (0.55, 0.9))
    shape = Shape()
    side = panel(None, 96, 64)
    for x in (0.2, 0.8):
        paint.disc(side, (x, 0.62), 0.31, TYRE, 5)
    for line in (
        [(0.2, 0.6), (0.42, 0.2), (0.48, 0.2), (0.28, 0.65)],
        [(0.42, 0.2), (0.75, 0.2), (0.75, 0.32), (0.42, 0.32)],
    ):
        paint.polygon(side, line, green)
    paint.polygon(side, [(0.42, 0.2), (0.5, 0.2), (0.55, 0.72), (0.46, 0.72)], green)
    paint.polygon(side, [(0.7, 0.02), (0.77, 0.02), (0.85, 0.62), (0.78, 0.62)], green)
    low = (0.6 if moving else 1.0) * h
    shape.sheet((-l / 2, 0, low), (l, 0, 0), (0, 0, -low), side)
    shape.block((0.0, 0, 0.2 * h), (0.9 * l, 0.1 * w, 0.3 * h), (50, 60, 50)) if moving else None
    shape.block((0.24 * l, 0, 0.97 * low), (0.05 * l, w, 0.05 * h), green)
    if moving:
        _rider(shape, size, green, 0.48)
    return shape


def pedestrian(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    top = paint.hsv(rng, (310, 340), (0.55, 0.9), (0.6, 0.95))
    trousers = paint.hsv(rng, (210, 250), (0.1, 0.4), (0.12, 0.35))
    skin = paint.hsv(rng, (15, 28), (0.3, 0.6), (0.45, 0.9))
    hair = paint.hsv(rng, (20, 40), (0.3, 0.6), (0.1, 0.3))
    shape = Shape()
    legs = panel(trousers, 16, 24)
    apart = legs.copy()
    apart[6:, 7:9] = 0
    shape.box((0, 0, 0.23 * h), (0.35 * l, 0.6 * w, 0.46 * h), apart, apart, legs, legs)
    chest = panel(top, 24, 24)
    rectangle(chest, (0.3, 0.15, 0.7, 0.6), (235, 235, 235))
    back = panel(top, 24, 24)
    rectangle(back, (0.15, 0.05, 0.85, 0.8), (50, 45, 40))
    shape.box((0, 0, 0.65 * h), (0.5 * l, 0.9 * w, 0.38 * h), chest, back, panel(top, 12, 24), panel(top, 8, 8))
    plain_hair = panel(hair, 8, 8)
    shape.box(
        (0, 0, 0.92 * h),
        (0.32 * l, 0.34 * w, 0.16 * h),
        panel(skin, 8, 8),
        plain_hair,
        panel(paint.shade(skin, 0.8), 8, 8),
        plain_hair,
    )
    return shape


def traffic_cone(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    orange = paint.hsv(rng, (12, 18), (0.95, 1.0), (0.95, 1.0))
    shape = Shape()
    side = panel(None, 32, 48)
    paint.polygon(side, [(0.42, 0), (0.58, 0), (0.95, 1), (0.05, 1)], orange)
    band = side[..., 3] > 0
    for top, bottom in ((10, 18), (28, 36)):
        side[top:bottom][band[top:bottom]] = (240, 240, 240, 255)
    a, b, tip = 0.42 * l, 0.42 * w, 0.08
    z = 0.06 * h
    for origin, u, lean in (
        ((tip * a, -b, h), (0, 2 * b, 0), (a * (1 - tip), 0)),
        ((-tip * a, b, h), (0, -2 * b, 0), (-a * (1 - tip), 0)),
        ((a, tip * b, h), (-2 * a, 0, 0), (0, b * (1 - tip))),
        ((-a, -tip * b, h), (2 * a, 0, 0), (0, -b * (1 - tip))),
    ):
        shape.face(origin, u, (*lean, z - h), side)
    shape.block((0, 0, z / 2), (l, w, z), (40, 40, 45))
    return shape


def building(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    long = paint.facade(rng, max(2, int(h / 3)), max(3, int(l / 3)))
    short = long[:, : 16 * max(2, int(w / 3))]
    shape = Shape()
    shape.box((0, 0, h / 2), size, short, short, long, panel((90, 90, 95), 8, 8))
    return shape


def tree(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    shape = Shape()
    shape.block((0, 0, 0.22 * h), (0.25, 0.25, 0.44 * h), (40, 60, 80))
    crown = paint.foliage(rng)
    for yaw in (0.3, 1.9):
        u = np.array([np.cos(yaw), np.sin(yaw), 0.0]) * l
        shape.sheet(-u / 2 + (0, 0, h), u, (0, 0, -0.68 * h), crown)
    return shape


def lamp(size: Size, moving: bool, rng: np.random.Generator) -> Shape:
    l, w, h = size
    shape = Shape()
    shape.block((0, 0, h / 2), (0.14, 0.14, h), (95, 95, 95))
    shape.block((0, 0, h), (0.9, 0.2, 0.12), (210, 220, 220))
    return shape


SHAPES: dict[str, Callable[[Size, bool, np.random.Generator], Shape]] = {
    maker.__name__: maker
    for maker in (
        car, truck, construction_vehicle, bus, trailer, barrier, motorcycle, bicycle, pedestrian, traffic_cone,
        building, tree, lamp,
    )
}  # fmt: skip
