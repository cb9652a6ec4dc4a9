"""The rig file: what it says, and what it may not say."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from sparse4d_ros.perception.rig import RigError, load_rig, parse_rig

pytestmark = pytest.mark.ros
CONFIG = Path(__file__).resolve().parents[3] / "config"


def test_the_nuscenes_rig_has_the_cameras_in_the_order_of_the_model():
    rig = load_rig(CONFIG / "nuscenes_rig.yaml")
    assert rig.names == (
        "cam_front",
        "cam_front_right",
        "cam_front_left",
        "cam_back",
        "cam_back_left",
        "cam_back_right",
    )
    assert rig.frames.cameras == {name: name for name in rig.names}
    assert (rig.frames.global_frame, rig.frames.base_frame, rig.frames.model_frame) == ("map", "base_link", "lidar_top")
    assert parse_rig({"cameras": [{"name": "front"}]}).frames.global_frame == "odom", "which does not jump: REP-105"
    assert rig.frames.T_base_from_model is None
    camera = rig.cameras[0]
    assert (camera.image_topic, camera.info_topic) == ("/cam_front/image_rect/compressed", "/cam_front/camera_info")
    assert camera.transport == "compressed"


def test_a_raw_topic_is_taken_as_raw_with_the_camera_info_beside_it():
    rig = parse_rig({"cameras": [{"name": "a", "image_topic": "/robot/a/image_rect", "frame": "a_optical"}]})
    assert rig.cameras[0].transport == "raw" and rig.cameras[0].info_topic == "/robot/a/camera_info"
    assert rig.frames.cameras == {"a": "a_optical"}


def test_topics_may_lie_below_a_namespace():
    cameras = [{"name": "a", "image_topic": "a/image_rect/compressed"}, {"name": "b", "image_topic": "image_raw"}]
    rig = parse_rig({"cameras": cameras})
    assert [camera.info_topic for camera in rig.cameras] == ["a/camera_info", "camera_info"]
    renamed = rig.with_topics(lambda topic: f"/robot/{topic}")
    assert [camera.image_topic for camera in renamed.cameras] == ["/robot/a/image_rect/compressed", "/robot/image_raw"]
    assert [camera.info_topic for camera in renamed.cameras] == ["/robot/a/camera_info", "/robot/camera_info"]


def test_what_streams_are_rectified():
    cameras = [
        {"name": "by_topic"}, {"name": "raw", "image_topic": "/raw/image_raw"},
        {"name": "stated", "image_topic": "/stated/image", "rectified": True}, {"name": "denied", "rectified": False},
        {"name": "auto", "image_topic": "/auto/image_rect_color", "rectified": "auto"},
    ]  # fmt: skip
    rig = parse_rig({"cameras": cameras})
    assert [camera.rectified for camera in rig.cameras] == [True, False, True, False, True]
    assert rig.frames.rectified == {"by_topic", "stated", "auto"}


def test_a_model_frame_by_numbers_is_its_pose_in_the_base_frame():
    half = np.sqrt(0.5)
    model_frame = {"translation": [0.9, 0.0, 1.8], "rotation_xyzw": [0.0, 0.0, -half, half]}
    rig = parse_rig({"cameras": [{"name": "a"}], "model_frame": model_frame})
    forward = rig.frames.T_base_from_model @ np.array([0.0, 10.0, 0.0, 1.0])  # y of the model looks forward
    np.testing.assert_allclose(forward, (10.9, 0.0, 1.8, 1.0), atol=1e-12)


@pytest.mark.parametrize(
    "cameras",
    [
        [{"name": n, "image_topic": f"/cams/{n}/compressed"} for n in ("front", "rear")],
        [{"name": "front", "info_topic": "/cams/camera_info"}, {"name": "rear", "info_topic": "/cams/camera_info"}],
    ],
    ids=["by_default", "as_stated"],
)
def test_two_cameras_do_not_share_a_calibration(cameras):
    with pytest.raises(RigError, match="front and rear have the same info_topic: /cams/camera_info; .* `info_topic:`"):
        parse_rig({"cameras": cameras})
    cameras[1]["info_topic"] = "/cams/rear/camera_info"
    assert len({camera.info_topic for camera in parse_rig({"cameras": cameras}).cameras}) == 2


GOOD = {
    "base_frame": "base_link",
    "model_frame": {"translation": [0, 0, 1], "rotation_xyzw": [0, 0, 0, 1]},
    "cameras": [{"name": "a"}, {"name": "b"}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rig: rig.pop("cameras"), r"rig: missing \['cameras'\]"),
        (lambda rig: rig.update(camera=[]), r"unknown \['camera'\]"),
        (lambda rig: rig.update(cameras=[]), "a list of 1 to 12 cameras"),
        (lambda rig: rig.update(cameras=[{"name": f"c{i}"} for i in range(13)]), "a list of 1 to 12 cameras"),
        (lambda rig: rig["cameras"][1].update(name="a"), "two have the same name"),
        (lambda rig: rig["cameras"][1].update(image_topic="/a/image_rect/compressed"), "two have the same image_topic"),
        (lambda rig: rig["cameras"][1].pop("name"), r"cameras\[1\]: missing \['name'\]"),
        (lambda rig: rig["cameras"][0].update(transport="theora"), "'raw' or 'compressed', got 'theora'"),
        (
            lambda rig: rig["cameras"][0].update(rectified="yes"),
            r"cameras\[0\].rectified: expected auto, true or false",
        ),
        (lambda rig: rig.update(base_frame=7), "base_frame: expected a name, got 7"),
        (
            lambda rig: rig["model_frame"].update(translation=[1, 2]),
            "model_frame.translation: expected 3 finite numbers",
        ),
        (lambda rig: rig["model_frame"].update(translation=["x", 0, 0]), "expected 3 finite numbers"),
        (lambda rig: rig["model_frame"].update(rotation_xyzw=[0, 0, 0, 2]), "a quaternion of length 1"),
        (lambda rig: rig.update(model_frame=5), "model_frame: expected a mapping"),
    ],
)
def test_what_can_not_be_is_refused_by_name(change, message):
    rig = copy.deepcopy(GOOD)
    assert parse_rig(rig).names == ("a", "b")
    change(rig)
    with pytest.raises(RigError, match=message):
        parse_rig(rig)


def test_files_that_are_no_rig(tmp_path):
    with pytest.raises(RigError, match="cannot read"):
        load_rig(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("cameras: [")
    with pytest.raises(RigError, match="is not YAML"):
        load_rig(tmp_path / "broken.yaml")
    (tmp_path / "text.yaml").write_text("cameras")
    with pytest.raises(RigError, match="text.yaml: rig: expected a mapping"):
        load_rig(tmp_path / "text.yaml")
