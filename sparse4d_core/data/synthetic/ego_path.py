"""The curved road of a rendered scene, and how things move along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STEP = 0.25  # m between the stored points of a path


@dataclass(frozen=True)
class Path:
    """A plane curve by arc length s; d is the distance to its left."""

    start: float  # m, arc length of the first stored point
    x: np.ndarray  # [P] m, global
    y: np.ndarray  # [P] m, global
    heading: np.ndarray  # [P] rad, unwrapped, counter-clockwise from global x

    @property
    def arc_lengths(self) -> np.ndarray:  # [P] m
        return self.start + _STEP * np.arange(len(self.x))

    def pose(self, s: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Global (x, y, heading) [..., 3] of the places (s, d), metres."""
        grid = self.arc_lengths
        heading = np.interp(s, grid, self.heading)
        # Beyond the stored ends the road goes on straight, so that nothing piles up there.
        beyond = s - np.clip(s, grid[0], grid[-1])
        x = np.interp(s, grid, self.x) + beyond * np.cos(heading) - d * np.sin(heading)
        y = np.interp(s, grid, self.y) + beyond * np.sin(heading) + d * np.cos(heading)
        return np.stack([x, y, heading], axis=-1)


def random_path(rng: np.random.Generator, start: float, end: float, max_curvature: float = 1 / 45) -> Path:
    """A road winding gently between the arc lengths `start` and `end` (metres), somewhere on a map of a kilometre."""
    s = np.arange(start, end, _STEP)
    curvature = np.zeros_like(s)
    for wavelength in rng.uniform(70, 260, 3):
        curvature += rng.uniform(0.2, 1.0) * np.sin(2 * np.pi * s / wavelength + rng.uniform(0, 2 * np.pi))
    curvature *= rng.uniform(0.3, 1.0) * max_curvature / np.abs(curvature).max()
    heading = rng.uniform(-np.pi, np.pi) + np.cumsum(curvature) * _STEP
    origin = rng.uniform(400, 1400, 2)
    x = origin[0] + np.cumsum(np.cos(heading)) * _STEP
    y = origin[1] + np.cumsum(np.sin(heading)) * _STEP
    return Path(start, x, y, heading)


@dataclass(frozen=True)
class Motion:
    """Movement in road coordinates: s(t) = s + speed t (or with the ego vehicle), d(t) = d + lateral_speed t."""

    s: float  # m at t = 0
    d: float  # m to the left of the road's centre line at t = 0
    yaw: float = 0.0  # rad, heading relative to the road's
    speed: float = 0.0  # m/s along the road; negative for oncoming traffic
    lateral_speed: float = 0.0  # m/s to the left
    with_ego: bool = False  # keep the distance to the ego vehicle, whatever its speed

    @property
    def moving(self) -> bool:
        return self.with_ego or abs(self.speed) + abs(self.lateral_speed) > 0


@dataclass(frozen=True)
class EgoMotion:
    """Speed v(t) = mean + swing sin(rate t + phase), along the lane at `d`."""

    mean: float  # m/s
    swing: float  # m/s
    rate: float  # rad/s
    phase: float  # rad
    d: float  # m

    def travelled(self, t: np.ndarray) -> np.ndarray:
        """Arc length since t = 0, metres."""
        return self.mean * t + self.swing / self.rate * (np.cos(self.phase) - np.cos(self.rate * t + self.phase))


def poses(path: Path, ego: EgoMotion, motions: list[Motion], t: np.ndarray) -> np.ndarray:
    """Global (x, y, yaw) [M, T, 3] of M motions at the T times `t` (s)."""
    table = np.array(
        [(m.s, m.d, m.yaw, m.speed, m.lateral_speed, m.with_ego) for m in motions], dtype=np.float64
    ).reshape(-1, 6, 1)
    s, d, yaw, speed, lateral, with_ego = (table[:, i] for i in range(6))
    along = np.where(with_ego > 0, ego.travelled(t)[None], speed * t[None])
    pose = path.pose(s + along, d + lateral * t[None])
    pose[..., 2] += yaw
    return pose


def ego_poses(path: Path, ego: EgoMotion, t: np.ndarray) -> np.ndarray:
    """Global (x, y, yaw) [T, 3] of the ego vehicle (centre of the rear axle) at the times `t`."""
    return path.pose(ego.travelled(t), np.full_like(t, ego.d))


def overlaps(pose_a: np.ndarray, size_a: np.ndarray, pose_b: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    """Whether rectangles overlap: separating axis test.

    Args:
        pose_a, pose_b: [..., 3] x, y, yaw, broadcast against each other.
        size_a, size_b: [..., 2] length, width.

    Returns:
        [...] bool.
    """
    difference = pose_b[..., :2] - pose_a[..., :2]
    apart = np.zeros(difference.shape[:-1], dtype=bool)
    for yaw in (pose_a[..., 2], pose_a[..., 2] + np.pi / 2, pose_b[..., 2], pose_b[..., 2] + np.pi / 2):
        reach = sum(
            size[..., 0] / 2 * np.abs(np.cos(pose[..., 2] - yaw))
            + size[..., 1] / 2 * np.abs(np.sin(pose[..., 2] - yaw))
            for pose, size in ((pose_a, size_a), (pose_b, size_b))
        )
        along = np.abs(difference[..., 0] * np.cos(yaw) + difference[..., 1] * np.sin(yaw))
        apart |= along > reach
    return ~apart
