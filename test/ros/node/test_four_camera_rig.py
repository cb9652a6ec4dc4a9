"""A robot that is not nuScenes, from rendered images to boxes: four cameras, mixed image sizes, model frame by numbers.

The example of docs/rigs.md. The rendered world writes nuScenes tables, so that the truth about every image is known.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("rclpy")
from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import CameraMount, Rig
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_ros.bags.bag_io import create_bag, read_messages, typestore
from sparse4d_ros.nuscenes_to_rosbag import write_scenes
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.image_decoding import decode_image
from sparse4d_ros.perception.rig import load_rig, parse_rig
from sparse4d_ros.replay import Replay

ROOT = Path(__file__).resolve().parents[3]
HALF = 2**-0.5
SMALL = (240, 160)  # pixels of the two side cameras after the fact; front and rear stay at 320x180
NEW_FRAMES = {
    "cam_front": "front_optical",
    "cam_right": "right_optical",
    "cam_rear": "rear_optical",
    "cam_left": "left_optical",
}

# Optical axes forward, right, rear, left; quaternions w x y z of the optical frame (x right, y down, z forward).
ROBOT = Rig(
    cameras=(
        CameraMount("CAM_FRONT", (0.4, 0.0, 1.2), (0.5, -0.5, 0.5, -0.5), 160.0, (160.0, 90.0), -0.02),
        CameraMount("CAM_RIGHT", (0.0, -0.3, 1.2), (0.0, 0.0, HALF, -HALF), 150.0, (160.0, 90.0), -0.01),
        CameraMount("CAM_REAR", (-0.4, 0.0, 1.2), (0.5, -0.5, -0.5, 0.5), 170.0, (158.0, 92.0), -0.03),
        CameraMount("CAM_LEFT", (0.0, 0.3, 1.2), (HALF, -HALF, 0.0, 0.0), 150.0, (161.0, 89.0), 0.0),
    ),
    image_wh=(320, 180),
    lidar_translation=(0.0, 0.0, 1.8),
    lidar_rotation=(HALF, 0.0, 0.0, -HALF),  # x right, y forward: the pose that the rig file gives by numbers
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("robot") / "world"
    render_dataset(out, 1, 123_001, duration=1.0, rig=ROBOT)
    _shrink_side_cameras(out)
    return out


def _shrink_side_cameras(world: Path) -> None:
    """Side cameras with other images: scaled differently along both axes, calibration with them."""
    tables = world / "v1.0-mini"
    names = ("sample_data", "calibrated_sensor", "sensor")
    data, calibrations, sensors = (json.loads((tables / f"{name}.json").read_text()) for name in names)
    side = {s["token"] for s in sensors if s["channel"] in ("CAM_LEFT", "CAM_RIGHT")}
    calibrated = {c["token"] for c in calibrations if c["sensor_token"] in side}
    scale = np.diag([SMALL[0] / 320, SMALL[1] / 180, 1.0])
    for calibration in calibrations:
        if calibration["token"] in calibrated:
            calibration["camera_intrinsic"] = (scale @ np.array(calibration["camera_intrinsic"])).tolist()
    for record in data:
        if record["calibrated_sensor_token"] in calibrated:
            image = cv2.imread(str(world / record["filename"]))
            cv2.imwrite(str(world / record["filename"]), cv2.resize(image, SMALL))
            record["width"], record["height"] = SMALL
    for name, rows in (("sample_data", data), ("calibrated_sensor", calibrations)):
        (tables / f"{name}.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def bag(world, tmp_path_factory) -> Path:
    """As the robot would record it: its own frame names, the rear camera raw, `odom` and no lidar."""
    from sparse4d_core.data.nuscenes.tables import load_scenes

    written = tmp_path_factory.mktemp("robot") / "nuscenes_names"
    write_scenes(load_scenes(world, "v1.0-mini"), str(written), progress=False)
    out = written.with_name("robot")
    with create_bag(out) as recorder:
        for topic, log_ns, message in read_messages(written):
            if topic.startswith("/nuscenes"):
                continue
            topic, message = _as_the_robot_says(topic, message)
            recorder.write(topic, log_ns, message)
    return out


def _as_the_robot_says(topic, message):
    if topic in ("/tf", "/tf_static"):
        message.transforms = [t for t in message.transforms if t.child_frame_id != "lidar_top"]
        for transform in message.transforms:
            transform.child_frame_id = NEW_FRAMES.get(transform.child_frame_id, transform.child_frame_id)
            transform.header.frame_id = "odom" if transform.header.frame_id == "map" else transform.header.frame_id
        return topic, message
    message.header.frame_id = NEW_FRAMES[message.header.frame_id]
    if topic != "/cam_rear/image_rect/compressed":
        return topic, message
    pixels = decode_image(message)
    height, width = pixels.shape[:2]
    raw_image = typestore().types["sensor_msgs/msg/Image"]
    raw = raw_image(message.header, height, width, "bgr8", 0, 3 * width, pixels.reshape(-1))
    return "/cam_rear/image_rect", raw


def small_pipeline() -> Pipeline:
    torch.manual_seed(0)
    demo = preset("demo")
    image = replace(demo.image, input_wh=(176, 96), original_wh=(320, 180))
    temporal = replace(demo.temporal, num_instances=16)
    return Pipeline(
        Sparse4D(replace(demo, image=image, num_anchors=32, num_output=32, temporal=temporal, min_separation=None))
    )


class Frames:
    """A pipeline that keeps the frames that its network is given."""

    def __init__(self):
        self.pipeline, self.frames, self.results = small_pipeline(), [], []
        self.config = self.pipeline.config

    def prepare(self, frame):
        return self.pipeline.prepare(frame)

    def run(self, prepared, state=None):
        self.frames.append(prepared.frame)
        self.results.append(self.pipeline.run(prepared, state))
        return self.results[-1]


@pytest.fixture(scope="module")
def run(bag) -> tuple[Frames, list, Replay]:
    frames = Frames()
    replay = Replay(bag, load_rig(ROOT / "config" / "four_camera_rig.yaml"), frames, NodeParameters(model="demo"))
    records = list(replay.run())
    return frames, records, replay


def test_every_set_gives_boxes(run):
    frames, records, replay = run
    assert len(records) == 10
    assert not replay.drops
    assert all(record.frame_id == "base_link" for record in records)
    assert all(len(record.detections.scores) for record in records)
    assert {len(frame.images) for frame in frames.frames} == {4}


def test_frames_are_those_of_the_world(run, world):
    """Images, calibration and every camera's pose at its own time, as the tables have them."""
    frames = {frame.stamp_ns: frame for frame in run[0].frames}
    dataset = NuScenesDataset(world, sweeps=True, cache=None)
    order = [dataset.camera_names.index(name) for name in ("CAM_FRONT", "CAM_RIGHT", "CAM_REAR", "CAM_LEFT")]
    compared = 0
    for i in range(len(dataset)):
        truth = dataset.frame(i)
        frame = min(frames.values(), key=lambda f: abs(f.stamp_ns - truth.stamp_ns))
        if abs(frame.stamp_ns - truth.stamp_ns) > 2_000_000:
            continue
        compared += 1
        assert [image.shape[1::-1] for image in frame.images] == [(320, 180), SMALL, (320, 180), SMALL]
        for camera, other in enumerate(order):
            np.testing.assert_array_equal(frame.images[camera], truth.images[other])
            np.testing.assert_allclose(frame.intrinsics[camera], truth.intrinsics[other], atol=1e-9)
            # The set's stamp may differ from the lidar record's by a millisecond: up to 1.5 cm at 15 m/s.
            np.testing.assert_allclose(frame.T_cam_from_model[camera], truth.T_cam_from_model[other], atol=0.03)
    assert compared >= 2


def test_annotated_objects_lie_in_the_images(run, world):
    """Centres of visible objects, projected with what the node would hand to the model, fall into the right pixels."""
    frames, dataset = run[0].frames, NuScenesDataset(world, cache=None)
    inside = total = 0
    for i in dataset.keyframes:
        annotations, stamp = dataset.annotations(int(i)), dataset.frame(int(i), images=False).stamp_ns
        frame = min(frames, key=lambda f, stamp=stamp: abs(f.stamp_ns - stamp))
        for centre in annotations.boxes[:, :3]:
            total += 1
            inside += any(_sees(frame, camera, centre) for camera in range(4))
    assert total > 0
    assert inside == total


def _sees(frame, camera: int, point: np.ndarray) -> bool:
    x, y, z = (frame.T_cam_from_model[camera] @ np.append(point, 1.0))[:3]
    u, v, _ = frame.intrinsics[camera] @ np.array([x, y, z]) / z
    height, width = frame.images[camera].shape[:2]
    margin = 0.15 * width  # large objects near the edge are visible though their centre is not
    return z > 0 and -margin <= u < width + margin and -margin <= v < height + margin


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_cameras_work_too(run, bag, count):
    """The first cameras of the rig alone: the model sees these, as it does in the whole rig, and no others."""
    rig = load_rig(ROOT / "config" / "four_camera_rig.yaml")
    cameras = rig.cameras[:count]
    frames = replace(rig.frames, cameras={camera.name: camera.frame for camera in cameras})
    seen = Frames()
    records = list(Replay(bag, replace(rig, cameras=cameras, frames=frames), seen, NodeParameters()).run())
    assert len(records) == 10 and all(len(record.detections.scores) for record in records)
    for frame, whole in zip(seen.frames, run[0].frames, strict=True):
        assert frame.camera_names == whole.camera_names[:count]
        for image, expected in zip(frame.images, whole.images[:count], strict=True):
            np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(frame.intrinsics, whole.intrinsics[:count])


def test_order_of_the_cameras_does_not_matter(run):
    """To models with camera embedding: they tell cameras apart by their projections."""
    frame, order = run[0].frames[3], [2, 0, 3, 1]
    turned = replace(
        frame,
        images=tuple(frame.images[i] for i in order),
        intrinsics=frame.intrinsics[order],
        T_cam_from_model=frame.T_cam_from_model[order],
        camera_names=tuple(frame.camera_names[i] for i in order),
    )
    one, other = (small_pipeline().step(f).detections for f in (frame, turned))
    np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), atol=1e-5)
    nearest = np.abs(one.boxes[:, None, :3] - other.boxes[None, :, :3]).sum(-1).min(axis=1)
    np.testing.assert_allclose(nearest, 0, atol=1e-3)


def test_twelve_cameras_from_a_bag(bag, tmp_path):
    """The robot with two more cameras beside each of its own: twelve streams in a bag, all of them in every frame."""
    robot = load_rig(ROOT / "config" / "four_camera_rig.yaml")
    copies = ("", "_2", "_3")
    owner = {topic: camera.name for camera in robot.cameras for topic in (camera.image_topic, camera.info_topic)}
    with create_bag(tmp_path / "twelve") as recorder:
        for topic, log_ns, message in read_messages(bag):
            for copy in copies if topic in owner else ("",):
                recorder.write(topic + copy, log_ns, message)
    cameras = tuple(
        replace(c, name=c.name + copy, image_topic=c.image_topic + copy, info_topic=c.info_topic + copy)
        for copy in copies
        for c in robot.cameras
    )
    rig = replace(robot, cameras=cameras, frames=replace(robot.frames, cameras={c.name: c.frame for c in cameras}))
    frames = Frames()
    records = list(Replay(tmp_path / "twelve", rig, frames, NodeParameters()).run())
    assert len(records) == 10 and all(len(record.detections.scores) == 32 for record in records)
    first = frames.frames[0]
    assert len(first.images) == 12 and all(image is not None for image in first.images)
    np.testing.assert_array_equal(first.T_cam_from_model[8:], first.T_cam_from_model[:4])


def test_twelve_cameras_are_a_rig_and_thirteen_are_not():
    def rig(count):
        return parse_rig({"cameras": [{"name": f"camera_{i}"} for i in range(count)]})

    assert len(rig(12).cameras) == 12
    with pytest.raises(ValueError, match="1 to 12"):
        rig(13)
