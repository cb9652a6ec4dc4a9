"""The checker on a rendered drive: silent where the rig is right, and naming what was made wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

pytest.importorskip("rclpy")
from sparse4d_core.types import Frame
from sparse4d_ros.bags.bag_io import create_bag, open_bag, typestore
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.check_rig import motion
from sparse4d_ros.check_rig.__main__ import main
from sparse4d_ros.check_rig.ground_grid import draw_ground
from sparse4d_ros.check_rig.motion import check_motion, epipolar_distance, measure_motion
from sparse4d_ros.messages.stamps import ns_from_stamp
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


def altered_bag(bag: Path, folder: Path, change: Callable[[str, int, Any], Any]) -> Path:
    """The bag with its messages changed: (topic, nanoseconds since the first, message) ► message, or None."""
    start = None
    with open_bag(bag) as reader, create_bag(folder) as writer:
        for connection, log_ns, data in reader.messages():
            start = log_ns if start is None else start
            message = typestore().deserialize_cdr(bytes(data), connection.msgtype)
            changed = change(connection.topic, log_ns - start, message)
            if changed is not None:
                writer.write(connection.topic, log_ns, changed)
    return folder


def transform_of(message: Any, child: str) -> list[Any]:
    return [each.transform for each in message.transforms if each.child_frame_id == child]


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


def test_a_camera_without_an_image_in_the_last_set_is_checked_all_the_same(tiny_bag, tmp_path):
    last_ns = [synced.stamp_ns for synced in BagFrames(tiny_bag).sets()][4]

    def lift(topic: str, since_ns: int, message: Any) -> Any:
        if topic == "/tf_static":
            for transform in transform_of(message, "cam_back"):
                transform.translation.z = 50.0
        return message

    def lift_and_lose(topic: str, since_ns: int, message: Any) -> Any:
        lost = topic.startswith("/cam_back/image") and abs(ns_from_stamp(message.header.stamp) - last_ns) < 40_000_000
        return None if lost else lift(topic, since_ns, message)

    found = {}
    for name, change in (("whole", lift), ("without", lift_and_lose)):
        bag = altered_bag(tiny_bag, tmp_path / name, change)
        status = main([str(default_rig()), "--bag", str(bag), "--out", str(tmp_path), "--sets", "3"])
        content = json.loads((tmp_path / "rig.json").read_text())
        assert status == 1 and content["sets"] == 3
        found[name] = [one for one in content["findings"] if one["kind"] == "units"], content["mountings"]
    assert found["without"] == found["whole"] and found["whole"][0][0]["camera"] == "cam_back"


def test_a_camera_that_no_set_could_show_is_named(tiny_bag, tmp_path):
    """Its one image is in the first set, which is before the first transform; the others come later than is looked."""

    def lose(topic: str, since_ns: int, message: Any) -> Any:
        no_pose = topic == "/tf" and since_ns < 60_000_000
        no_image = topic.startswith("/cam_back/image") and 60_000_000 < since_ns < 1_080_000_000
        return None if no_pose or no_image else message

    bag = altered_bag(tiny_bag, tmp_path / "bag", lose)
    status = main([str(default_rig()), "--bag", str(bag), "--out", str(tmp_path), "--sets", "4", "--apart", "0"])
    content = json.loads((tmp_path / "rig.json").read_text())
    assert status == 1 and kinds(content) == {("no_image", "cam_back")}


def test_sets_are_formed_with_the_slop_that_is_asked_for(tiny_bag, tmp_path, capsys):
    """The left rear camera, which fires 43 ms after the first one, is outside, and the sentence has the remedy. Two
    sets are one pair of images: too few to measure motion, however far the vehicle drives."""
    words = [str(default_rig()), "--bag", str(tiny_bag), "--out", str(tmp_path), "--sets", "2"]
    assert main([*words, "--sync-slop", "0.033"]) == 1
    told = capsys.readouterr().out
    assert kinds(json.loads((tmp_path / "rig.json").read_text())) == {("no_image", "cam_back_left")}
    assert "above 0.033 s, give --sync-slop" in told
    assert told.count("not measured: fewer than 3 pairs of images with 0.2 m of motion and 15 points; more --sets") == 5
    with pytest.raises(SystemExit) as end:
        main([*words, "--sync-slop", "1"])
    assert end.value.code == 2 and "expected 0 to 0.25 s (the node's sync_timeout), got 1" in capsys.readouterr().err


def test_images_from_before_the_first_transform_are_no_finding(tiny_bag, tmp_path, capsys):
    """As a recorder leaves them that subscribes to /tf last."""

    def begin_late(topic: str, since_ns: int, message: Any) -> Any:
        return None if topic == "/tf" and since_ns < 60_000_000 else message

    status, content = check(altered_bag(tiny_bag, tmp_path / "bag", begin_late), str(default_rig()), tmp_path)
    assert (status, content["findings"]) == (0, []) and len(content["mountings"]) == 6
    assert content["unusable"] == {"tf_extrapolation_past": 1}
    assert "sets passed over: 1 (tf_extrapolation_past)" in capsys.readouterr().out


def test_sets_that_are_often_unusable_are_a_finding(tiny_bag, tmp_path):
    images = 0

    def break_every_second(topic: str, since_ns: int, message: Any) -> Any:
        nonlocal images
        if topic.startswith("/cam_back/image"):
            images += 1
            if images % 2:
                message.data = message.data[:10]
        return message

    bag = altered_bag(tiny_bag, tmp_path / "bag", break_every_second)
    main([str(default_rig()), "--bag", str(bag), "--out", str(tmp_path), "--sets", "2", "--apart", "0"])
    content = json.loads((tmp_path / "rig.json").read_text())
    (finding,) = [one for one in content["findings"] if "cannot be used" in one["text"]]
    assert "cam_back" in finding["text"] and len(content["mountings"]) == 6


def test_a_rectification_that_turns_the_image_turns_grid_and_horizon(tiny_bag, tmp_path):
    """The same pictures of a camera whose optical frame is turned against its rectified images, and told so by R."""
    R = Rotation.from_euler("x", 6.0, degrees=True)

    def turn(topic: str, since_ns: int, message: Any) -> Any:
        if topic == "/cam_front/camera_info":
            message.r = R.as_matrix().ravel()
        elif topic == "/tf_static":
            for transform in transform_of(message, "cam_front"):
                q = transform.rotation
                q.x, q.y, q.z, q.w = map(float, (Rotation.from_quat([q.x, q.y, q.z, q.w]) * R).as_quat())
        return message

    pictures = []
    for name, bag in (("as_it_is", tiny_bag), ("turned", altered_bag(tiny_bag, tmp_path / "bag", turn))):
        status, _ = check(bag, str(default_rig()), tmp_path / name)
        assert status == 0
        pictures.append(cv2.imread(str(tmp_path / name / "cam_front.jpg")).astype(int))
    assert np.abs(pictures[1] - pictures[0]).mean() < 0.5, "a line in another place is 255 for hundreds of pixels"


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
