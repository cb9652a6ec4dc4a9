"""How a camera is mounted, by its pose in the base frame, and what no camera is mounted like."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .findings import Finding

FURTHEST = 15.0  # m from the base frame's origin; a longer vehicle is rarer than a pose in millimetres
LOWEST, HIGHEST = -1.0, 6.0  # m above the base frame's origin, which is on the ground or at an axle
STEEPEST = 40.0  # degrees of pitch or roll that a camera of a vehicle has
WRONG_SIDE = 60.0  # degrees between where a camera looks and where its name says
_TURNED = 1e-4  # rad; three angles given in radians by chance agree with whole numbers once in ten thousand rigs
_TURNED_ALONE = 1e-5  # rad; of a level camera one angle is left, which may agree by chance once in a thousand cameras
_WHOLE = 0.01  # degrees; an angle so near to a whole number of them was meant to be that

_SIDES = {"front": 0.0, "left": 90.0, "rear": 180.0, "back": 180.0, "right": -90.0}


@dataclass(frozen=True)
class Mounting:
    """Degrees and metres; the base frame has x forward, y left and z up (REP-103)."""

    camera: str
    position: tuple[float, float, float]  # x, y, z in the base frame
    yaw: float  # of the optical axis, from x to the left
    pitch: float  # of the optical axis, up
    roll: float  # of the image about the optical axis: clockwise as one looks along it
    field_of_view: float  # horizontal


def mounting(camera: str, T_base_from_cam: np.ndarray, intrinsics: np.ndarray, width: int) -> Mounting:
    """Of a camera with an optical frame (x right, y down, z forward).

    Args:
        T_base_from_cam: [4, 4] metres.
        intrinsics: [3, 3] pixels.
        width: of its images, pixels.
    """
    R = T_base_from_cam[:3, :3]
    right, forward = R[:, 0], R[:, 2]
    level = np.cross(forward, (0.0, 0.0, 1.0))  # where an upright image has its right side
    if np.linalg.norm(level) < 1e-6:
        level = right
    level = level / np.linalg.norm(level)
    return Mounting(
        camera,
        tuple(T_base_from_cam[:3, 3].tolist()),
        math.degrees(math.atan2(forward[1], forward[0])),
        math.degrees(math.asin(np.clip(forward[2], -1.0, 1.0))),
        math.degrees(math.atan2(np.cross(level, right) @ forward, level @ right)),
        math.degrees(math.atan(intrinsics[0, 2] / intrinsics[0, 0]))
        + math.degrees(math.atan((width - intrinsics[0, 2]) / intrinsics[0, 0])),
    )


def expected_yaw(camera: str) -> float | None:
    """Where a camera looks by its name, degrees: cam_front 0, rear_left 135 ...; None if the name does not say."""
    words = [word for word in re.split(r"[^a-z]+", camera.lower()) if word in _SIDES]
    if not words:
        return None
    directions = [np.exp(1j * math.radians(_SIDES[word])) for word in words]
    mean = sum(directions)
    return None if abs(mean) < 1e-6 else math.degrees(float(np.angle(mean)))


def turned_by(a: float, b: float) -> float:
    """Degrees between two directions, 0 to 180."""
    return abs((a - b + 180.0) % 360.0 - 180.0)


def degrees_taken_for_radians(R: np.ndarray) -> tuple[int, int, int] | None:
    """Whole degrees of roll, pitch and yaw that give this rotation when they are taken for radians, if there are any.
    None also for a rotation of whole degrees: 142 radians are 216 degrees, but nobody means the former.

    Args:
        R: [3, 3] rotation of a static transform, child in parent.
    """
    pitch = math.asin(np.clip(-R[2, 0], -1.0, 1.0))
    roll, yaw = math.atan2(R[2, 1], R[2, 2]), math.atan2(R[1, 0], R[0, 0])
    if all(abs(angle - round(angle)) < _WHOLE for angle in map(math.degrees, (roll, pitch, yaw))):
        return None
    for angles in ((roll, pitch, yaw), (roll + math.pi, math.pi - pitch, yaw + math.pi)):
        whole = [_whole_degrees(angle, _TURNED) for angle in angles]
        if whole.count(0) == 2:
            whole = [_whole_degrees(angle, _TURNED_ALONE) for angle in angles]
        if None not in whole and any(abs(value) > 3 for value in whole):
            return tuple(whole)
    return None


def _whole_degrees(angle: float, tolerance: float) -> int | None:
    """The smallest whole number that is this angle as radians, whole turns aside."""
    for size in range(181):
        for number in (size, -size):
            if abs((number - angle + math.pi) % (2 * math.pi) - math.pi) < tolerance:
                return number
    return None


def check_mounting(found: Mounting, rotations: Sequence[np.ndarray] = ()) -> Iterator[Finding]:
    """What is wrong with one camera's pose.

    Args:
        found: of the camera.
        rotations: [3, 3] each, which somebody may have written as angles: of the optical frame, of the body.
    """
    camera, distance = found.camera, math.dist(found.position, (0, 0, 0))
    numbers = next(filter(None, map(degrees_taken_for_radians, rotations)), None)
    if distance > FURTHEST:
        yield Finding("units", camera, f"{distance:.0f} m away from the base frame: are its numbers millimetres?")
    elif not LOWEST < found.position[2] < HIGHEST:
        yield Finding("units", camera, f"{found.position[2]:.1f} m above the base frame's origin: check its z")
    if numbers is not None:
        yield Finding(
            "degrees",
            camera,
            f"its transform is that of roll, pitch, yaw = {', '.join(map(str, numbers))} radians: these are degrees; "
            "multiply by pi / 180",
        )
    elif found.pitch > 90 - STEEPEST:
        yield Finding(
            "optical_frame",
            camera,
            "it looks into the sky: its frame has x forward and z up, as a body; images need the optical frame, z "
            "forward, x right, y down (in a URDF: rpy = -pi/2 0 -pi/2 from the body)",
        )
    elif abs(found.roll) > 180 - STEEPEST:
        yield Finding("upside_down", camera, f"its image is upside down (roll {found.roll:.0f}°): check roll and y")
    elif abs(found.roll) > STEEPEST or abs(found.pitch) > STEEPEST:
        text = f"pitch {found.pitch:.0f}°, roll {found.roll:.0f}°: its axes are not those of an optical frame"
        yield Finding("optical_frame", camera, f"{text} (z forward, x right, y down)")


def check_directions(mountings: Sequence[Mounting]) -> Iterator[Finding]:
    """Cameras whose names promise another direction than the one they look in; two that look in each other's."""
    wrong = {}
    for one in mountings:
        expected = expected_yaw(one.camera)
        if expected is not None and turned_by(one.yaw, expected) > WRONG_SIDE:
            wrong[one.camera] = expected
    for one in mountings:
        if one.camera not in wrong:
            continue
        text = f"looks to {one.yaw:.0f}°, by its name to {wrong[one.camera]:.0f}°"
        other = [
            two.camera
            for two in mountings
            if two.camera in wrong
            and two is not one
            and turned_by(one.yaw, wrong[two.camera]) < WRONG_SIDE / 2
            and turned_by(two.yaw, wrong[one.camera]) < WRONG_SIDE / 2
        ]
        if other:
            yield Finding(
                "swapped", one.camera, f"{text}, and {other[0]} the other way round: their frames are swapped"
            )
        else:
            yield Finding("direction", one.camera, f"{text}: check the yaw of its frame")
