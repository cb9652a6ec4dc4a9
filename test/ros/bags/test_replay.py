"""The replay: every set of a bag through the node's own pieces, and the same boxes as the node over DDS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections import defaultdict
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from patience import PATIENCE

pytest.importorskip("rclpy")
from sparse4d_core.boxes import transform_boxes
from sparse4d_core.config import preset
from sparse4d_core.evaluation.evaluate import main as evaluate
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.types import CLASS_NAMES, Detections, Tracks
from sparse4d_ros import replay as replay_module
from sparse4d_ros.bags.bag_io import create_bag, read_messages
from sparse4d_ros.bags.bag_score import score
from sparse4d_ros.bags.box_record import BoxRecordError, BoxRecordWriter, SetRecord, differences, read_box_record
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.bags.submission import submissions, write_results
from sparse4d_ros.bags.truth import read_truth
from sparse4d_ros.demo.listener import DiagnosticsListener
from sparse4d_ros.middleware import variables
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.rig import load_rig
from sparse4d_ros.perception.synced_set import Missing, SetStatus
from sparse4d_ros.replay import Replay, main
from sparse4d_ros.write_submission import main as submit


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """The demo's network, smaller: what it says does not matter here."""
    torch.manual_seed(0)
    demo = preset("demo")
    image = replace(demo.image, input_wh=(176, 64))
    temporal = replace(demo.temporal, num_instances=16)
    return Pipeline(Sparse4D(replace(demo, image=image, num_anchors=32, num_output=32, temporal=temporal)))


def replay(bag, pipeline, **parameters) -> Replay:
    return Replay(bag, load_rig(), pipeline, NodeParameters(model="demo", **parameters))


def test_every_set_once(tiny_bag, pipeline):
    """Fifteen sets of six images; a second pass gives the same; a part of the sets gives those alone."""
    run = replay(tiny_bag, pipeline)
    records = list(run.run())
    assert len(records) == 15 and not run.drops and not +run.synchronizer.drops
    images = {t for topic, t, _ in read_messages(tiny_bag) if topic.endswith("/compressed")}
    assert all(record.stamp_ns in images and record.frame_id == "base_link" for record in records)
    again = list(replay(tiny_bag, pipeline).run())
    assert differences(records, again) == []
    chosen = {record.stamp_ns for record in records[::4]}
    assert {record.stamp_ns for record in replay(tiny_bag, pipeline).run(chosen)} == chosen


def test_score_threshold(tiny_bag, pipeline):
    everything = next(replay(tiny_bag, pipeline).run())
    threshold = float(np.median(everything.detections.scores))
    good = next(replay(tiny_bag, pipeline, score_threshold=threshold).run())
    kept = everything.detections.scores >= threshold
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(good.detections.boxes, everything.detections.boxes[kept])


def test_late_transforms(tiny_bag, tmp_path, pipeline):
    """Poses that arrive 50 ms after their image are waited for, like online; without waiting every set is lost."""
    delayed = tmp_path / "delayed"
    messages = [(t + 50_000_000 if topic == "/tf" else t, topic, m) for topic, t, m in read_messages(tiny_bag)]
    with create_bag(delayed) as bag:
        for log_ns, topic, message in sorted(messages, key=lambda row: row[0]):
            bag.write(topic, log_ns, message)
    assert differences(replay(delayed, pipeline).run(), replay(tiny_bag, pipeline).run()) == []
    hasty = replay(delayed, pipeline, tf_timeout=0.0)
    assert len(list(hasty.run())) < 3
    assert sum(hasty.drops.values()) > 12 and all(cause.startswith("tf_") for cause in hasty.drops)


def test_command_line(tiny_dataset, tiny_bag, tmp_path, capsys):
    out, tracking, record = (tmp_path / name for name in ("results.json", "tracking.json", "record.jsonl"))
    command = [str(tiny_bag), "--model", "demo", "--record", str(record)]
    command += ["--out", str(out), "--tracking-out", str(tracking)]
    assert main(command) == 0
    assert "15 sets; 3 of 3 samples have results" in capsys.readouterr().out
    samples = {s["token"] for s in json.loads((tiny_dataset / "v1.0-mini" / "sample.json").read_text())}
    for path in (out, tracking):
        assert set(json.loads(path.read_text())["results"]) == samples
    first = next(read_box_record(record)).stamp_ns
    (tmp_path / "sets").write_text(f"{first}\n")
    assert main([*command, "--sets", str(tmp_path / "sets")]) == 0
    assert [r.stamp_ns for r in read_box_record(record)] == [first]


def test_what_was_processed_is_not_kept(tiny_bag, tmp_path, monkeypatch):
    """However long the bag: neither sets nor records of the past are alive while it goes on."""
    seen, most = {"sets": [], "records": []}, {"sets": 0, "records": 0}
    process, to_record = Replay._process, replay_module.record_from_messages

    def watch(kind, thing):
        seen[kind].append(weakref.ref(thing))
        most[kind] = max(most[kind], sum(reference() is not None for reference in seen[kind]))

    def watched_process(self, synced):
        watch("sets", synced)
        return process(self, synced)

    def watched_record(**messages):
        record = to_record(**messages)
        watch("records", record)
        return record

    monkeypatch.setattr(Replay, "_process", watched_process)
    monkeypatch.setattr(replay_module, "record_from_messages", watched_record)
    command = [str(tiny_bag), "--model", "demo", "--record", str(tmp_path / "record.jsonl")]
    assert main(command) == 0
    assert len(seen["records"]) == len(seen["sets"]) == 15
    assert most["sets"] <= 2 and most["records"] <= 3


def test_an_interrupted_replay_keeps_its_record(tiny_bag, tmp_path, monkeypatch, capsys):
    process, record = Replay._process, tmp_path / "record.jsonl"

    def interrupted(self, synced):
        if self.count == 2:
            raise KeyboardInterrupt
        return process(self, synced)

    monkeypatch.setattr(Replay, "_process", interrupted)
    command = [str(tiny_bag), "--model", "demo", "--record", str(record), "--out", str(tmp_path / "results.json")]
    assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted: 2 sets are in {record}"
    assert len(list(read_box_record(record))) == 2 and not (tmp_path / "results.json").exists()


def test_a_bag_that_was_cut_off(tiny_bag, tmp_path, pipeline, caplog):
    """Sets as far as the bag goes, the same as of the whole bag."""
    (tmp_path / "cut").mkdir()
    (path,) = tiny_bag.glob("*.mcap")
    (tmp_path / "cut" / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    records = list(replay(tmp_path / "cut", pipeline).run())
    assert 3 < len(records) < 12
    assert differences(records, islice(replay(tiny_bag, pipeline).run(), len(records))) == []
    (warning,) = (r.getMessage() for r in caplog.records if "cut off" in r.getMessage())
    assert "messages, the last of" in warning


def annotated_record(tiny_bag) -> list[SetRecord]:
    """The visible annotations as if a detector had found them: boxes in the base frame, ids from the instances."""
    visible = {}
    for _, stamp_ns, message in read_messages(tiny_bag, ["/nuscenes/sample"]):
        visible[stamp_ns] = [a["num_lidar_pts"] > 0 for a in json.loads(message.data)["annotations"]]
    ids: dict[str, int] = defaultdict(lambda: len(ids))
    truth, records = read_truth(tiny_bag), []
    for _, _, message in read_messages(tiny_bag, ["/nuscenes/annotations"]):
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        T_base_from_map = truth.buffer.lookup("base_link", "map", stamp_ns).matrix
        rows = [d for d, seen in zip(message.detections, visible[stamp_ns], strict=True) if seen]
        boxes = np.zeros((len(rows), 10))
        for box, d in zip(boxes, rows, strict=True):
            c, q, s = d.bbox.center.position, d.bbox.center.orientation, d.bbox.size
            box[:7] = c.x, c.y, c.z, s.x, s.y, s.z, 2 * np.arctan2(q.z, q.w)
        labels = np.array([CLASS_NAMES.index(d.results[0].hypothesis.class_id) for d in rows])
        boxes = transform_boxes(boxes, T_base_from_map)
        numbers = np.array([ids[d.id] for d in rows])
        found = (boxes, np.ones(len(rows)), labels)
        records.append(SetRecord(stamp_ns, "base_link", Detections(*found), Tracks(*found, ids=numbers)))
    return records


def test_submissions_lie_on_the_annotations(tiny_dataset, tiny_bag):
    """Boxes that a perfect detector would publish end where the dataset has them, metre by metre."""
    writer, missing = submissions(annotated_record(tiny_bag), read_truth(tiny_bag))
    assert missing == 0
    stored = defaultdict(list)
    for a in json.loads((tiny_dataset / "v1.0-mini" / "sample_annotation.json").read_text()):
        stored[a["sample_token"]].append([*a["translation"], *a["size"]])
    for token, boxes in writer.detection.items():
        assert len(boxes) > 5
        for box in boxes:
            distance = np.abs(np.array(stored[token]) - [*box["translation"], *box["size"]]).max(axis=1)
            assert distance.min() < 1e-6


@pytest.mark.parametrize(
    ("older_ns", "lacks", "counts"),
    [(10_000_000, "cam_back_left", True), (10_000_000, None, False), (70_000_000, "cam_back_left", False)],
)
def test_a_set_without_its_newest_image_is_still_that_of_its_sample(tiny_bag, older_ns, lacks, counts):
    """It has the stamp of the newest image that came. A complete set of another moment is none of a sample."""
    records = annotated_record(tiny_bag)
    stamp_ns = records[1].stamp_ns - older_ns
    status = SetStatus(stamp_ns, {"cam_front": 0}, {lacks: Missing("absent")} if lacks else {})
    records[1] = replace(records[1], stamp_ns=stamp_ns, status=status)
    writer, missing = submissions(records, read_truth(tiny_bag))
    assert missing == (not counts)
    assert [len(boxes) > 5 for boxes in writer.detection.values()] == [True, counts, True]


def test_a_replay_scores_what_a_run_over_the_data_set_scores(tiny_bag, pipeline):
    """The same frames at 10 Hz: boxes and velocities go through messages in base_link, and come out alike."""
    truth, records = read_truth(tiny_bag), list(replay(tiny_bag, pipeline).run())
    published, _ = submissions(records, truth)
    direct, state = ResultsWriter(), None
    for frame in BagFrames(tiny_bag).frames({record.stamp_ns for record in records}):
        step = pipeline.step(frame, state)
        state = step.state
        if frame.stamp_ns in truth.samples:
            token = truth.samples[frame.stamp_ns]["token"]
            direct.add(token, step.detections, step.tracks, frame.T_global_from_model)
    assert direct.detection.keys() == published.detection.keys() and len(direct.detection) == 3
    for token, expected in direct.detection.items():
        for one, other in zip(published.detection[token], expected, strict=True):
            assert all(one[name] == other[name] for name in ("detection_name", "detection_score"))
            np.testing.assert_allclose(one["translation"], other["translation"], atol=1e-4)
            np.testing.assert_allclose(one["velocity"], other["velocity"], atol=1e-3, rtol=2e-3)


def test_the_official_score_of_a_perfect_detector(tiny_dataset, tiny_bag, tmp_path):
    """From the bag's annotations through record and submission to the devkit: everything is found, nothing is lost."""
    paths = [tmp_path / name for name in ("results.json", "tracking.json")]
    write_results(annotated_record(tiny_bag), tiny_bag, *paths)
    command = ["--dataroot", tiny_dataset, "--results", paths[0], "--tracking", paths[1], "--out", tmp_path]
    evaluate([str(word) for word in command])
    scores = json.loads((tmp_path / "metrics.json").read_text())
    errors, tracking = scores["detection"]["errors"], scores["tracking"]
    found = {name: ap for name, ap in scores["detection"]["class_ap"].items() if ap > 0}
    assert len(found) >= 3 and min(found.values()) > 0.999  # classes that are not in the scene score zero
    assert tracking["amotp"] < 1e-3 and tracking["ids"] == 0
    assert errors["mATE"] <= 1 - len(found) / len(CLASS_NAMES) + 1e-6  # absent classes count as one
    assert set(json.loads(paths[0].read_text())["results"]) == set(json.loads(paths[1].read_text())["results"])


def test_a_set_without_boxes_gives_no_ids_to_those_of_v1_and_v2(tiny_dataset, tiny_bag, tmp_path):
    """It comes out of its messages with ids, none of them missing."""
    none = np.empty(0, np.int64)
    nothing = Tracks(np.empty((0, 10)), np.empty(0), none, ids=none)
    records = [replace(record, tracks=nothing) for record in annotated_record(tiny_bag)]
    records[0] = replace(records[0], detections=Detections(nothing.boxes, nothing.scores, none, ids=none))
    with pytest.raises(BoxRecordError, match="detections without ids"):
        write_results(records, tiny_bag, None, tmp_path / "tracking.json")
    assert "tracking" not in score(records, read_truth(tiny_bag), load_rig(), tiny_dataset, tmp_path / "scores")
    assert not list(tmp_path.rglob("tracking.json"))


@pytest.fixture
def bag_posed_late(tiny_bag, tmp_path):
    """Its transforms begin after the first sample."""
    samples = [log_ns for _, log_ns, _ in read_messages(tiny_bag, ["/nuscenes/sample"])]
    with create_bag(tmp_path / "late") as bag:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic != "/tf" or log_ns > samples[0]:
                bag.write(topic, log_ns, message)
    return tmp_path / "late"


def test_a_sample_without_a_pose_counts_as_empty(tiny_bag, bag_posed_late, tmp_path, capsys, caplog):
    """In a replay, which has no boxes of it either, and in the record of a node that knew its pose."""
    out, record = tmp_path / "results.json", tmp_path / "record.jsonl"
    assert main([str(bag_posed_late), "--model", "demo", "--out", str(out)]) == 0
    assert "2 of 3 samples have results" in capsys.readouterr().out
    with BoxRecordWriter(record) as file:
        for one in annotated_record(tiny_bag):
            file.write(one)
    assert submit([str(record), "--bag", str(bag_posed_late), "--out", str(out)]) == 0
    assert "2 of 3 samples have results" in capsys.readouterr().out and "counts as empty: transform" in caplog.text
    assert [len(boxes) > 5 for boxes in json.loads(out.read_text())["results"].values()] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "no/such.pt"], "no/such.pt"),
        (["--device", "cuda:99"], "device: cuda:99 cannot be used: "),
        (["--rig", "no/rig.yaml"], "cannot read no/rig.yaml"),
        (["--params-file", "no/params.yaml"], "No such file"),
        (["--sets", "no/sets"], "No such file"),
    ],
)
def test_bad_arguments(tiny_bag, capsys, arguments, message):
    assert main([str(tiny_bag), "--model", "demo", "--record", os.devnull, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_bag_without_the_rig(tiny_bag, tmp_path, capsys):
    with create_bag(tmp_path / "front") as bag:
        for topic, log_ns, message in read_messages(tiny_bag, ["/cam_front/camera_info", "/tf"]):
            bag.write(topic, log_ns, message)
    assert main([str(tmp_path / "front"), "--model", "demo", "--record", str(tmp_path / "r")]) == 2
    assert "lacks /cam_front/image_rect/compressed" in capsys.readouterr().err


def test_parameter_file(tiny_bag, tmp_path, capsys):
    path = tmp_path / "parameters.yaml"
    path.write_text("/**:\n  ros__parameters:\n    model: demo\n    speed: 3\n")
    assert main([str(tiny_bag), "--params-file", str(path), "--record", str(tmp_path / "r")]) == 2
    assert "unknown speed" in capsys.readouterr().err
    path.write_text("/**:\n\tros__parameters: {}\n")
    assert main([str(tiny_bag), "--params-file", str(path), "--record", str(tmp_path / "r")]) == 2
    assert f"error: params-file: {path} is not YAML: while scanning" in capsys.readouterr().err


@pytest.fixture
def start(ros_domain):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(ros_domain), "OMP_NUM_THREADS": "1"}

    def start(module: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", f"sparse4d_ros.{module}", *map(str, arguments)]
        return subprocess.Popen(command, env=environment)

    return start


def stop(*processes: subprocess.Popen) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.mark.ros
@pytest.mark.slow
def test_node_and_replay_agree_to_the_last_digit(start, ros_domain, tiny_bag, tmp_path):
    """Node, recorder and player as processes of their own; the replay repeats the sets that the node processed."""
    online, offline = tmp_path / "online.jsonl", tmp_path / "offline.jsonl"
    with variables({"ROS_DOMAIN_ID": str(ros_domain)}), DiagnosticsListener() as listener:
        recorder = start("box_recorder", "--out", online)
        node = start("node", "--ros-args", "-p", "model:=demo", "-p", "autostart:=true", "-p", "first_id:=0")
        try:
            # The player waits for the node, but nobody for the recorder.
            assert listener.wait_until_recorded(PATIENCE)
            assert start("bag_player", tiny_bag, "--rate", "0.2", "--wait", 90).wait(PATIENCE) == 0
            listener.wait_until_idle(PATIENCE)
        finally:
            stop(node, recorder)
    published = list(read_box_record(online))
    processed = int(listener.last()["inference"]["sets_processed"])
    assert len(published) == processed > 0  # a busy machine supersedes sets, and publishes what it has processed
    offline_run = start("replay", tiny_bag, "--model", "demo", "--record", offline, "--sets", online)
    assert offline_run.wait(240) == 0
    assert differences(published, read_box_record(offline)) == []
