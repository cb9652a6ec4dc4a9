"""The checker on a rendered drive: silent where the rig is right, and naming what was made wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
from sparse4d_core.types import Frame
from sparse4d_ros.check_rig import motion
from sparse4d_ros.check_rig.__main__ import main
from sparse4d_ros.check_rig.ground_grid import draw_ground
from sparse4d_ros.check_rig.motion import check_motion, epipolar_distance, measure_motion
from sparse4d_ros.perception.rig import default_rig

INTRINSICS = np.array([[300.0, 0, 352], [0, 300, 198], [0, 0, 1]])
FORWARD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # T_cam_from_base of a front camera
BACKWARD = np.array([[0.0, 1, 0, 0], [0, 0, -1, 0], [-1, 0, 0, 0], [0, 0, 0, 1]])
LEFT = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])


def altered_rig(folder: Path, change) -> str:
    """The nuScenes rig's file with its cameras, by name, changed."""
    content = yaml.safe_load(default_rig().read_text())
    change({camera["name"]: camera for camera in content["cameras"]}, content)
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def check(bag: Path, rig: str, out: Path) -> tuple[int, dict]:
    status = main([rig, "--bag", str(bag), "--out", str(out), "--sets", "6"])
    return status, json.loads((out / "rig.json").read_text())


def kinds(content: dict) -> set[tuple[str, str]]:
    return {(finding["kind"], finding["camera"]) for finding in content["findings"]}


def test_a_right_rig_has_no_finding_and_pictures_to_look_at(tiny_bag, tmp_path, capsys):
    status, content = check(tiny_bag, str(default_rig()), tmp_path)
    assert (status, content["findings"]) == (0, []) and content["sets"] == 6
    assert "nothing wrong was found" in capsys.readouterr().out
    assert all(distances[camera] < motion.FITS for camera, distances in content["motion_px"].items())
    assert len(content["motion_px"]) == 6
    assert {path.stem for path in tmp_path.glob("*.jpg")} == {one["camera"] for one in content["mountings"]}
    assert cv2.imread(str(tmp_path / "plan.png")) is not None


def test_swapped_cameras_are_found_by_their_names(tiny_bag, tmp_path, capsys):
    def swap(cameras, _):
        for name, other in (("cam_front", "cam_back"), ("cam_back", "cam_front")):
            cameras[name] |= {"frame": other, "image_topic": f"/{other}/image_rect/compressed"}

    status, content = check(tiny_bag, altered_rig(tmp_path, swap), tmp_path)
    assert status == 1 and kinds(content) == {("swapped", "cam_front"), ("swapped", "cam_back")}
    assert "their frames are swapped" in capsys.readouterr().out


def test_a_topic_that_is_not_there_is_named_with_those_that_are(tiny_bag, tmp_path, capsys):
    def lose(cameras, _):
        cameras["cam_back"]["image_topic"] = "/nowhere"

    status, content = check(tiny_bag, altered_rig(tmp_path, lose), tmp_path)
    assert status == 1 and ("topic", "cam_back") in kinds(content)
    assert "no images on /nowhere; the bag has" in capsys.readouterr().out


def test_a_frame_that_tf_does_not_have_is_named(tiny_bag, tmp_path, capsys):
    def rename(_, content):
        content["base_frame"] = "chassis"

    status, content = check(tiny_bag, altered_rig(tmp_path, rename), tmp_path)
    assert status == 1 and "chassis" in content["findings"][0]["text"]


def test_bad_input(tmp_path, capsys):
    assert main(["no_rig.yaml", "--bag", "no_bag", "--out", str(tmp_path)]) == 2
    assert main([str(default_rig()), "--bag", str(tmp_path / "no_bag"), "--out", str(tmp_path)]) == 2
    with pytest.raises(SystemExit) as end:
        main([str(default_rig()), "--bag", "bag", "--sets", "0"])
    assert end.value.code == 2


# ------------------------------------------------------------------------------------------------------- motion alone


def project(points: np.ndarray, T_cam_from_base: np.ndarray) -> np.ndarray:
    seen = points @ T_cam_from_base[:3, :3].T + T_cam_from_base[:3, 3]
    return ((seen / seen[:, 2:]) @ INTRINSICS.T)[:, :2]


def drive(metres: float) -> np.ndarray:
    """T_global_from_base after so many metres straight on, and a little turn."""
    T = np.eye(4)
    angle = 0.02 * metres
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    T[0, 3] = metres
    return T


@pytest.fixture
def moving(monkeypatch) -> list[Frame]:
    """Four instants of three cameras, 1 m apart; points of the world in place of pictures' corners."""
    rng = np.random.default_rng(0)
    world = {
        key: rng.uniform(-1, 1, (60, 3)) * (4, 4, 1.5) + centre
        for key, centre in {0: (16, 0, 1), 1: (-12, 0, 1), 2: (2, 14, 1)}.items()
    }
    poses = (FORWARD, BACKWARD, LEFT)
    frames = []
    for step in range(4):
        images = []
        for camera in range(3):
            local = world[camera] @ np.linalg.inv(drive(step))[:3, :3].T + np.linalg.inv(drive(step))[:3, 3]
            images.append(project(local, poses[camera]))
        frames.append(
            Frame(
                images=tuple(images),
                intrinsics=np.stack([INTRINSICS] * 3),
                T_cam_from_model=np.stack(poses),
                T_global_from_model=drive(step),
                stamp_ns=step,
                camera_names=("front", "back", "left"),
            )
        )
    monkeypatch.setattr(motion, "followed_points", lambda before, after: (before, after))
    monkeypatch.setattr(motion, "_REFERENCE_WIDTH", 2)  # the width of what stands for images here
    return frames


def exchanged(frames: list[Frame], order: tuple[int, ...]) -> list[Frame]:
    return [
        Frame(
            tuple(frame.images[i] for i in order), frame.intrinsics, frame.T_cam_from_model, frame.T_global_from_model,
            frame.stamp_ns, frame.camera_names,
        )
        for frame in frames
    ]  # fmt: skip


def test_right_poses_fit(moving):
    measured = measure_motion(moving)
    assert all(one.median(one.camera) < 1e-6 for one in measured)
    assert list(check_motion(measured)) == []


@pytest.mark.parametrize(("order", "pair"), [((1, 0, 2), {"front", "back"}), ((2, 1, 0), {"front", "left"})])
def test_swapped_images_fit_each_others_poses(moving, order, pair):
    findings = list(check_motion(measure_motion(exchanged(moving, order))))
    assert {finding.camera for finding in findings} == pair and {finding.kind for finding in findings} == {"swapped"}
    for finding in findings:
        (other,) = pair - {finding.camera}
        assert f"as those of {other} should" in finding.text


def test_a_camera_that_is_turned_about_its_axis_fits_no_pose(moving):
    angle = np.deg2rad(12)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for frame in moving:
        frame.T_cam_from_model[2, :3, :3] = turn @ frame.T_cam_from_model[2, :3, :3]
    (finding,) = check_motion(measure_motion(moving))
    assert (finding.kind, finding.camera) == ("motion", "left")


def test_oncoming_traffic_is_no_wrong_pose(moving):
    """A third of the front camera's points come towards it faster than the vehicle drives."""
    for step, frame in enumerate(moving):
        rng = np.random.default_rng(3)
        car = rng.uniform(-1, 1, (20, 3)) * (2, 1, 0.8) + (20 - 3.0 * step, 3, 0.5)
        frame.images[0][:20] = project(car, FORWARD)
    assert list(check_motion(measure_motion(moving))) == []


def test_a_vehicle_that_stands_gives_no_verdict(moving):
    standing = [
        Frame(f.images, f.intrinsics, f.T_cam_from_model, np.eye(4), f.stamp_ns, f.camera_names) for f in moving
    ]
    assert list(check_motion(measure_motion(standing))) == []


def test_the_distance_is_that_of_the_shifted_points():
    points = np.random.default_rng(1).uniform(-1, 1, (80, 3)) * (5, 5, 2) + (20, 0, 0)
    before, after = project(points, FORWARD), project(points - (1.0, 0, 0), FORWARD)
    T = FORWARD @ np.linalg.inv(drive(1.0)) @ np.linalg.inv(FORWARD)
    straight = T.copy()
    straight[:3, :3], straight[:3, 3] = np.eye(3), (0, 0, -1)
    assert epipolar_distance(before, after, INTRINSICS, straight) < 1e-9
    assert 0.3 < epipolar_distance(before, after + (0, 3.0), INTRINSICS, straight) < 3.0


def test_grid_and_horizon_are_where_geometry_puts_them():
    T = FORWARD.copy()
    T[:3, 3] = -FORWARD[:3, :3] @ (0, 0, 1.5)
    picture = draw_ground(np.zeros((396, 704, 3), np.uint8), INTRINSICS, T, ground=0.0)
    assert picture[198].any(axis=-1).all(), "the horizon of a level camera is its principal row"
    assert not picture[:190].any(), "nothing of the ground is above it"
    v = round(198 + 300 * 1.5 / 5)  # the line 5 m ahead
    assert picture[v - 1 : v + 2, 100:600].any(axis=-1).any(axis=0).all()
