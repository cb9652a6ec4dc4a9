"""nuScenes tables and images as a bag: complete, exact, in order, or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags")
from rosbags.interfaces import QosDurability

from sparse4d_core.data.nuscenes.tables import load_scenes
from sparse4d_ros import nuscenes_to_rosbag
from sparse4d_ros.bags import bag_io
from sparse4d_ros.bags.bag_io import BagError, open_bag, read_messages
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.nuscenes_to_rosbag import main, write_scenes

VERSION = "v1.0-mini"
TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "sample", "sample_annotation", "sample_data",
    "scene", "sensor",
)  # fmt: skip
DETECTION_ARRAY_HASH = "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018"


def table(dataset: Path, name: str) -> dict[str, dict]:
    return {record["token"]: record for record in json.loads((dataset / VERSION / f"{name}.json").read_text())}


def header_ns(header) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def by_topic(bag: Path) -> dict[str, list]:
    messages = defaultdict(list)
    for topic, log_ns, message in read_messages(bag):
        messages[topic].append((log_ns, message))
    return messages


def convert(dataset: Path, out: Path, *options: str) -> int:
    return main(["--dataroot", str(dataset), "--out", str(out), *options])


def test_images_are_the_files(tiny_dataset, tiny_bag):
    """Every camera file is there once, byte for byte, logged at its own stamp in its own frame."""
    messages = by_topic(tiny_bag)
    sensor, calibration = table(tiny_dataset, "sensor"), table(tiny_dataset, "calibrated_sensor")
    count = 0
    for data in table(tiny_dataset, "sample_data").values():
        channel = sensor[calibration[data["calibrated_sensor_token"]]["sensor_token"]]["channel"]
        if not channel.startswith("CAM"):
            continue
        at_stamp = [
            (t, m) for t, m in messages[f"/{channel.lower()}/image_rect/compressed"] if t == data["timestamp"] * 1000
        ]
        ((log_ns, image),) = at_stamp
        assert bytes(image.data) == (tiny_dataset / data["filename"]).read_bytes()
        assert header_ns(image.header) == log_ns and image.header.frame_id == channel.lower()
        count += 1
    assert count == sum(len(m) for topic, m in messages.items() if topic.endswith("/compressed")) > 60


def test_calibration_and_poses_are_exact(tiny_dataset, tiny_bag):
    """Stored numbers come back unchanged, and there is a pose at the stamp of every image."""
    messages = by_topic(tiny_bag)
    poses = {header_ns(m.transforms[0].header): m.transforms[0].transform for _, m in messages["/tf"]}
    ego_pose, calibration = table(tiny_dataset, "ego_pose"), table(tiny_dataset, "calibrated_sensor")
    for data in table(tiny_dataset, "sample_data").values():
        if not data["is_key_frame"] and data["fileformat"] != "jpg":
            continue  # lidar sweeps: no camera looks then
        stored, pose = ego_pose[data["ego_pose_token"]], poses[data["timestamp"] * 1000]
        t, q = pose.translation, pose.rotation
        assert [t.x, t.y, t.z] == stored["translation"] and [q.w, q.x, q.y, q.z] == stored["rotation"]
    static = {t.child_frame_id: t for _, m in messages["/tf_static"] for t in m.transforms}
    assert set(static) == {topic.split("/")[1] for topic in messages if topic.startswith("/cam")} | {"lidar_top"}
    extrinsics = sorted(record["translation"] for record in calibration.values())
    found = [(t.transform.translation.x, t.transform.translation.y, t.transform.translation.z) for t in static.values()]
    assert sorted(map(list, found)) == extrinsics
    intrinsics = [np.ravel(r["camera_intrinsic"]).tolist() for r in calibration.values() if r["camera_intrinsic"]]
    infos = [m for topic, m in messages.items() if topic.endswith("camera_info")]
    assert sorted(m[0][1].k.tolist() for m in infos) == sorted(intrinsics)
    assert all(not m.d.any() and (m.width, m.height) == (176, 99) for stream in infos for _, m in stream)


def test_order_and_readiness(tiny_bag):
    """Log times never go back; what is needed to understand an image is logged before it."""
    known: set[str] = set()
    last, posed = 0, 0
    for topic, log_ns, message in read_messages(tiny_bag):
        assert log_ns >= last
        last = log_ns
        if topic == "/tf":
            posed = max(posed, header_ns(message.transforms[0].header))
        if topic.endswith("/compressed"):
            assert {"/tf_static", topic.replace("image_rect/compressed", "camera_info")} <= known and posed >= log_ns
        known.add(topic)


def test_a_player_that_starts_in_the_middle_gets_the_calibration(tiny_bag):
    """`ros2 bag play --start-offset` leaves out what was logged before, /tf_static as well."""
    messages = by_topic(tiny_bag)
    logged = [log_ns for log_ns, _ in messages["/tf_static"]]
    ends = max(log_ns for topic, stream in messages.items() if topic.endswith("/compressed") for log_ns, _ in stream)
    assert len(logged) == 2 and max(np.diff([*logged, ends])) <= 1_000_000_000
    assert len({len(message.transforms) for _, message in messages["/tf_static"]}) == 1


def test_a_scene_of_one_instant_has_its_calibration(dataset_copy, tmp_path):
    """All images of one stamp."""
    sample = min(table(dataset_copy, "sample").values(), key=lambda record: record["timestamp"])
    kept = [d for d in table(dataset_copy, "sample_data").values() if d["sample_token"] == sample["token"]]
    data = [record | {"timestamp": sample["timestamp"]} for record in kept if record["is_key_frame"]]
    for name, records in (("sample", [sample]), ("sample_data", data), ("sample_annotation", [])):
        (dataset_copy / VERSION / f"{name}.json").write_text(json.dumps(records))
    assert convert(dataset_copy, tmp_path / "bag") == 0
    assert len(by_topic(tmp_path / "bag")["/tf_static"]) == 1
    frames = BagFrames(tmp_path / "bag")
    assert len(list(frames.frames({sample["timestamp"] * 1000}))) == 1


def test_annotations_and_samples(tiny_dataset, tiny_bag):
    messages = by_topic(tiny_bag)
    stored = defaultdict(list)
    for annotation in table(tiny_dataset, "sample_annotation").values():
        stored[annotation["sample_token"]].append(annotation)
    images = sorted(t for topic, m in messages.items() if topic.endswith("compressed") for t, _ in m)
    samples = [json.loads(m.data) for _, m in messages["/nuscenes/sample"]]
    assert len(samples) == len(table(tiny_dataset, "sample"))
    for sample, (log_ns, array) in zip(samples, messages["/nuscenes/annotations"], strict=True):
        assert sample["stamp_ns"] == log_ns == header_ns(array.header) and log_ns in images
        assert array.header.frame_id == "map"
        for found, annotation in zip(array.detections, stored[sample["token"]], strict=True):
            width, length, height = annotation["size"]
            size, centre = found.bbox.size, found.bbox.center.position
            assert (size.x, size.y, size.z) == (length, width, height)
            assert [centre.x, centre.y, centre.z] == annotation["translation"]
            assert found.id == annotation["instance_token"]


def test_keyframes_only(tiny_dataset, tmp_path):
    assert convert(tiny_dataset, tmp_path / "bag", "--keyframes-only", "--no-annotations", "--storage", "sqlite3") == 0
    messages = by_topic(tmp_path / "bag")
    assert {len(m) for topic, m in messages.items() if topic.startswith("/cam")} == {len(messages["/nuscenes/sample"])}
    assert "/nuscenes/annotations" not in messages
    assert list((tmp_path / "bag").glob("*.db3"))


def test_playable_by_ros(tiny_bag):
    """The official type hashes, and a latched /tf_static."""
    assert DETECTION_ARRAY_HASH in (tiny_bag / "metadata.yaml").read_text()
    with open_bag(tiny_bag) as reader:
        durability = {c.topic: c.ext.offered_qos_profiles[0].durability for c in reader.connections}
    assert durability.pop("/tf_static") == QosDurability.TRANSIENT_LOCAL
    assert set(durability.values()) == {QosDurability.VOLATILE}


def test_needs_only_what_it_uses(dataset_copy, tmp_path):
    for name in ("map", "log", "visibility"):
        (dataset_copy / VERSION / f"{name}.json").unlink(missing_ok=True)
    shutil.rmtree(dataset_copy / "maps", ignore_errors=True)
    shutil.rmtree(dataset_copy / "samples" / "LIDAR_TOP", ignore_errors=True)
    assert convert(dataset_copy, tmp_path / "bag") == 0


@pytest.mark.parametrize("name", TABLES)
def test_missing_table(dataset_copy, tmp_path, capsys, name):
    (dataset_copy / VERSION / f"{name}.json").unlink()
    assert convert(dataset_copy, tmp_path / "bag") == 2
    assert f"table {name}.json is missing in {dataset_copy / VERSION}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["world"]


def test_damaged_dataset(dataset_copy, tmp_path, capsys):
    path = dataset_copy / VERSION / "ego_pose.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert convert(dataset_copy, tmp_path / "bag") == 2
    assert "is the file complete?" in capsys.readouterr().err
    path.write_text("[]")
    assert convert(dataset_copy, tmp_path / "bag") == 2
    assert "refers to no record" in capsys.readouterr().err
    path.write_text(text)
    next((dataset_copy / "samples" / "CAM_BACK").glob("*.jpg")).unlink()
    assert convert(dataset_copy, tmp_path / "bag") == 2
    assert "is missing or empty" in capsys.readouterr().err
    assert convert(dataset_copy, tmp_path / "bag", "--scenes", "scene-9999") == 2
    assert "unknown scene-9999; this dataset has synthetic-" in capsys.readouterr().err
    assert convert(dataset_copy, tmp_path / "bag", "--version", "v1.0-test") == 2
    assert os.listdir(tmp_path) == ["world"]


def test_no_file_outside_the_dataset(dataset_copy, tmp_path, capsys):
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8")
    path = dataset_copy / VERSION / "sample_data.json"
    records = json.loads(path.read_text())
    for record in records:
        record["filename"] = "../secret.jpg"
    path.write_text(json.dumps(records))
    assert convert(dataset_copy, tmp_path / "bag") == 2
    assert "lies outside the dataset" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_interrupted(tiny_dataset, tmp_path, monkeypatch, how):
    """Nothing is left behind, and the bag that --force was to replace is still the old one."""
    out = tmp_path / "bag"
    write_scenes(load_scenes(tiny_dataset, VERSION), str(out), keyframes_only=True, progress=False)
    before = (out / "metadata.yaml").read_text()
    write = bag_io.BagWriter.write

    def interrupted(self, *arguments):
        write(self, *arguments)
        if self.count == 40:
            os.kill(os.getpid(), how)

    monkeypatch.setattr(bag_io.BagWriter, "write", interrupted)
    previous = signal.getsignal(signal.SIGTERM)
    # A shell starts background jobs with SIGINT ignored; here it is Ctrl-C in a terminal.
    before_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert convert(tiny_dataset, out, "--force") == 130
    except SystemExit as stop:
        assert how == signal.SIGTERM and "no bag was written" in str(stop.code)
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, before_interrupt)
    assert os.listdir(tmp_path) == ["bag"] and (out / "metadata.yaml").read_text() == before


def test_overwriting(tiny_dataset, tmp_path, capsys):
    out = tmp_path / "bag"
    assert convert(tiny_dataset, out, "--keyframes-only") == 0
    few = len(list(read_messages(out)))
    assert convert(tiny_dataset, out) == 2
    assert "--force" in capsys.readouterr().err
    assert convert(tiny_dataset, out, "--force") == 0
    assert len(list(read_messages(out))) > few
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    assert convert(tiny_dataset, tmp_path / "notes", "--force") == 2
    assert "is not a bag" in capsys.readouterr().err
    (tmp_path / "link").symlink_to(out)
    assert convert(tiny_dataset, tmp_path / "link", "--force") == 2
    assert f"link is a link; name the folder that it points to, {out}" in capsys.readouterr().err


def test_unreadable_bags(tiny_bag, tmp_path):
    with pytest.raises(BagError, match="does not exist"):
        next(read_messages(tmp_path / "nothing"))
    copy = Path(shutil.copytree(tiny_bag, tmp_path / "cut"))
    file = next(copy.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(BagError, match="cannot be read"):
        next(read_messages(copy))


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        nuscenes_to_rosbag.main(["--help"])
    assert "--scenes scene-0061 --out" in capsys.readouterr().out
