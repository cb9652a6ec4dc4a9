"""How steadily tracks follow objects from frame to frame: the part of tracking that scores at key frames do not see.

Boxes are matched to objects of their class as the CLEAR measures do it: a box goes on with the object that its id was
with, as long as it is near enough; the rest is matched so that distances are least in sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from .scene_truth import Present

NEAR = 2.0  # m, as the tracking score takes a box for an object's


@dataclass(frozen=True)
class Seen:
    """The confident boxes of one frame: above the tracking threshold, whether they have an id or not."""

    seconds: float
    ids: np.ndarray  # [M] int64, -1: none yet
    labels: np.ndarray  # [M]
    centres: np.ndarray  # [M, 2] m, global frame
    velocities: np.ndarray  # [M, 2] m/s, global frame


@dataclass(frozen=True)
class Stability:
    """Of all objects together."""

    found: float  # 0 to 1, frames of an object in which it has a confident box
    place_error: float  # m, of these boxes' centres on the ground, mean
    velocity_error: float  # m/s, mean
    object_seconds: float  # from an object's first box to its last one
    id_changes: int  # frames in which an object's id is another one than before
    without_id: float  # 0 to 1, confident boxes of objects that have no id
    id_delay: float  # s from an object's first confident box to its id, mean over objects
    longest_id_delay: float  # s
    blinks: int  # frames in which an object has no box, but in those before and after it has one
    jump: float  # m from frame to frame that a box moves otherwise than its object, mean
    large_jump: float  # m, the 95th percentile

    @property
    def minutes(self) -> float:
        return self.object_seconds / 60


@dataclass
class _Course:
    """What one object was seen as."""

    seconds: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    offsets: list[np.ndarray] = field(default_factory=list)  # box minus object, m
    speeds: list[float] = field(default_factory=list)  # velocity of box minus object, m/s

    def id_changes(self) -> int:
        given = [number for number in self.ids if number >= 0]
        return sum(a != b for a, b in zip(given[:-1], given[1:], strict=True))

    def id_delay(self) -> float:
        """Up to the last box of an object that never got an id."""
        first = next((s for s, number in zip(self.seconds, self.ids, strict=True) if number >= 0), self.seconds[-1])
        return first - self.seconds[0]

    def jumps(self) -> list[float]:
        """m, between frames that follow each other."""
        steps = zip(np.diff(self.frames), np.diff(self.offsets, axis=0), strict=True) if len(self.frames) > 1 else ()
        return [float(np.linalg.norm(step)) for gap, step in steps if gap == 1]

    def blinks(self) -> int:
        return int(np.sum(np.diff(self.frames) == 2))


class Follower:
    """Takes the frames of one scene in order of time."""

    def __init__(self):
        self.courses: dict[int, _Course] = {}
        self._owners: dict[int, int] = {}  # id of a track -> object that it was with
        self._frame = 0
        self.present = 0  # objects, counted in every frame

    def add(self, truth: Present, seen: Seen) -> None:
        self.present += len(truth.ids)
        for box, place in match(truth, seen, self._owners):
            course = self.courses.setdefault(int(truth.ids[place]), _Course())
            course.seconds.append(seen.seconds)
            course.frames.append(self._frame)
            course.ids.append(int(seen.ids[box]))
            course.offsets.append(seen.centres[box] - truth.centres[place])
            course.speeds.append(float(np.linalg.norm(seen.velocities[box] - truth.velocities[place])))
            if seen.ids[box] >= 0:
                self._owners[int(seen.ids[box])] = int(truth.ids[place])
        self._frame += 1


def match(truth: Present, seen: Seen, owners: dict[int, int]) -> list[tuple[int, int]]:
    """Pairs of a row of `seen` and a row of `truth`.

    Args:
        owners: id of a track -> object that it was with.
    """
    distance = np.linalg.norm(seen.centres[:, None] - truth.centres[None], axis=-1)
    distance[seen.labels[:, None] != truth.labels[None]] = np.inf
    pairs, places = [], {number: place for place, number in enumerate(truth.ids.tolist())}
    for box, number in enumerate(seen.ids.tolist()):
        place = places.get(owners.get(number, -1))
        if number >= 0 and place is not None and distance[box, place] <= NEAR:
            pairs.append((box, place))
            distance[box], distance[:, place] = np.inf, np.inf
    far = 1e3
    rows, columns = linear_sum_assignment(np.minimum(distance, far))
    return pairs + [(int(b), int(p)) for b, p in zip(rows, columns, strict=True) if distance[b, p] <= NEAR]


def summed(followers: list[Follower]) -> Stability:
    """Over all objects of all scenes."""
    courses = [course for follower in followers for course in follower.courses.values()]
    ids = [number for course in courses for number in course.ids]
    offsets = [float(np.linalg.norm(offset)) for course in courses for offset in course.offsets]
    speeds = [speed for course in courses for speed in course.speeds]
    jumps = [jump for course in courses for jump in course.jumps()] or [0.0]
    delays = [course.id_delay() for course in courses] or [0.0]
    return Stability(
        found=len(ids) / max(sum(follower.present for follower in followers), 1),
        place_error=float(np.mean(offsets or [0.0])),
        velocity_error=float(np.mean(speeds or [0.0])),
        object_seconds=float(sum(course.seconds[-1] - course.seconds[0] for course in courses)),
        id_changes=sum(course.id_changes() for course in courses),
        without_id=float(np.mean([number < 0 for number in ids])) if ids else 0.0,
        id_delay=float(np.mean(delays)),
        longest_id_delay=float(max(delays)),
        blinks=sum(course.blinks() for course in courses),
        jump=float(np.mean(jumps)),
        large_jump=float(np.percentile(jumps, 95)),
    )
