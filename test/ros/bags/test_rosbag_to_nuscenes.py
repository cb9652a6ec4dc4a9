"""A bag back into a dataset: nothing that the bag has is lost, and what cannot be learned from is counted."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from nuscenes import NuScenes

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.nuscenes.tables import load_scenes
from sparse4d_core.evaluation.robustness.rows import data_rate
from sparse4d_ros.bags import dataset_exporter, nuscenes_messages
from sparse4d_ros.bags.bag_io import create_bag, read_messages, typestore
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.nuscenes_to_rosbag import write_scenes
from sparse4d_ros.perception.image_decoding import ConversionError, decode_image
from sparse4d_ros.rosbag_to_nuscenes import main

VERSION = "v1.0-mini"


@pytest.fixture(scope="module")
def rewritten(tiny_bag, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rewritten") / "world"
    assert main([str(tiny_bag), "--out", str(out)]) == 0
    return out


def contents(bag: Path) -> dict[tuple, list]:
    """Everything in a bag, comparable: (topic, stamp) -> fields."""
    found = defaultdict(list)
    for topic, log_ns, message in read_messages(bag):
        if topic.endswith("compressed"):
            value = bytes(message.data)
        elif topic.endswith("camera_info"):
            value = [message.width, message.height, *message.k.round(9)]
        elif topic in ("/tf", "/tf_static"):
            value = sorted(
                (
                    t.child_frame_id,
                    *np.round([t.transform.translation.x, t.transform.translation.y, t.transform.rotation.z], 9),
                )
                for t in message.transforms
            )
        elif topic == "/nuscenes/annotations":
            boxes = [(d, d.bbox.center.position, d.bbox.center.orientation, d.bbox.size) for d in message.detections]
            value = sorted(
                (d.id, d.results[-1].hypothesis.class_id, c.x, c.y, c.z, q.z, q.w, s.x, s.y) for d, c, q, s in boxes
            )
        else:
            sample = json.loads(message.data)
            extras = sorted(
                (a["token"], a["num_lidar_pts"], a["visibility"], *a["attributes"]) for a in sample["annotations"]
            )
            value = (sample["token"], sample["scene"], sample["timestamp"], extras)
        found[topic, log_ns].append(value)
    return found


def test_round_trip(tiny_bag, rewritten, tmp_path):
    """dataset -> bag -> dataset -> bag: the two bags say the same."""
    again = tmp_path / "again"
    write_scenes(load_scenes(rewritten, VERSION), str(again), progress=False)
    first, second = contents(tiny_bag), contents(again)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == value, key


def test_the_devkit_reads_it(tiny_dataset, rewritten):
    """Same objects, boxes and velocities as the original dataset, through the official devkit."""
    original, copy = (NuScenes(VERSION, str(folder), verbose=False) for folder in (tiny_dataset, rewritten))
    assert [s["token"] for s in original.sample] == [s["token"] for s in copy.sample]
    assert len(original.sample_annotation) == len(copy.sample_annotation) > 50
    for annotation in original.sample_annotation:
        twin = copy.get("sample_annotation", annotation["token"])
        for name in ("translation", "size", "rotation", "instance_token", "category_name", "num_lidar_pts"):
            assert twin[name] == annotation[name], name
        np.testing.assert_array_equal(copy.box_velocity(twin["token"]), original.box_velocity(annotation["token"]))
    for sample in copy.sample:
        for channel, token in sample["data"].items():
            if channel.startswith("CAM"):
                assert Path(copy.get_sample_data_path(token)).is_file()
    assert json.loads((rewritten / VERSION / "splits.json").read_text()) == {"all": [copy.scene[0]["name"]]}


def test_sweeps_have_stamps_and_poses_of_their_own(tiny_dataset, rewritten):
    """Those of their newest images, half a millisecond from the lidar's of the original."""
    original, copy = (NuScenesDataset(folder, sweeps=True, cache=None) for folder in (tiny_dataset, rewritten))
    assert len(copy.index.stamp_us) == len(original.index.stamp_us) == 15
    np.testing.assert_allclose(copy.index.stamp_us, original.index.stamp_us, rtol=0, atol=2000)
    np.testing.assert_allclose(copy.index.T_global_from_model, original.index.T_global_from_model, atol=0.05)
    assert data_rate(copy) == pytest.approx(10, rel=0.02)


def test_scenes_are_told_apart(tiny_bag, tmp_path):
    """By name where one follows the other at once, and by a silence."""
    with create_bag(tmp_path / "drive") as writer:
        last = 0
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic == "/nuscenes/sample":
                last, content = last + 1, json.loads(message.data)
                message.data = json.dumps(content | {"scene": f"scene-{min(last, 2)}"})
            writer.write(topic, log_ns, message)
    assert main([str(tmp_path / "drive"), "--out", str(tmp_path / "named")]) == 0
    nusc = NuScenes(VERSION, str(tmp_path / "named"), verbose=False)
    assert [(s["name"], s["nbr_samples"]) for s in nusc.scene] == [("scene-1", 1), ("scene-2", 2)]
    assert main([str(tmp_path / "drive"), "--out", str(tmp_path / "cut"), "--max-gap", "0.01"]) == 0
    nusc = NuScenes(VERSION, str(tmp_path / "cut"), verbose=False)
    assert len({s["name"] for s in nusc.scene}) == 3 == len({s["token"] for s in nusc.scene})


def test_unlearnable_boxes_are_counted(tiny_bag, tmp_path, capsys):
    bag, broken = tmp_path / "bag", {1: ("size", "x", 0.0), 2: ("position", "y", math.nan)}
    with create_bag(bag) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic == "/nuscenes/sample":
                continue  # a bag of one's own has no sample tokens
            if topic == "/nuscenes/annotations":
                box = message.detections[1].bbox.size
                box.x = broken[1][2]
                message.detections[2].bbox.center.position.y = broken[2][2]
                message.detections[3].results = message.detections[3].results[:1]
                message.detections[3].results[0].hypothesis.class_id = "tram"
            if topic == "/cam_back/image_rect/compressed" and log_ns % 7 == 0:
                message.data = message.data[:100]
            writer.write(topic, log_ns, message)
    assert main([str(bag), "--out", str(tmp_path / "world")]) == 0
    printed = capsys.readouterr().out
    assert "'image: image_data': " in printed
    for cause in ("box of size zero", "box with a number that is not finite", "box of unknown class"):
        assert f"'{cause}': 3" in printed
    nusc = NuScenes(VERSION, str(tmp_path / "world"), verbose=False)
    assert len(nusc.scene) == 1 and nusc.scene[0]["name"] == "bag-0000" and len(nusc.sample) == 3


def relabelled(tiny_bag, out, *labels: tuple[str, str]) -> Path:
    """A bag of one's own whose messages have boxes of these classes and ids."""
    with create_bag(out) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic == "/nuscenes/sample":
                continue
            if topic == "/nuscenes/annotations":
                message.detections = message.detections[: len(labels)]
                for detection, (name, identity) in zip(message.detections, labels, strict=True):
                    detection.id, detection.results = identity, detection.results[:1]
                    detection.results[0].hypothesis.class_id = name
            writer.write(topic, log_ns, message)
    return out


def test_ids_that_are_unique_within_a_class(tiny_bag, tmp_path):
    """Two objects, each with its own class and its own places."""
    out = tmp_path / "world"
    bag = relabelled(tiny_bag, tmp_path / "bag", ("car", "1"), ("pedestrian", "1"))
    assert main([str(bag), "--out", str(out)]) == 0
    nusc = NuScenes(VERSION, str(out), verbose=False)
    names = {nusc.get("category", one["category_token"])["name"]: one for one in nusc.instance}
    assert names.keys() == {"vehicle.car", "human.pedestrian.adult"}
    assert [one["nbr_annotations"] for one in nusc.instance] == [3, 3]
    assert len({annotation["token"] for annotation in nusc.sample_annotation}) == 6


@pytest.mark.parametrize("identity", ["0", "f" * 32], ids=["number", "token"])
def test_two_objects_of_one_class_and_id_are_refused(tiny_bag, tmp_path, capsys, identity):
    bag = relabelled(tiny_bag, tmp_path / "bag", ("car", identity), ("pedestrian", "1"), ("car", identity))
    assert main([str(bag), "--out", str(tmp_path / "world")]) == 2
    text = rf"annotations: a second box of id '{identity}' \(vehicle.car\) at \d+; expected an id for each object"
    assert re.search(text, capsys.readouterr().err)


def test_images_before_the_first_and_after_the_last_transform(tiny_bag, tmp_path, capsys):
    """A recorder never starts everything at one moment: those sets are left out and counted."""
    bag, out = tmp_path / "bag", tmp_path / "world"
    stamps = [log_ns for _, log_ns, _ in read_messages(tiny_bag, ["/nuscenes/sample"])]
    with create_bag(bag) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic != "/tf" or stamps[0] < log_ns < stamps[-1]:
                writer.write(topic, log_ns, message)
    assert main([str(bag), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 samples" in printed and "'set: tf_extrapolation_past': " in printed
    assert "'set: tf_extrapolation_future': " in printed
    nusc = NuScenes(VERSION, str(out), verbose=False)
    assert [s["timestamp"] for s in nusc.sample] == [json.loads(m.data)["timestamp"] for _, t, m in read_messages(
        tiny_bag, ["/nuscenes/sample"]) if t == stamps[1]]  # fmt: skip
    files = {str(path.relative_to(out)) for path in out.rglob("*.jpg")}
    assert files == {data["filename"] for data in nusc.sample_data if data["fileformat"] != "pcd"}


def test_a_frame_that_is_not_there_is_an_error(tiny_bag, tmp_path, capsys):
    with create_bag(tmp_path / "bag") as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic != "/tf_static":
                writer.write(topic, log_ns, message)
    assert main([str(tmp_path / "bag"), "--out", str(tmp_path / "world")]) == 2
    assert "unknown frame" in capsys.readouterr().err and not (tmp_path / "world").exists()


MOSAIC = np.tile(np.array([[200, 60], [60, 20]], np.uint8), (16, 16))
RED = np.full((32, 32, 3), (20, 60, 200), np.uint8)


@pytest.mark.parametrize(
    ("format", "pixels"),
    [("bgr8; jpeg compressed rgb8", RED), ("rgb8; png compressed rgb8", RED), ("bayer_rggb8; png compressed ", MOSAIC)],
)
def test_images_whose_format_decides_their_colours(tmp_path, format, pixels):
    """The file shows what the node sees; where the data need no format, they are copied."""
    _, data = cv2.imencode(".jpg" if "jpeg" in format else ".png", pixels)
    header = nuscenes_messages.header("cam_front", 1)
    message = typestore().types["sensor_msgs/msg/CompressedImage"](header, format, data.ravel())
    stored = cv2.imread(str(dataset_exporter.store_image(message, tmp_path / "decided")))
    assert np.abs(stored.astype(int) - decode_image(message)).max() < 10
    assert np.abs(stored.astype(int) - cv2.imdecode(data, cv2.IMREAD_COLOR)).max() > 50
    message.format = "bgr8; jpeg compressed bgr8"
    assert dataset_exporter.store_image(message, tmp_path / "copied").read_bytes() == data.tobytes()
    message.format = "16UC1; compressedDepth"
    with pytest.raises(ConversionError, match="a depth image"):
        dataset_exporter.store_image(message, tmp_path / "depth")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_interrupted(tiny_bag, tmp_path, monkeypatch, capsys, how):
    store = dataset_exporter.store_image

    def interrupted(message, stem):
        os.kill(os.getpid(), how)
        return store(message, stem)

    monkeypatch.setattr(dataset_exporter, "store_image", interrupted)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
    try:
        assert main([str(tiny_bag), "--out", str(tmp_path / "world")]) == 130
        assert "interrupted: no dataset was written" in capsys.readouterr().err
    except SystemExit as stop:
        assert how == signal.SIGTERM and "no dataset was written" in str(stop.code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--slop", "--max-gap"])
@pytest.mark.parametrize("seconds", ["-1", "nan", "inf"])
def test_bad_options(tiny_bag, tmp_path, capsys, option, seconds):
    with pytest.raises(SystemExit) as stop:
        main([str(tiny_bag), "--out", str(tmp_path / "world"), f"{option}={seconds}"])
    assert stop.value.code == 2 and f"{option}: expected seconds, 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize("fewer", [0, 1])
def test_annotations_of_another_topic_take_nothing_from_the_original_ones(tiny_dataset, tiny_bag, tmp_path, fewer):
    """As many boxes as there, or fewer: neither their tokens nor what the lidar saw of them."""
    with create_bag(tmp_path / "bag") as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            writer.write(topic, log_ns, message)
            if topic == "/nuscenes/annotations":
                message.detections = message.detections[fewer:]
                writer.write("/labels", log_ns, message)
    out = tmp_path / "world"
    assert main([str(tmp_path / "bag"), "--out", str(out), "--annotations", "/labels"]) == 0
    old, new = (
        {record["token"]: record for record in json.loads((folder / VERSION / "sample_annotation.json").read_text())}
        for folder in (tiny_dataset, out)
    )
    assert new and not old.keys() & new.keys() and {record["num_lidar_pts"] for record in new.values()} == {1}


def test_original_annotations_that_were_changed(tiny_bag, tmp_path, capsys):
    """What the sample notes of each box is then of nobody knows which."""
    with create_bag(tmp_path / "bag") as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic == "/nuscenes/annotations":
                message.detections = message.detections[1:]
            writer.write(topic, log_ns, message)
    assert main([str(tmp_path / "bag"), "--out", str(tmp_path / "world")]) == 2
    assert re.search(r"annotations: \d+ boxes at \d+, of which the bag's sample notes", capsys.readouterr().err)


def test_stamps_that_come_again(tiny_bag, tmp_path, capsys):
    """A recording of a bag that was played in a loop."""
    with create_bag(tmp_path / "bag") as writer:
        for loop in range(2):
            for topic, log_ns, message in read_messages(tiny_bag):
                writer.write(topic, log_ns + loop * 5 * 10**9, message)
    assert main([str(tmp_path / "bag"), "--out", str(tmp_path / "world")]) == 2
    assert "twice, as where a drive is played again" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_clock_that_was_set_back(tiny_bag, tmp_path, capsys):
    """Stamps of images and poses by 0.655 s, in the middle of the recording: none comes twice, but they overlap."""

    def set_back(header):
        stamp_ns = ns_from_stamp(header.stamp) - 655_000_000
        header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)

    start = None
    with create_bag(tmp_path / "bag") as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            start = log_ns if start is None else start
            if topic == "/nuscenes/sample":
                continue
            if log_ns - start > 800_000_000:
                for header in [one.header for one in getattr(message, "transforms", [message])]:
                    set_back(header)
            writer.write(topic, log_ns, message)
    assert main([str(tmp_path / "bag"), "--out", str(tmp_path / "world")]) == 2
    assert "time goes back before the set at" in capsys.readouterr().err


def test_bad_bags(tiny_bag, tmp_path, capsys):
    out = tmp_path / "world"
    assert main([str(tiny_bag), "--out", str(out), "--annotations", "/labels"]) == 2
    assert "no annotations on /labels" in capsys.readouterr().err
    assert main([str(tiny_bag), "--out", str(out), "--annotations", "/cam_front/camera_info"]) == 2
    text = "annotations: /cam_front/camera_info has sensor_msgs/msg/CameraInfo; expected a topic with vision_msgs/msg/"
    assert text in capsys.readouterr().err
    with create_bag(tmp_path / "shifted") as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic == "/nuscenes/annotations":
                message.header.stamp.nanosec += 1
            writer.write(topic, log_ns, message)
    assert main([str(tmp_path / "shifted"), "--out", str(out)]) == 2
    assert "must carry the stamp of the newest image" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shifted"]
    out.mkdir()
    assert main([str(tiny_bag), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err
