"""Rows of the robustness sheet as bags: through the node's pieces they give what the sheet gets from the data set."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

pytest.importorskip("rclpy")
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation.keyframe_run import run_scene
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.evaluation.robustness.recorded_faults import recordable_row
from sparse4d_core.evaluation.robustness.rows import Row
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.types import Frame
from sparse4d_ros.bags.bag_io import BagError, create_bag, read_messages
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.bags.submission import submissions
from sparse4d_ros.bags.truth import read_truth
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.nuscenes_to_rosbag import main as convert
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.rig import load_rig
from sparse4d_ros.replay import Replay
from sparse4d_ros.replay import main as replay_main

RATE = 10  # Hz of the data set
SURE = 0.3  # score
SLOP_NS = 60_000_000  # what the stamps of a set may be apart


@pytest.fixture(scope="module")
def data(tiny_dataset) -> NuScenesDataset:
    return NuScenesDataset(tiny_dataset, sweeps=True, cache=None)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_preset("demo")


@dataclass
class FromStamp:
    """A row of the sheet on all frames, from the first one on that the bag gave."""

    row: Row
    first_ns: int
    holds: bool = True

    def rows(self, data: NuScenesDataset, scene: str) -> list[int]:
        every = replace(self.row, rate=self.row.rate or RATE).rows(data, scene)
        return [row for row in every if data.index.stamp_us[row] * 1000 >= self.first_ns]

    def frame(self, data: NuScenesDataset, scene: str, row: int) -> Frame:
        return self.row.frame(data, scene, row)


def recorded(tiny_dataset, tmp_path, fault: str):
    bag = tmp_path / "bag"
    assert convert(["--dataroot", str(tiny_dataset), "--out", str(bag), "--fault", fault]) == 0
    return bag


def sure(boxes: list[dict]) -> list[dict]:
    return [box for box in boxes if box["detection_score"] > SURE]


# Metres between the two ways, of the middle one of all boxes: 0.0004 to 0.015. A set has the stamp of its newest image,
# in the data set that of the lidar, a millisecond apart or, where images are lost, up to 40.
@pytest.mark.parametrize(
    ("fault", "metres"),
    [
        ("camera_gone_cam_front", 0.05),
        ("images_lost_20_percent", 0.05),
        ("rate_5_hz", 0.01),
        ("camera_stamps_10_ms", 0.05),
        ("ego_stamps_100_ms", 0.02),
    ],
)
def test_a_row_through_the_bag_is_that_of_the_sheet(tiny_dataset, tiny_bag, data, pipeline, tmp_path, fault, metres):
    bag = recorded(tiny_dataset, tmp_path, fault)
    replay = Replay(bag, load_rig(), pipeline, NodeParameters(model="demo", missing_camera="mask", sync_slop=0.08))
    records = list(replay.run())
    assert not replay.drops
    from_data = ResultsWriter()
    plan = FromStamp(recordable_row(fault, data.camera_names), records[0].stamp_ns - SLOP_NS)
    run_scene(pipeline, data, str(data.index.scene_names[0]), from_data, plan=plan)

    # Where the vehicle was is what the sheet scores against, also where the bag's poses are late.
    truth = read_truth(tiny_bag if fault.startswith("ego") else bag)
    from_bag, missing = submissions(records, truth)
    published = {truth.samples[record.stamp_ns]["token"] for record in records if record.stamp_ns in truth.samples}
    common = from_data.detection.keys() & published
    assert not missing, "also the first sets, at which nobody can tell yet whether a camera is gone or late"
    assert len(common) >= 2, "at 5 Hz the sheet carries boxes to key frames that lie between"
    gaps = []
    for token in common:
        found, expected = sure(from_bag.detection[token]), sure(from_data.detection[token])
        assert abs(len(found) - len(expected)) <= 1
        places = np.array([box["translation"] for box in found])
        gaps += [np.linalg.norm(places - box["translation"], axis=1).min() for box in expected]
    assert np.median(gaps) < metres


def test_what_is_recorded(tiny_dataset, tiny_bag, tmp_path):
    """A camera that is gone sends its CameraInfo alone, and all the others are byte for byte what they were."""

    def images(bag):
        return {
            (topic, time): bytes(message.data)
            for topic, time, message in read_messages(bag)
            if topic.endswith("/compressed")
        }

    bag = recorded(tiny_dataset, tmp_path, "camera_gone_cam_front")
    clean, spoiled = images(tiny_bag), images(bag)
    assert spoiled == {key: image for key, image in clean.items() if not key[0].startswith("/cam_front/")}
    infos = [topic for topic, _, _ in read_messages(bag) if topic == "/cam_front/camera_info"]
    assert len(infos) == 15


def test_the_last_set_before_the_images_stop_is_not_lost(tiny_bag, tmp_path):
    """The last image of a recording is missing: nothing comes that would tell the time."""
    everything = list(read_messages(tiny_bag))
    last = max(k for k, (topic, _, _) in enumerate(everything) if topic.endswith("/compressed"))
    with create_bag(tmp_path / "bag") as bag:
        for k, (topic, time, message) in enumerate(everything):
            if k != last:
                bag.write(topic, time, message)
    sets = list(BagFrames(tmp_path / "bag", parameters=NodeParameters(missing_camera="mask")).sets())
    assert [len(synced.images) for synced in sets] == [6] * 14 + [5]


def test_stamps_are_off_and_arrival_is_not(tiny_dataset, tmp_path):
    bag = recorded(tiny_dataset, tmp_path, "camera_stamps_50_ms")
    errors = {
        (topic, ns_from_stamp(message.header.stamp) - time)
        for topic, time, message in read_messages(bag)
        if topic.endswith(("/compressed", "/camera_info"))
    }
    assert len(errors) == 12, "one error a camera, in images and CameraInfo alike"
    assert {error for _, error in errors} == {50_000_000, -50_000_000}


def test_the_commands_of_the_documents(tiny_dataset, tmp_path):
    bag, out = recorded(tiny_dataset, tmp_path, "images_lost_20_percent"), tmp_path / "results.json"
    options = ["--missing-camera", "mask", "--sync-slop", "0.09", "--out", str(out)]
    assert replay_main([str(bag), "--model", "demo", *options]) == 0
    assert len(json.loads(out.read_text())["results"]) == 3


def test_late_poses_are_those_of_before(tiny_dataset, tiny_bag, tmp_path):
    """As far as the clean bag goes back: before its first pose the vehicle is taken to have moved as after it."""
    late = read_truth(recorded(tiny_dataset, tmp_path, "ego_stamps_100_ms")).buffer
    clean, stamps = read_truth(tiny_bag), sorted(read_truth(tiny_bag).samples)
    for stamp_ns in stamps[1:]:
        before = clean.buffer.lookup("map", "base_link", stamp_ns - 100_000_000).matrix
        now = clean.buffer.lookup("map", "base_link", stamp_ns).matrix
        np.testing.assert_allclose(late.lookup("map", "base_link", stamp_ns).matrix, before, atol=2e-3)
        assert np.linalg.norm((before - now)[:3, 3]) > 0.1, "the vehicle drives"


@pytest.mark.parametrize("camera", ["cam_front", "cam_back_left"])
def test_a_recording_without_a_camera_is_replayed_where_it_may_be_masked(tiny_bag, tmp_path, caplog, camera):
    with create_bag(tmp_path / "bag") as bag:
        for topic, time, message in read_messages(tiny_bag):
            if not topic.startswith(f"/{camera}/"):
                bag.write(topic, time, message)
    with pytest.raises(BagError, match=f"lacks /{camera}/image_rect.*; missing_camera: mask runs without"):
        list(BagFrames(tmp_path / "bag").sets())
    frames = BagFrames(tmp_path / "bag", parameters=NodeParameters(missing_camera="mask"))
    sets = list(frames.sets())
    assert len(sets) >= 10 and all(camera not in synced.images for synced in sets)
    assert f"masked throughout are {camera}" in caplog.text
    frame, _ = frames.builder.build(sets[0])
    assert [image is None for image in frame.images].count(True) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [("fog_easy", "it is not in images, stamps or poses"), ("camera_gone_cam_top", "there is no such row")],
)
def test_a_row_that_cannot_be_recorded_is_refused(tiny_dataset, tmp_path, capsys, fault, message):
    assert convert(["--dataroot", str(tiny_dataset), "--out", str(tmp_path / "bag"), "--fault", fault]) == 2
    error = capsys.readouterr().err
    assert message in error and "camera_gone_cam_front" in error
    assert not (tmp_path / "bag").exists()
