"""How cameras are mounted, and what no camera is mounted like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sparse4d_ros.check_rig.mounting import (
    check_directions,
    check_mounting,
    degrees_taken_for_radians,
    expected_yaw,
    mounting,
    turned_by,
)

BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
K = np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]])


def pose(yaw=0.0, pitch=0.0, roll=0.0, position=(1.0, 0.2, 1.5)) -> np.ndarray:
    """T_base_from_cam of a camera that looks there, degrees; pitch up."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("ZYX", [yaw, -pitch, roll], degrees=True).as_matrix() @ BODY_FROM_OPTICAL
    T[:3, 3] = position
    return T


def kinds(T: np.ndarray, *rotations) -> list[str]:
    return [finding.kind for finding in check_mounting(mounting("cam", T, K, 640), rotations)]


@given(yaw=st.floats(-179, 179), pitch=st.floats(-35, 35), roll=st.floats(-35, 35))
def test_angles_come_back_and_are_no_finding(yaw, pitch, roll):
    found = mounting("cam", pose(yaw, pitch, roll), K, 640)
    assert turned_by(found.yaw, yaw) < 1e-6 and found.pitch == pytest.approx(pitch, abs=1e-6)
    assert found.roll == pytest.approx(roll, abs=1e-6) and found.position == (1.0, 0.2, 1.5)
    assert found.field_of_view == pytest.approx(2 * math.degrees(math.atan(320 / 500)))
    assert list(check_mounting(found)) == []


@given(yaw=st.floats(-180, 180))
def test_a_body_frame_in_place_of_the_optical_one(yaw):
    T = pose(yaw)
    T[:3, :3] = T[:3, :3] @ BODY_FROM_OPTICAL.T
    assert kinds(T) == ["optical_frame"]


def test_other_mistakes():
    assert kinds(pose(roll=180)) == ["upside_down"]
    assert kinds(pose(roll=90)) == ["optical_frame"]
    assert kinds(pose(position=(1000, 200, 1500))) == ["units"]
    assert kinds(pose(position=(1, 0, 12))) == ["units"]
    assert kinds(pose(pitch=-70)) == ["optical_frame"]


@given(roll=st.integers(-180, 180), pitch=st.integers(-180, 180), yaw=st.integers(-180, 180))
def test_degrees_taken_for_radians_are_recognised(roll, pitch, yaw):
    """URDF's rpy: about the fixed x, y, z, in this order. Of 71 and 142 radians, which are 108 and 216 degrees as well,
    nobody can tell."""
    R = Rotation.from_euler("xyz", [roll, pitch, yaw]).as_matrix()  # numbers of degrees, used as radians
    found = degrees_taken_for_radians(R)
    if max(abs(roll), abs(pitch), abs(yaw)) > 3 and any(number % 71 for number in (roll, pitch, yaw)):
        assert found is not None
        np.testing.assert_allclose(Rotation.from_euler("xyz", found).as_matrix(), R, atol=1e-3)


@given(angles=st.tuples(*[st.sampled_from([-144, -108, -90, -60, -45, 0, 1, 30, 45, 60, 72, 90, 110, 144, 180])] * 3))
def test_usual_angles_in_radians_are_not(angles):
    assert degrees_taken_for_radians(Rotation.from_euler("xyz", angles, degrees=True).as_matrix()) is None


@pytest.mark.parametrize("cameras", [5, 10])
def test_a_regular_ring_of_level_cameras_has_no_finding(cameras):
    """Two of five cameras look to 144 degrees, two of ten to 108; a URDF may have them with few digits."""
    for k in range(cameras):
        yaw = math.remainder(2 * math.pi * k / cameras, 2 * math.pi)
        for written in (yaw, round(yaw, 5), round(yaw, 4)):
            R_body = Rotation.from_euler("xyz", [0, 0, written]).as_matrix()
            T = pose(math.degrees(written))
            assert kinds(T, R_body @ BODY_FROM_OPTICAL, R_body) == []


@pytest.mark.parametrize("number", [-135, -90, -55, 45, 72, 110, 144])
def test_one_angle_alone_has_to_be_nearer_to_a_number_of_radians(number):
    """The measured yaw of a level camera comes near to one of three hundred numbers sooner than three angles do. Where
    its optical frame is turned by 1.5708 a wrong one is off by some millionths."""
    by_hand = Rotation.from_euler("xyz", [-1.5708, 0, -1.5708]).as_matrix() @ BODY_FROM_OPTICAL.T

    def level(yaw: float) -> np.ndarray:
        return Rotation.from_euler("xyz", [0, 0, yaw]).as_matrix()

    assert degrees_taken_for_radians(level(number)) == (0, 0, number)
    assert degrees_taken_for_radians(level(number) @ by_hand) == (0, 0, number)
    assert degrees_taken_for_radians(level(number + 5e-5)) is None


def test_degrees_are_named_with_the_numbers():
    R = Rotation.from_euler("xyz", [-90, 0, -90]).as_matrix()
    T = pose()
    T[:3, :3] = R
    (finding,) = check_mounting(mounting("cam", T, K, 640), (R,))
    assert finding.kind == "degrees" and "-90, 0, -90 radians" in finding.text


@pytest.mark.parametrize(
    ("name", "yaw"),
    [
        ("cam_front", 0), ("CAM_FRONT_LEFT", 45), ("rear-right/image", -135), ("back", 180), ("left_camera", 90),
        ("camera_3", None), ("fronton", None), ("front_rear", None),
    ],
)  # fmt: skip
def test_names_promise_directions(name, yaw):
    found = expected_yaw(name)
    assert found is None if yaw is None else turned_by(found, yaw) < 1e-6


def test_swapped_cameras_name_each_other_and_wrong_ones_do_not():
    def looking(**yaws):
        return [mounting(name, pose(yaw), K, 640) for name, yaw in yaws.items()]

    assert list(check_directions(looking(front=3, left=80, rear=-170, right=-100, other=12))) == []
    swapped = list(check_directions(looking(front=0, left=-90, right=90)))
    assert [(f.kind, f.camera) for f in swapped] == [("swapped", "left"), ("swapped", "right")]
    assert "and right the other way round" in swapped[0].text
    (wrong,) = check_directions(looking(front=0, left=180))
    assert wrong.kind == "direction" and "looks to 180°, by its name to 90°" in wrong.text
