"""Every preset by `model:=`, in the node and in the replay; the networks are smaller, their parts are the preset's."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from node_driver import Driver
from rclpy.lifecycle import TransitionCallbackReturn
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from sparse4d_core.config import PRESETS, Sparse4DConfig
from sparse4d_ros.bags.box_record import read_box_record
from sparse4d_ros.bags.message_records import RECORDED
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.demo.__main__ import main as demo
from sparse4d_ros.demo.listener import DiagnosticsListener, unfinished_sets
from sparse4d_ros.replay import main as replay
from sparse4d_ros.write_submission import main as write_submission

SETS = 3  # of the bag: v1 then has a history, v2 and v3 have instances
SIZE = (176, 99)  # pixels
WIDE = [pytest.param(name, marks=[pytest.mark.slow] if "vov99" in name else []) for name in PRESETS]


def small(config: Sparse4DConfig) -> Sparse4DConfig:
    """The preset's parts with fewer, narrower layers and small images; a VoVNet has one size only."""
    backbone = config.backbone
    if backbone.kind == "resnet":
        backbone = replace(backbone, depth=min(backbone.depth, 50), base_width=8)
    crop_top = None if config.image.crop_top is None else SIZE[1] - 64
    return replace(
        config,
        image=replace(config.image, input_wh=(176, 64), original_wh=SIZE, crop_top=crop_top),
        backbone=backbone,
        num_anchors=32,
        num_decoder_layers=2,
        temporal=config.temporal and replace(config.temporal, num_instances=16),
        num_output=16,
    )


@pytest.fixture(autouse=True)
def small_presets(monkeypatch, tmp_path):
    for name, config in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, small(config))
    # The shipped ones fit the full-size model alone.
    monkeypatch.setattr("sparse4d_core.checkpoint.published.SHIPPED", tmp_path)


@pytest.fixture(scope="module")
def stamps(tiny_bag, tmp_path_factory) -> str:
    """File with the stamps of the bag's first sets."""
    path = tmp_path_factory.mktemp("sets") / "stamps"
    synced = [s.stamp_ns for s, _ in zip(BagFrames(tiny_bag).sets(), range(SETS), strict=False)]
    path.write_text("\n".join(map(str, synced)))
    return str(path)


@pytest.mark.parametrize("name", WIDE)
def test_replay(tiny_bag, stamps, tmp_path, capsys, name):
    record = tmp_path / "record.jsonl"
    arguments = [str(tiny_bag), "--model", name, "--sets", stamps, "--record", str(record), "--allow-untrained"]
    assert replay([*arguments, "--out", str(tmp_path / "results.json")]) == 0
    assert f"{SETS} sets" in capsys.readouterr().out
    records = list(read_box_record(record))
    assert all(len(r.detections.scores) == 16 and np.isfinite(r.detections.boxes).all() for r in records)
    assert all((r.detections.ids is not None) == PRESETS[name].tracking for r in records)


def test_tracks_of_a_model_without_ids_are_refused(tiny_bag, stamps, tmp_path, capsys):
    record, tracking = tmp_path / "record.jsonl", tmp_path / "tracking.json"
    arguments = [str(tiny_bag), "--model", "v2_r50", "--sets", stamps, "--record", str(record), "--allow-untrained"]
    assert replay([*arguments, "--tracking-out", str(tracking)]) == 2
    assert "model v2_r50 gives no track ids" in capsys.readouterr().err
    assert not record.exists(), "said before the bag is read, not after"
    assert replay(arguments) == 0
    arguments = [str(record), "--bag", str(tiny_bag), "--out", str(tmp_path / "results.json")]
    assert write_submission([*arguments, "--tracking-out", str(tracking)]) == 2
    assert "detections without ids" in capsys.readouterr().err
    assert write_submission(arguments) == 0 and not tracking.exists()


def test_models_for_six_cameras_refuse_another_rig_at_once(tiny_bag, tmp_path, capsys):
    rig = tmp_path / "rig.yaml"
    rig.write_text("global_frame: map\ncameras:\n- {name: cam_front}\n- {name: cam_back}\n")
    arguments = [str(tiny_bag), "--rig", str(rig), "--record", str(tmp_path / "record.jsonl")]
    arguments += ["--allow-untrained", "--model"]
    assert replay([*arguments, "v1_r101_t4"]) == 2
    assert "2 cameras, but the weights of v1_r101_t4 are made for 6; take a v2 or v3 preset" in capsys.readouterr().err
    assert replay([*arguments, "v2_r50"]) == 0


def test_without_trained_weights_replay_and_demo_refuse_with_the_command_that_gets_them(tiny_bag, tmp_path, capsys):
    assert replay([str(tiny_bag), "--model", "v3_r50", "--record", str(tmp_path / "record.jsonl")]) == 2
    assert "python -m sparse4d_core.checkpoint fetch v3_r50" in capsys.readouterr().err
    assert demo(["--model", "v3_r50", "--out", str(tmp_path / "demo")]) == 2
    assert "python -m sparse4d_core.checkpoint fetch v3_r50" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists(), "before anything is rendered"


# ------------------------------------------------------------------------------------------------------------ the node

TOPICS = {"detections": Detection3DArray, "tracks": Detection3DArray, "markers": MarkerArray}


@pytest.fixture
def context(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    yield context
    rclpy.shutdown(context=context)


class Listener:
    """Hears what the node publishes."""

    def __init__(self, context):
        self.node = rclpy.create_node("listener", context=context)
        self.heard: dict[str, list] = {topic: [] for topic in TOPICS}
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        for topic, kind in TOPICS.items():
            self.node.create_subscription(kind, f"/sparse4d/{topic}", self.heard[topic].append, 10)

    def until(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"still waiting; heard { ({t: len(m) for t, m in self.heard.items()}) }"
            self.executor.spin_once(timeout_sec=0.05)


@pytest.mark.ros
def test_without_trained_weights_the_node_stays_unconfigured(context, capfd):
    driver = Driver(context=context, model="v3_r50", allow_untrained=False)
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "python -m sparse4d_core.checkpoint fetch v3_r50" in capfd.readouterr().err
    driver.node.close()


@pytest.mark.ros
@pytest.mark.parametrize("name", WIDE)
def test_node(context, name):
    """Every generation gives boxes; markers show tracks, or the detections of a model that has no ids."""
    listener, driver = Listener(context), Driver(context=context, model=name, decode_threads=1)
    driver.start()
    for layer in driver.node.processor.pipeline.model.decoder.layers:
        layer.refine.cls_layers[-1].bias.data.fill_(5.0)  # all boxes are confident
    try:
        listener.until(lambda: all(driver.node.count_subscribers(f"/sparse4d/{topic}") for topic in TOPICS))
        driver.feed(0)
        listener.until(lambda: all(listener.heard.values()))
        driver.wait(1)  # counted once it is published
        assert driver.statistics.processed == 1 and not driver.drops
    finally:
        driver.node.close()
        listener.node.destroy_node()
    (detections,), (tracks,), (markers,) = listener.heard.values()
    boxes = [marker for marker in markers.markers if marker.type == Marker.CUBE]
    assert len(detections.detections) == len(boxes) == 16
    ids = {detection.id for detection in tracks.detections}
    assert len(ids) == len(tracks.detections) == (16 if PRESETS[name].tracking else 0)


def test_the_demo_waits_for_sets_in_work():
    """One set is in the model, one is next; three were replaced while the model was busy, one was dropped."""
    statuses = {
        "synchronization": {"sets.complete": "9", "sets.masked": "1", "sets.superseded": "3", "sets.incomplete": "5"},
        "inference": {"sets_processed": "4", "sets_dropped.tf_lookup": "1"},
    }
    assert unfinished_sets(statuses) == 2
    assert unfinished_sets({}) == 0


@pytest.mark.ros
def test_the_demo_waits_until_the_node_is_ready_and_knows_the_recorder():
    """What it publishes while it builds the operator is no sign of that, and a set for nobody is in no record."""
    listener = DiagnosticsListener()
    nobody = dict.fromkeys(RECORDED, 0)
    for component, subscribers, ready in (
        ("operator", {}, False),
        ("inference", nobody, False),
        ("inference", dict.fromkeys(RECORDED, 1) | {"tracks": 0}, False),
        ("inference", dict.fromkeys(RECORDED, 1), True),
    ):
        values = [KeyValue(key=f"subscribers.{name}", value=str(count)) for name, count in subscribers.items()]
        listener._store(DiagnosticArray(status=[DiagnosticStatus(name=f"sparse4d: {component}", values=values)]))
        assert listener.wait_until_recorded(0.0) is ready
