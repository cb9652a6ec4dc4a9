"""Bags as tasks: measured, scored where there is truth, judged by criteria; done once, whatever the processes."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
from small_jobs import dying

from sparse4d_core.evaluation.criteria import Criterion, flat, judge
from sparse4d_core.types import CLASS_NAMES, Detections, Tracks
from sparse4d_ros import evaluate_bags as command
from sparse4d_ros.bags import bag_score
from sparse4d_ros.bags.bag_io import create_bag, read_messages
from sparse4d_ros.bags.bag_task import BagTask
from sparse4d_ros.bags.box_record import SetRecord, differences, read_box_record
from sparse4d_ros.bags.record_statistics import statistics
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.nuscenes_to_rosbag import main as to_bag
from sparse4d_ros.perception.rig import default_rig
from sparse4d_ros.replay import Replay
from sparse4d_ros.share import config_file

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLE = str(config_file("criteria_example.yaml"))


@pytest.fixture(scope="module")
def bags(tiny_bag, tiny_dataset, tmp_path_factory) -> tuple[Path, Path]:
    """One with annotations, key frames alone, and the same without."""
    folder = tmp_path_factory.mktemp("fleet")
    words = ["--dataroot", str(tiny_dataset), "--keyframes-only", "--out"]
    assert to_bag([*words, str(folder / "with")]) == 0
    assert to_bag([*words, str(folder / "without"), "--no-annotations"]) == 0
    return folder / "with", folder / "without"


def words(bags, out, *more):
    return [*map(str, bags), "--model", "demo", "--torch-threads", "1", "--out", str(out), *map(str, more)]


@pytest.fixture(scope="module")
def fleet(bags, tmp_path_factory):
    """Results of both bags in this process, judged by the example."""
    out = tmp_path_factory.mktemp("results") / "fleet"
    assert command.main(words(bags, out, "--criteria", EXAMPLE, "--junit", out / "junit.xml")) == 0
    return out


def measured(folder):
    return json.loads((folder / "measured.json").read_text())


def test_measured_with_and_without_annotations(fleet):
    scored, unscored = measured(fleet / "with"), measured(fleet / "without")
    assert scored["sets"] == unscored["sets"] == 3 and scored["dropped"]["total"] == 0
    assert scored["detection"]["nds"] > 0.05 and set(scored["detection"]["class_ap"]) >= {"car", "pedestrian"}
    assert "ids" in scored["tracking"] and "detection" not in unscored
    assert unscored["boxes_per_set"] == scored["boxes_per_set"] and unscored["step_ms"]["median"] > 0
    assert json.loads((fleet / "fleet.json").read_text()).keys() == {str(p) for p in (fleet_bags(fleet))}


def altered(bag, out, change):
    """The bag with every message as `change(topic, log_ns, message)` leaves it; None leaves it out."""
    with create_bag(out) as writer:
        for topic, log_ns, message in read_messages(bag):
            if (changed := change(topic, log_ns, message)) is not None:
                writer.write(topic, log_ns, changed)
    return out


def last_camera(bag):
    """Topics of the camera whose images are the newest of their sets begin so."""
    samples = {log_ns for _, log_ns, _ in read_messages(bag, ["/nuscenes/sample"])}
    found = {t for t, log_ns, _ in read_messages(bag) if log_ns in samples and t.endswith("/compressed")}
    (topic,) = found
    return f"/{topic.split('/')[1]}/"


@pytest.mark.parametrize("gone", ["cam_front", "the last", "one image", "one image of the last"])
def test_a_bag_that_lacks_a_camera_is_scored_with_masks(bags, tmp_path, gone):
    """In all its sets, also where TF lacks it, or where their newest images are gone; or in one set, which counts like
    the others.

    That set may be ready at the same moment as the one behind it: where the camera that fires last is waited for
    until its next image.
    """
    prefix = last_camera(bags[0]) if gone.endswith("the last") else "/cam_front/"
    cut = []

    def change(topic, log_ns, message):
        if topic == "/tf_static" and gone == "cam_front":
            message.transforms = [one for one in message.transforms if one.child_frame_id != "cam_front"]
        if not topic.startswith(prefix):
            return message
        if gone.startswith("one image") and (topic.endswith("camera_info") or len(cut) != 1):
            cut.append(topic) if topic.endswith("compressed") else None
            return message
        cut.append(topic)
        return None

    bag = altered(bags[0], tmp_path / "bag", change)
    (tmp_path / "patient.yaml").write_text("/**: {ros__parameters: {sync_timeout: 0.6}}\n")
    patience = ["--params-file", tmp_path / "patient.yaml"] if gone == "one image of the last" else []
    assert command.main(words([bag], tmp_path / "out", "--missing-camera", "mask", *patience)) == 0
    found = measured(tmp_path / "out" / "bag")
    assert found["sets"] == 3 and found["detection"]["nds"] > 0.05 and "ids" in found["tracking"]
    results = json.loads((tmp_path / "out" / "bag" / "scores" / "results.json").read_text())["results"]
    assert len(results) == 3 and all(results.values())


def test_a_bag_is_scored_by_the_slop_of_its_run(bags, tmp_path):
    """A camera that is 80 ms ahead of the last one of its set. The bag has no pose for its first image."""

    def change(topic, log_ns, message):
        if topic.startswith("/cam_front/"):
            stamp_ns = ns_from_stamp(message.header.stamp) - 40_000_000
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return message

    bag = altered(bags[0], tmp_path / "bag", change)
    assert command.main(words([bag], tmp_path / "out", "--sync-slop", "0.1")) == 0
    found = measured(tmp_path / "out" / "bag")
    assert found["sets"] == 2 and found["detection"]["nds"] > 0.05


def test_what_cannot_be_scored_is_measured_all_the_same(bags, fleet, tmp_path, capsys):
    """Annotations at stamps of no set: the statistics and boxes are kept, and the exit status is 1."""

    def change(topic, log_ns, message):
        if topic == "/nuscenes/annotations":
            message.header.stamp.nanosec -= 1
        return message

    bag = altered(bags[0], tmp_path / "bag", change)
    out, junit = tmp_path / "out", tmp_path / "junit.xml"
    assert command.main(words([bag], out, "--criteria", EXAMPLE, "--junit", junit)) == 1
    found = measured(out / "bag")
    assert "none of the 3 annotated stamps" in found["not_scored"] and "detection" not in found
    assert "not scored: bag: none of the 3 annotated stamps" in capsys.readouterr().out
    assert found["boxes_per_set"] == measured(fleet / "with")["boxes_per_set"]
    assert len(list(read_box_record(out / "bag" / "boxes.jsonl"))) == 3
    assert ElementTree.parse(junit).getroot().get("errors") == "1"


def test_annotations_of_another_type_cost_no_replay(bags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Replay, "run", lambda self: pytest.fail("replayed"))
    assert command.main(words(bags[:1], tmp_path / "out", "--annotations", "/cam_front/camera_info")) == 1
    assert "cannot be used: BagError: annotations: /cam_front/camera_info has sensor_msgs" in capsys.readouterr().out


def test_annotations_of_no_tracked_class_cost_the_tracking_scores_alone(bags, tmp_path):
    """And are no error where criteria bound them."""

    def change(topic, log_ns, message):
        if topic == "/nuscenes/annotations":
            for result in (result for detection in message.detections for result in detection.results):
                result.hypothesis.class_id = "movable_object.barrier"
        return message

    bag = altered(bags[0], tmp_path / "bag", change)
    assert command.main(words([bag], tmp_path / "out", "--criteria", EXAMPLE, "--junit", tmp_path / "junit.xml")) == 0
    found = measured(tmp_path / "out" / "bag")
    assert found["tracking"] is None and found["detection"]["class_ap"]["car"] == 0 and "not_scored" not in found
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("skipped") == "1"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("results: detection has classes that nuScenes does not score: forklift"), "forklift"),
        (ModuleNotFoundError("No module named 'motmetrics'", name="motmetrics"), "motmetrics is not installed"),
    ],
    ids=["classes", "extra"],
)
def test_what_the_devkit_does_not_score_costs_the_scores_alone(bags, tmp_path, monkeypatch, error, text):
    """Classes that are not its own, or that it is not installed."""

    def refuse(*_):
        raise error

    monkeypatch.setattr(bag_score, "score", refuse)
    assert command.main(words([bags[0]], tmp_path / "out")) == 1
    found = measured(tmp_path / "out" / bags[0].name)
    assert found["sets"] == 3 and text in found["not_scored"]


def test_a_bag_is_scored_by_the_clocks_of_its_run(tiny_bag, tmp_path):
    """A camera whose images take 105 ms longer than the others', as raw ones beside compressed ones do."""
    with create_bag(tmp_path / "bag") as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            writer.write(topic, log_ns + 105_000_000 * topic.startswith("/cam_front/"), message)
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("/**: {ros__parameters: {clock_offset: 0.3}}\n")
    assert command.main(words([tmp_path / "bag"], tmp_path / "out", "--params-file", parameters)) == 0
    folder = tmp_path / "out" / "bag"
    results = json.loads((folder / "scores" / "results.json").read_text())["results"]
    assert measured(folder)["dropped"]["total"] == 0 and len(results) == 3 and all(results.values())


def test_raw_images_are_scored_where_the_run_undistorts_them(bags, tmp_path):
    def change(topic, log_ns, message):
        if topic.endswith("/camera_info"):
            message.d = np.array([0.01, 0.0, 0.0, 0.0, 0.0])
        return message

    rig = yaml.safe_load(default_rig().read_text())
    for camera in rig["cameras"]:
        camera["rectified"] = False
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig))
    (tmp_path / "parameters.yaml").write_text("/**: {ros__parameters: {distortion: undistort}}\n")
    bag = altered(bags[0], tmp_path / "bag", change)
    options = "--rig", tmp_path / "rig.yaml", "--params-file", tmp_path / "parameters.yaml"
    assert command.main(words([bag], tmp_path / "out", *options)) == 0
    found = measured(tmp_path / "out" / "bag")
    assert found["sets"] == 3 and found["detection"]["nds"] > 0.05


def fleet_bags(fleet):
    return [measured(fleet / name)["asked"]["bag"] for name in ("with", "without")]


def test_the_example_file_in_junit(fleet):
    suite = ElementTree.parse(fleet / "junit.xml").getroot()
    by_bag = {name: [case for case in suite if case.get("classname") == name] for name in ("with", "without")}
    assert suite.get("name") == "criteria_example" and len(by_bag["with"]) == len(by_bag["without"]) >= 10
    assert not [case for case in by_bag["with"] if case.find("skipped") is not None]
    assert len([case for case in by_bag["without"] if case.find("skipped") is not None]) == 4


def test_a_criterion_that_does_not_hold(bags, fleet, tmp_path, capsys):
    """Judged from the results that are there: no bag runs again."""
    out = shutil.copytree(fleet, tmp_path / "fleet")
    (tmp_path / "strict.yaml").write_text("annotated:\n  detection.map: {min: 1.5}\n")
    boxes = (out / "with" / "boxes.jsonl").stat().st_mtime_ns
    assert command.main(words(bags, out, "--resume", "--criteria", tmp_path / "strict.yaml")) == 1
    assert "fail" in (text := capsys.readouterr().out) and "skip" in text
    assert (out / "with" / "boxes.jsonl").stat().st_mtime_ns == boxes


@pytest.mark.slow
def test_processes_give_the_same_and_bad_bags_stop_nobody(bags, fleet, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "metadata.yaml").write_text("nothing")
    (tmp_path / "bounds.yaml").write_text("always:\n  sets: {min: 1}\n")
    more = "--processes", 2, "--criteria", tmp_path / "bounds.yaml", "--junit", tmp_path / "junit.xml"
    assert command.main(words([bad, *bags], tmp_path / "out", *more)) == 1
    assert "bad: cannot be used: " in capsys.readouterr().out
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().get("errors") == "1"
    for name in ("with", "without"):
        records = [list(read_box_record(folder / name / "boxes.jsonl")) for folder in (fleet, tmp_path / "out")]
        assert differences(*records) == []
    assert measured(tmp_path / "out" / "with")["detection"] == measured(fleet / "with")["detection"]
    assert not (tmp_path / "out" / "bad").exists()


def test_results_do_not_mix(bags, fleet, tmp_path, capsys):
    out = shutil.copytree(fleet, tmp_path / "fleet")
    assert command.main(words(bags, out)) == 2
    assert "--resume" in capsys.readouterr().err
    assert command.main(words(bags, out, "--resume", "--scene-reset", "reference")) == 2
    assert "scene_reset was 'clean', is 'reference'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(words([bags[0], bags[0]], tmp_path / "new"))
    assert "two bags of one name" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(words(bags, tmp_path / "new", "--junit", tmp_path / "junit.xml"))


def test_an_unknown_name_in_criteria(bags, fleet, tmp_path, capsys):
    out = shutil.copytree(fleet, tmp_path / "fleet")
    (tmp_path / "typo.yaml").write_text("always:\n  set: {min: 1}\n")
    assert command.main(words(bags, out, "--resume", "--criteria", tmp_path / "typo.yaml")) == 2
    assert "set was not measured" in capsys.readouterr().err


def test_a_dead_process_is_named(bags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "BagTask", dying(BagTask))
    assert command.main(words(bags, tmp_path / "out", "--processes", "2")) == 1
    assert "go on with --resume" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["bag_score.score", "bag_task.write_bytes"], ids=["of a worker", "of the results"])
def test_a_full_disk_leaves_no_results(bags, fleet, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"sparse4d_ros.bags.{place}", full)
    assert command.main(words(bags[:1], tmp_path / "out")) == 1
    assert not (tmp_path / "out" / "with" / "measured.json").exists()


def test_a_bag_that_breaks_the_program_stops_nobody(bags, fleet, tmp_path, monkeypatch, capsys):
    def broken(bag, *rest):
        if bag.name == "with":
            raise RuntimeError("out of thin air")
        return Replay(bag, *rest)

    monkeypatch.setattr("sparse4d_ros.bags.bag_task.Replay", broken)
    assert command.main(words(bags, tmp_path / "out")) == 1
    assert "with: cannot be used: RuntimeError: out of thin air" in capsys.readouterr().out
    assert measured(tmp_path / "out" / "without")["boxes_per_set"] == measured(fleet / "without")["boxes_per_set"]


def test_an_interrupted_command_says_how_to_go_on(bags, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sparse4d_ros.bags.bag_task.Replay", interrupt)
    assert command.main(words(bags, tmp_path / "out")) == 130
    assert "interrupted: bags that are done are kept; go on with --resume" in capsys.readouterr().err


def test_threads_of_a_task_of_a_cluster():
    """As many in every process, whatever its host has: their number may change the last digit."""
    here, there, asked = (
        command._parameters(command.parse_arguments(["bag", "--out", "out", *more]))
        for more in ([], ["--ray", "auto"], ["--ray", "auto", "--torch-threads", "3"])
    )
    assert (here.torch_threads, there.torch_threads, asked.torch_threads) == (0, 1, 3)
    assert replace(there, torch_threads=0) == here


def test_a_cluster_that_is_not_there(bags, tmp_path, capsys):
    assert command.main(words(bags, tmp_path / "out", "--ray", "no address")) == 2
    assert "ray: expected auto, local or HOST:PORT, got 'no address'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def record(stamp, ids, scores):
    boxes = np.zeros((len(ids), 10))
    labels = np.zeros(len(ids), np.int64)
    columns = boxes, np.array(scores, float), labels
    return SetRecord(stamp, "base_link", Detections(*columns, ids=np.array(ids)), Tracks(*columns, ids=np.array(ids)))


def test_statistics_by_hand():
    records = [
        record(0, [1, 2], [0.9, 0.1]), record(10**8, [1], [0.9]), record(2 * 10**8, [3], [0.5]),
        record(6 * 10**8, [1, 3], [0.9, 0.8]),
    ]  # fmt: skip
    found = statistics(records, {"late": 2, "no pose": 1}, [5.0, 7.0, 6.0, 8.0])
    assert found["sets"] == 4 and found["seconds"] == 0.6 and found["largest_gap_s"] == pytest.approx(0.4)
    dropped = found["dropped"]
    assert {cause: n for cause, n in dropped.items() if n} == {"total": 3, "late": 2, "no pose": 1}
    assert dropped["timeout"] == dropped["tf_unknown_frame"] == 0
    assert found["boxes_per_set"]["mean"] == 1.25
    assert found["boxes_by_class"] == {name: 1.25 * (name == "car") for name in CLASS_NAMES}
    own = statistics(records, {}, [5.0], class_names=("car", "forklift"))
    assert own["boxes_by_class"] == {"car": 1.25, "forklift": 0}
    tracks = found["tracks"]
    assert tracks["count"] == 3 and tracks["of_one_set"] == 1
    assert tracks["interruptions"] == 1  # id 1 was away for one set, id 2 never came back
    assert tracks["seconds"]["max"] == 0.6 and tracks["sets"]["max"] == 3
    assert found["step_ms"]["median"] == 6.5
    empty = statistics([], {}, [])
    assert empty["sets"] == 0 and empty["boxes_per_set"]["median"] is None and empty["largest_gap_s"] is None
    assert empty["boxes_by_class"] == dict.fromkeys(CLASS_NAMES)


def test_bounds_on_what_did_not_occur():
    """No drop is 0 and passes, no object is 0 and fails."""
    values = flat(statistics([record(0, [1], [0.9])], {}, [5.0]))
    bounds = [Criterion("dropped.timeout", None, 0), Criterion("dropped.tf_loop", None, 0)]
    outcomes = judge([*bounds, Criterion("boxes_by_class.bus", 1, None)], values)
    assert [outcome.verdict for outcome in outcomes] == ["pass", "pass", "fail"]


def test_a_task_travels(bags, tmp_path):
    import pickle

    from sparse4d_ros.parameters import NodeParameters

    task = BagTask(NodeParameters(model="demo"), tmp_path, "/truth")
    assert pickle.loads(pickle.dumps(task)) == task and replace(task, annotations="/x") != task
