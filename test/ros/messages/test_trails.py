"""Where tracks were, as markers show it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
from live_scenes import tracks

from sparse4d_ros.messages.trails import Trails
from sparse4d_ros.units import NANOSECONDS


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    """T_global_from_base of a vehicle on the x axis."""
    T = np.eye(4)
    T[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    T[0, 3] = x
    return T


def follow(trails: Trails, seconds: float, *rows, ego_x: float = 0.0) -> dict[int, np.ndarray]:
    found = tracks(*((track, "car", 0.9, xy) for track, xy in rows))
    return trails.follow(found, found.boxes, pose(ego_x), round(seconds * NANOSECONDS))


def test_what_stands_leaves_no_trail_while_the_vehicle_drives():
    trails = Trails()
    for tenth in range(20):
        shown = follow(trails, tenth / 10, (4, (30.0 - tenth, 5.0)), (5, (10.0, 0.0)), ego_x=float(tenth))
    assert shown.keys() == {5}, "which drives ahead at the vehicle's speed"
    np.testing.assert_allclose(shown[5][:, 0], [*(np.arange(0, 20, 2) - 9.0), 10.0])  # five a second, and now
    np.testing.assert_allclose(shown[5][-1], [10.0, 0.0, 1.0])


def test_trails_turn_with_the_vehicle():
    trails = Trails()
    found = [tracks((4, "car", 0.9, xy)) for xy in ((10.0, 0.0), (0.0, -12.0))]
    trails.follow(found[0], found[0].boxes, pose(0.0), 0)
    shown = trails.follow(found[1], found[1].boxes, pose(0.0, np.pi / 2), NANOSECONDS)
    np.testing.assert_allclose(shown[4], [[0.0, -10.0, 1.0], [0.0, -12.0, 1.0]], atol=1e-9)


def test_a_trail_is_as_long_as_it_is_kept():
    trails = Trails(seconds=1.0)
    for tenth in range(30):
        shown = follow(trails, tenth / 10, (4, (tenth, 0.0)))
    np.testing.assert_allclose(shown[4][:, 0], [20, 22, 24, 26, 28, 29])


@pytest.mark.parametrize("seconds", [5.0, 0.0], ids=["a pause", "a step back"])
def test_another_drive_starts_without_trails(seconds):
    trails = Trails()
    for tenth in range(10):
        follow(trails, 1 + tenth / 10, (4, (tenth, 0.0)))
    assert follow(trails, seconds, (4, (20.0, 0.0))) == {}


def test_rows_without_an_id_have_none():
    trails, found = Trails(), tracks((-1, "car", 0.9, (0.0, 0.0)))
    for second in range(3):
        found.boxes[:, 0] = second
        assert trails.follow(found, found.boxes, pose(0.0), second * NANOSECONDS) == {}
