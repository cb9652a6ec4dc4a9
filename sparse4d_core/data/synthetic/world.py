"""What is in a rendered scene: the road, the traffic on it, the light. A pure function of (seed, scene index)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...types import CLASS_NAMES
from .ego_path import EgoMotion, Motion, Path, ego_poses, overlaps, poses, random_path

EGO_SIZE = (5.0, 2.2)  # m, length and width kept free around the ego vehicle
_EGO_CENTRE = 1.4  # m from the rear axle to the middle of the vehicle

# Typical length, width, height in metres; drawn within +-8 %.
_SIZES = {
    "car": (4.6, 1.95, 1.65),
    "truck": (6.9, 2.5, 2.9),
    "construction_vehicle": (6.2, 2.8, 3.1),
    "bus": (10.8, 2.9, 3.4),
    "trailer": (9.5, 2.8, 3.7),
    "barrier": (0.5, 2.5, 1.0),
    "motorcycle": (2.1, 0.8, 1.5),
    "bicycle": (1.75, 0.65, 1.4),
    "pedestrian": (0.7, 0.65, 1.75),
    "traffic_cone": (0.45, 0.45, 1.05),
}
_PARKED = (
    *("car",) * 3, "truck", "bus", "trailer", *("construction_vehicle",) * 2, *("motorcycle",) * 2, "bicycle", "zone",
    *("gap",) * 8,
)  # fmt: skip
_DRIVING = (*("car",) * 7, "truck", "bus", *("motorcycle",) * 2, *("bicycle",) * 2, "trailer")
_SEEN_WITHIN = 25.0  # m: every class comes at least this close to the ego vehicle once
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Actor:
    """An object with a box. Its origin is the middle of its footprint on the ground."""

    name: str  # detection class
    size: tuple[float, float, float]  # length, width, height in metres
    motion: Motion
    look: int  # seed of its colours
    attribute: str = ""


@dataclass(frozen=True)
class Scenery:
    """Something that hides objects but is none: a building, tree or lamp post, by its place on the road."""

    kind: str
    size: tuple[float, float, float]  # length along the road, width, height in metres
    motion: Motion
    look: int


@dataclass(frozen=True)
class Light:
    """Brightness over time and the direction to the sun (global)."""

    gain: float
    flicker: float
    rate: float  # rad/s
    tint: tuple[float, float, float]  # factors for blue, green, red
    sun: tuple[float, float, float]

    def at(self, t: float) -> np.ndarray:  # [3] factors for blue, green, red
        return self.gain * (1 + self.flicker * np.sin(self.rate * t)) * np.array(self.tint)


@dataclass(frozen=True)
class Road:
    """Cross-section, metres from the centre line, the same on both sides."""

    lanes: int  # per direction
    lane_width: float = 3.6

    @property
    def edge(self) -> float:
        return self.lanes * self.lane_width

    @property
    def parking(self) -> float:
        return self.edge + 1.5

    @property
    def kerb(self) -> float:
        return self.edge + 3.0

    @property
    def pavement(self) -> float:
        return self.kerb + 3.2


@dataclass(frozen=True)
class World:
    seed: int
    index: int
    duration: float  # s
    path: Path
    road: Road
    ego: EgoMotion
    light: Light
    actors: tuple[Actor, ...]
    scenery: tuple[Scenery, ...] = ()

    def actor_poses(self, t: np.ndarray) -> np.ndarray:
        """Global (x, y, yaw) [A, T, 3]."""
        return poses(self.path, self.ego, [a.motion for a in self.actors], t)

    def ego_pose(self, t: float) -> np.ndarray:
        """Global (x, y, yaw) [3]."""
        return ego_poses(self.path, self.ego, np.array([t]))[0]


def build_world(seed: int, index: int, duration: float) -> World:
    """The scene `index` of a dataset with this seed; all ten classes come near the ego vehicle.

    Raises:
        ValueError: for a duration that is not positive.
    """
    if not duration > 0:
        raise ValueError(f"duration: expected a positive number of seconds, got {duration}")
    for attempt in range(_MAX_DRAWS):
        world = _draw_world(np.random.default_rng([seed, index, attempt]), seed, index, duration)
        if _classes_seen(world) == set(CLASS_NAMES):
            return world
    raise RuntimeError(
        f"seed {seed}, scene {index}: no populated world in {_MAX_DRAWS} draws; take a longer --duration"
    )


def _draw_world(rng: np.random.Generator, seed: int, index: int, duration: float) -> World:
    mean = rng.uniform(2.0, 5.0)
    road = Road(lanes=1)  # the world is kept small; everything else takes any number
    ego = EgoMotion(
        mean, mean * rng.uniform(0.0, 0.5), rng.uniform(0.3, 0.8), rng.uniform(0, 2 * np.pi), -road.lane_width / 2
    )
    length = float(ego.travelled(np.array(duration)))
    path = random_path(rng, -130.0, length + 150.0)
    elevation, azimuth = rng.uniform(0.5, 1.1), rng.uniform(0, 2 * np.pi)
    sun = (np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation))
    warmth = rng.uniform(-0.08, 0.08)
    light = Light(
        rng.uniform(0.75, 1.1),
        rng.uniform(0, 0.12),
        rng.uniform(0.3, 1.2),
        (1 - warmth, 1.0, 1 + warmth),
        tuple(map(float, sun)),
    )
    crowd = _Crowd(rng, path, ego, duration)
    _add_traffic(crowd, road, length)
    _add_parked(crowd, road, length)
    _add_pedestrians(crowd, road, length)
    return World(seed, index, duration, path, road, ego, light, tuple(crowd.actors), tuple(_scenery(rng, road, length)))


def _classes_seen(world: World) -> set[str]:
    t = np.linspace(0, world.duration, 12)
    ego = ego_poses(world.path, world.ego, t)
    distance = np.linalg.norm(world.actor_poses(t)[..., :2] - ego[None, :, :2], axis=-1).min(axis=1)
    return {actor.name for actor, d in zip(world.actors, distance, strict=True) if d < _SEEN_WITHIN}


@dataclass
class _Crowd:
    """Actors placed so far; a newcomer that would touch another at any time, or the ego vehicle, is turned away."""

    rng: np.random.Generator
    path: Path
    ego: EgoMotion
    duration: float
    actors: list[Actor] = field(default_factory=list)

    def __post_init__(self):
        self.times = np.arange(0, self.duration + 0.25, 0.25)
        ego = ego_poses(self.path, self.ego, self.times)
        ego[:, 0] += _EGO_CENTRE * np.cos(ego[:, 2])
        ego[:, 1] += _EGO_CENTRE * np.sin(ego[:, 2])
        self._poses, self._sizes = [ego], [np.array(EGO_SIZE)]

    def size(self, name: str) -> tuple[float, float, float]:
        return tuple(float(v) for v in np.array(_SIZES[name]) * self.rng.uniform(0.92, 1.08, 3))

    def add(self, name: str, motion: Motion, size=None, attribute: str | None = None, margin: float = 0.3) -> bool:
        size = size or self.size(name)
        look = int(self.rng.integers(1 << 31))
        pose = poses(self.path, self.ego, [motion], self.times)
        if self._touches(pose[0], np.array(size[:2]) + margin):
            return False
        self._poses.append(pose[0])
        self._sizes.append(np.array(size[:2]))
        self.actors.append(
            Actor(str(name), size, motion, look, _attribute(name, motion) if attribute is None else attribute)
        )
        return True

    def _touches(self, pose: np.ndarray, footprint: np.ndarray) -> bool:
        """Whether anybody there is overlapped; most are too far away for their circles to meet."""
        others, sizes = np.array(self._poses), np.array(self._sizes)
        reach = (np.hypot(*footprint) + np.hypot(*sizes.T)) / 2 + 1e-6
        offset = others[..., :2] - pose[:, :2]
        near = ((offset**2).sum(axis=-1) <= reach[:, None] ** 2).any(axis=1)
        return bool(near.any()) and bool(overlaps(pose, footprint, others[near], sizes[near, None]).any())


def _attribute(name: str, motion: Motion) -> str:
    """The nuScenes attribute that fits."""
    if name in ("barrier", "traffic_cone"):
        return ""
    if name == "pedestrian":
        return "pedestrian.moving" if motion.moving else "pedestrian.standing"
    if name in ("bicycle", "motorcycle"):
        return "cycle.with_rider" if motion.moving else "cycle.without_rider"
    return "vehicle.moving" if motion.moving else "vehicle.stopped" if name == "bus" else "vehicle.parked"


def _add_traffic(crowd: _Crowd, road: Road, length: float) -> None:
    rng = crowd.rng
    for lane in range(road.lanes):
        d = (lane + 0.5) * road.lane_width
        oncoming = rng.uniform(2, 5)
        reach = length + 60 + oncoming * crowd.duration
        for s in _spaced(rng, -50, reach, 24, 48):
            crowd.add(rng.choice(_DRIVING), Motion(s, d, np.pi, speed=-oncoming), margin=1.0)
        # The ego lane keeps the ego vehicle's speed; the lane beside it has one of its own.
        speed = max(1.0, crowd.ego.mean + rng.uniform(-1, 1))
        for s in _spaced(rng, -60, length + 70, 24, 45):
            crowd.add(rng.choice(_DRIVING), Motion(s, -d, speed=speed, with_ego=lane == 0), margin=1.0)
    for side in (-1, 1):
        for s in _spaced(rng, -20, length + 40, 45, 90):
            heading = 0.0 if side < 0 else np.pi
            crowd.add("bicycle", Motion(s, side * (road.edge - 0.1), heading, -side * rng.uniform(2.5, 5)))


def _add_parked(crowd: _Crowd, road: Road, length: float) -> None:
    rng = crowd.rng
    for side in (-1, 1):
        deck: list[str] = []
        s = -45.0 + rng.uniform(0, 10)
        while s < length + 60:
            deck = deck or list(rng.permutation(_PARKED))
            kind = deck.pop()
            if kind == "gap":
                s += rng.uniform(6, 12)
            elif kind == "zone":
                s = _add_works(crowd, s, side * (road.edge + 0.6), side)
            else:
                size = crowd.size(kind)
                s += size[0] / 2 + rng.uniform(0.8, 2.5)
                yaw = (0.0 if side < 0 else np.pi) + rng.normal(0, 0.03)
                if kind in ("motorcycle", "bicycle"):
                    yaw += rng.uniform(-0.9, 0.9)
                crowd.add(kind, Motion(s, side * road.parking + rng.normal(0, 0.1), yaw), size)
                s += size[0] / 2


def _add_works(crowd: _Crowd, s: float, d: float, side: int) -> float:
    """A closed stretch of the roadside: a taper of cones, then barriers in a row. Returns where it ends."""
    rng = crowd.rng
    for i in range(int(rng.integers(2, 5))):
        s += rng.uniform(1.6, 2.4)
        crowd.add("traffic_cone", Motion(s, d + side * max(0.0, 1.6 - 0.5 * i)))
    s += 2.0
    for _ in range(int(rng.integers(2, 5))):
        s += rng.uniform(2.8, 3.1)
        # A barrier's long side is its width: it stands along the road with its yaw across it.
        crowd.add("barrier", Motion(s, d, -side * np.pi / 2 + rng.normal(0, 0.04)), margin=0.05)
    return s + 3.0


def _add_pedestrians(crowd: _Crowd, road: Road, length: float) -> None:
    rng = crowd.rng
    for side in (-1, 1):
        for s in _spaced(rng, -35, length + 45, 18, 40):
            d = side * rng.uniform(road.kerb + 0.6, road.pavement - 0.4)
            if rng.random() < 0.3:
                crowd.add("pedestrian", Motion(s, d, rng.uniform(-np.pi, np.pi)))
            else:
                forward = rng.choice((-1, 1))
                crowd.add("pedestrian", Motion(s, d, 0.0 if forward > 0 else np.pi, forward * rng.uniform(0.8, 1.7)))
    for s in _spaced(rng, 8, length + 35, 16, 40):
        side, pace = rng.choice((-1, 1)), rng.uniform(1.0, 1.7)
        start = side * (road.kerb + rng.uniform(0, 2)) - side * pace * rng.uniform(0, crowd.duration * 0.6)
        crowd.add("pedestrian", Motion(s, start, -side * np.pi / 2, 0.0, -side * pace), margin=0.6)


def _spaced(rng: np.random.Generator, start: float, end: float, least: float, most: float):
    s = start + rng.uniform(0, most)
    while s < end:
        yield float(s)
        s += rng.uniform(least, most)


def _scenery(rng: np.random.Generator, road: Road, length: float):
    for side in (-1, 1):
        s = -90.0
        while s < length + 100:
            size = (rng.uniform(9, 22), rng.uniform(8, 12), rng.uniform(5, 15))
            s += size[0] / 2 + rng.uniform(0, 12)
            d = side * (road.pavement + rng.uniform(2.5, 7) + size[1] / 2)
            yield Scenery("building", size, Motion(s, d), int(rng.integers(1 << 31)))
            s += size[0] / 2
        for s in _spaced(rng, -50, length + 60, 10, 22):
            kind = rng.choice(("tree", "lamp"), p=(0.7, 0.3))
            size = (2.6, 2.6, rng.uniform(4, 6.5)) if kind == "tree" else (0.2, 0.2, 6.0)
            yield Scenery(str(kind), size, Motion(s, side * (road.pavement + 0.6)), int(rng.integers(1 << 31)))
