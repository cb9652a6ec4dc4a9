"""Real nuScenes keyframes as bags: photographs, calibration, poses, annotations; and through the full-size model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
from nuscenes import NuScenes
from nuscenes.utils.geometry_utils import BoxVisibility, view_points

from sparse4d_core.types import Frame
from sparse4d_ros.bags.box_record import differences, read_box_record
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.bags.truth import read_truth
from sparse4d_ros.demo.listener import DiagnosticsListener
from sparse4d_ros.middleware import isolated, large_messages, variables
from sparse4d_ros.nuscenes_to_rosbag import main as convert
from sparse4d_ros.perception.transforms import quaternion_matrix
from sparse4d_ros.replay import main as replay

MAX_PIXELS = 0.5


@pytest.fixture(scope="module")
def bag(real_sample, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("real") / real_sample.name
    assert convert(["--dataroot", str(real_sample), "--out", str(out)]) == 0
    return out


def frame_and_annotations(bag: Path) -> tuple[Frame, list]:
    """The bag's only set."""
    frames, truth = BagFrames(bag), read_truth(bag)
    ((stamp_ns, annotations),) = truth.annotations.items()
    (frame,) = frames.frames({stamp_ns})
    frames.builder.close()
    return frame, annotations.detections


def corners_in_map(detection) -> np.ndarray:
    """[4, 8] homogeneous corners; the order of nuScenes' Box.corners."""
    c, q, s = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
    T = quaternion_matrix((q.x, q.y, q.z, q.w))
    T[:3, 3] = c.x, c.y, c.z
    x = s.x / 2 * np.array([1, 1, 1, 1, -1, -1, -1, -1])
    y = s.y / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    z = s.z / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
    return T @ np.stack([x, y, z, np.ones(8)])


def test_annotations_project_as_the_devkit_projects_them(real_sample, bag):
    """Bag -> TF, CameraInfo, annotations -> pixels, against the official devkit, in every camera that sees a box."""
    frame, annotations = frame_and_annotations(bag)
    nusc = NuScenes("v1.0-mini", str(real_sample), verbose=False)
    by_instance = {d.id: d for d in annotations}
    T_model_from_map = np.linalg.inv(frame.T_global_from_model)
    worst, seen = 0.0, 0
    for index, camera in enumerate(frame.camera_names):
        _, boxes, K = nusc.get_sample_data(nusc.sample[0]["data"][camera.upper()], BoxVisibility.ANY)
        np.testing.assert_array_equal(frame.intrinsics[index], K)
        for box in boxes:
            detection = by_instance[nusc.get("sample_annotation", box.token)["instance_token"]]
            points = frame.T_cam_from_model[index] @ T_model_from_map @ corners_in_map(detection)
            ahead = points[2] > 0.1
            pixels = frame.intrinsics[index] @ points[:3, ahead]
            expected = view_points(box.corners()[:, ahead], K, normalize=True)[:2]
            worst = max(worst, float(np.abs(pixels[:2] / pixels[2] - expected).max()))
            seen += 1
    assert seen > 20 and worst < MAX_PIXELS, f"{seen} boxes, off by up to {worst:.3g} px"
    assert all(image.shape == (900, 1600, 3) for image in frame.images)


@pytest.fixture(scope="module")
def replayed(bag, tmp_path_factory) -> Path:
    """Boxes of v3_r50 with random weights."""
    out = tmp_path_factory.mktemp("replayed") / "boxes.jsonl"
    assert replay([str(bag), "--model", "v3_r50", "--allow-untrained", "--record", str(out)]) == 0
    return out


@pytest.mark.slow
def test_full_size_model(replayed):
    (record,) = read_box_record(replayed)
    assert len(record.detections.scores) == 300 and np.isfinite(record.detections.boxes).all()


@pytest.mark.slow
@pytest.mark.ros
def test_full_size_model_over_dds(bag, replayed, tmp_path, ros_domain):
    """The photographs played into the node: the boxes are those of the replay."""
    online = tmp_path / "online.jsonl"
    middleware = {**large_messages(), **isolated(ros_domain)}

    def start(module: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", f"sparse4d_ros.{module}", *map(str, arguments)]
        return subprocess.Popen(command, env={**os.environ, **middleware})

    recorder = start("box_recorder", "--out", online, "--count", 1)
    # The bag has one set alone: an image that is lost on the way is not made up for.
    reliable = ("image_reliability:=reliable", "camera_info_reliability:=reliable")
    parameters = ("model:=v3_r50", "allow_untrained:=true", "autostart:=true", "first_id:=0", *reliable)
    node = start("node", "--ros-args", *(word for parameter in parameters for word in ("-p", parameter)))
    try:
        with variables(middleware), DiagnosticsListener() as listener:
            assert listener.wait_until_recorded(PATIENCE)
        assert start("bag_player", bag, "--wait", 120).wait(180) == 0
        assert recorder.wait(180) == 0
    finally:
        for process in (node, recorder):
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
    assert differences(read_box_record(online), read_box_record(replayed)) == []
