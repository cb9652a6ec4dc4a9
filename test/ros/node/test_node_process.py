"""The node as its own process, over DDS: what a user sees of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from patience import PATIENCE
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rig_messages import (
    CAMERAS,
    camera_info,
    compressed,
    ego_pose,
    image_stamps,
    set_stamp,
    static_transforms,
    transform,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from sparse4d_core.types import CLASS_NAMES
from sparse4d_ros.messages.set_status import set_status_from_message
from sparse4d_ros.messages.stamps import ns_from_stamp, stamp_from_ns

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[3]
OUTPUTS = {
    "detections": Detection3DArray,
    "tracks": Detection3DArray,
    "track_states": PointCloud2,
    "markers": MarkerArray,
    "set_status": DiagnosticArray,
    "overlay/compressed": CompressedImage,
}


CONFIGURED = ("--params-file", "config/detector.yaml", "-p", "model:=demo", "-p", "image_reliability:=reliable",
              "-p", "use_sim_time:=true")  # fmt: skip
NODE = ("-m", "sparse4d_ros.node")
# The node is interrupted while rclpy's native code fills in a CameraInfo: Python would raise in the setter.
INTERRUPTED_NODE = (
    "-c",
    """
import signal, sys
from sensor_msgs.msg import CameraInfo
from sparse4d_ros.node import main

def interrupted(message, height, usual=CameraInfo.height):
    try:
        signal.raise_signal(signal.SIGINT)
        usual.fset(message, height)
    except KeyboardInterrupt:
        print("in the middle of a message", flush=True)
        raise

CameraInfo.height = CameraInfo.height.setter(interrupted)
sys.exit(main())
""",
)


class Process:
    """`python -m sparse4d_ros.node`, or another program that runs the node, with its log in a file."""

    def __init__(self, folder: Path, domain: int, *arguments: str, log: str = "node", program: tuple[str, ...] = NODE):
        self.log_file = folder / f"{log}.log"
        command = [sys.executable, *program, "--ros-args", *arguments]
        environment = os.environ | {"ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Peer:
    """A node beside it that publishes what the cameras would, and listens."""

    def __init__(self, domain: int):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self.node.create_publisher
        self.static, self.tf = create(TFMessage, "/tf_static", latched), create(TFMessage, "/tf", 100)
        self.images = {c: create(CompressedImage, f"/{c}/image_rect/compressed", 10) for c in CAMERAS}
        self.infos = {c: create(CameraInfo, f"/{c}/camera_info", 10) for c in CAMERAS}
        self.clock = create(Clock, "/clock", 1)
        self.static.publish(static_transforms())
        self.received: dict[str, list] = {name: [] for name in [*OUTPUTS, "diagnostics"]}
        for name, kind in OUTPUTS.items():
            self.node.create_subscription(kind, f"/sparse4d/{name}", self.received[name].append, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.received["diagnostics"].append, 10)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin_until(self, condition, seconds: float = PATIENCE) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self.executor.spin_once(timeout_sec=0.02)
        return True

    def call(self, kind, service: str, request=None, repeat: bool = True):
        """The answer. A client whose response topic the server has not found yet gets none: then it asks again."""
        client = self.node.create_client(kind, f"/sparse4d/{service}")
        assert self.spin_until(client.service_is_ready), f"no service {service}"
        for _ in range(8 if repeat else 1):
            future = client.call_async(request or kind.Request())
            if self.spin_until(future.done, seconds=5.0 if repeat else PATIENCE):
                break
        assert future.done(), f"service {service} did not answer"
        self.node.destroy_client(client)
        return future.result()

    def state(self) -> str:
        return self.call(GetState, "get_state").current_state.label

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "change_state", request, repeat=False).success

    def connected(self) -> bool:
        """Whether the node has found every publisher, and we the node's."""
        publishers = [self.tf, *self.images.values(), *self.infos.values()]
        topics = [f"/sparse4d/{name}" for name in OUTPUTS]
        return all(publisher.get_subscription_count() for publisher in publishers) and all(
            self.node.count_publishers(topic) for topic in topics
        )

    def publish_set(self, k: int) -> None:
        """Every message as its time comes, by /clock."""
        for camera, stamp in image_stamps(k).items():
            self.clock.publish(Clock(clock=stamp_from_ns(stamp)))
            self.tf.publish(ego_pose(stamp))
            self.infos[camera].publish(camera_info(camera, stamp))
            self.images[camera].publish(compressed(camera, stamp))

    def publish_now(self, offsets_ns: dict[str, int]) -> None:
        """A set of this moment; the clocks of some cameras are off by so much."""
        for camera in CAMERAS:
            stamp = time.time_ns()
            self.tf.publish(TFMessage(transforms=[transform("map", "base_link", stamp)]))
            self.infos[camera].publish(camera_info(camera, stamp))
            self.images[camera].publish(compressed(camera, stamp + offsets_ns.get(camera, 0)))

    def play_set(self, k: int) -> None:
        """Publishes a set and waits for what comes of it."""
        count = len(self.received["tracks"])
        self.publish_set(k)
        assert self.spin_until(lambda: len(self.received["tracks"]) > count), f"no tracks for set {k}"


@pytest.fixture
def peer(ros_domain):
    peer = Peer(ros_domain)
    yield peer
    peer.close()


@pytest.fixture
def start(tmp_path, ros_domain):
    started: list[Process] = []

    def start(*arguments: str, log: str = "node", program: tuple[str, ...] = NODE) -> Process:
        started.append(Process(tmp_path, ros_domain, *arguments, log=log, program=program))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def test_from_images_to_tracks(start, peer):
    """The command of the README, all outputs, services, live parameters, and a clean end."""
    node = start(*CONFIGURED)
    assert peer.spin_until(lambda: peer.state() == "active"), node.log
    assert peer.spin_until(peer.connected), node.log
    assert "weights: by name" in node.log
    assert "scene reset: clean" in node.log
    assert peer.spin_until(lambda: "camera cam_front: no images on /cam_front/image_rect/compressed" in node.log)
    for k in range(3):
        peer.play_set(k)
    assert peer.spin_until(lambda: all(len(peer.received[name]) >= 3 for name in OUTPUTS))
    for topic in ("tracks", "set_status"):
        assert [ns_from_stamp(m.header.stamp) for m in peer.received[topic]] == [set_stamp(k) for k in range(3)]
    seen = set_status_from_message(peer.received["set_status"][-1])
    assert seen.ages_ns == {camera: set_stamp(2) - stamp for camera, stamp in image_stamps(2).items()}
    assert not seen.missing
    check_detections(peer.received["detections"][-1])
    markers = peer.received["markers"][-1].markers
    assert markers[0].action == Marker.DELETEALL
    states = peer.received["track_states"][-1]
    assert states.width == len(peer.received["tracks"][-1].detections) and states.header.frame_id == "base_link"
    assert bytes(peer.received["overlay/compressed"][-1].data[:2]) == b"\xff\xd8"

    before = ids(peer.received["detections"])
    assert before, "or nothing can be forgotten"
    assert peer.call(Trigger, "reset").success
    peer.play_set(3)
    assert peer.spin_until(lambda: "memory cleared: asked for" in node.log), node.log
    assert peer.spin_until(lambda: len(peer.received["detections"]) >= 4)
    assert not before & ids(peer.received["detections"][3:])
    check_parameters(peer)
    check_diagnostics(peer)

    assert peer.change_state(Transition.TRANSITION_DEACTIVATE) and peer.state() == "inactive"
    assert "4 sets processed; sets dropped: none; images dropped before: none" in node.log
    assert peer.change_state(Transition.TRANSITION_CLEANUP) and peer.state() == "unconfigured"
    assert peer.change_state(Transition.TRANSITION_CONFIGURE) and peer.change_state(Transition.TRANSITION_ACTIVATE)
    check_interrupt(node, peer)


def check_interrupt(node: Process, peer: Peer) -> None:
    """Ctrl-C while images flow: the summary is the last word."""
    for k in range(4, 10):
        peer.publish_set(k)
        peer.executor.spin_once(timeout_sec=0)
    assert node.stop() == 0, node.log
    assert "sets processed; sets dropped" in node.log.splitlines()[-1]
    for word in ("Traceback", "internal_error", "Failed to publish", "context is invalid"):
        assert word not in node.log


def test_an_interrupt_waits_for_the_message_at_hand(start, peer):
    """rclpy's native code turns an exception out of a message's field into one of its own."""
    node = start(*CONFIGURED, program=INTERRUPTED_NODE)
    assert peer.spin_until(lambda: peer.state() == "active"), node.log
    assert peer.spin_until(lambda: peer.infos[CAMERAS[0]].get_subscription_count()), node.log
    peer.publish_set(0)
    assert node.process.wait(PATIENCE) == 0, node.log
    assert "in the middle of a message" not in node.log
    assert "sets processed" in node.log.splitlines()[-1]


def ids(messages: list[Detection3DArray]) -> set[str]:
    return {detection.id for message in messages for detection in message.detections if detection.id}


def check_detections(message: Detection3DArray) -> None:
    assert message.header.frame_id == "base_link" and message.detections
    for detection in message.detections:
        hypothesis, size = detection.results[0].hypothesis, detection.bbox.size
        assert hypothesis.class_id in CLASS_NAMES and 0 <= hypothesis.score <= 1
        assert min(size.x, size.y, size.z) > 0
    scores = [detection.results[0].hypothesis.score for detection in message.detections]
    assert scores == sorted(scores, reverse=True)


def check_parameters(peer: Peer) -> None:
    def change(name: str, value) -> tuple[bool, str]:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = peer.call(SetParameters, "set_parameters", request).results[0]
        return result.successful, result.reason

    assert change("score_threshold", 0.1) == (True, "")
    accepted, reason = change("score_threshold", 1.5)
    assert not accepted and "out of range" in reason
    accepted, reason = change("model", "v9")
    assert not accepted and "expected one of v1_r101_t1" in reason
    accepted, reason = change("sync_slop", 0.05)
    assert not accepted and "clean up the node first" in reason
    request = DescribeParameters.Request(names=["sync_slop", "missing_camera"])
    slop, missing = peer.call(DescribeParameters, "describe_parameters", request).descriptors
    assert slop.floating_point_range[0].to_value == 1.0 and "Seconds" in slop.description
    assert missing.additional_constraints == "one of skip, mask"


def check_diagnostics(peer: Peer) -> None:
    def latest() -> dict[str, dict[str, str]]:
        statuses = peer.received["diagnostics"][-1].status if peer.received["diagnostics"] else []
        return {status.name: {pair.key: pair.value for pair in status.values} for status in statuses}

    assert peer.spin_until(lambda: latest().get("sparse4d: inference", {}).get("sets_processed") == "4")
    inference, synchronization = latest()["sparse4d: inference"], latest()["sparse4d: synchronization"]
    assert inference["scene_reset"] == "clean" and inference["resets.asked for"] == "1"
    # By the clock of the messages: what they took on the wall is seconds of this machine, not 50 years.
    assert all(abs(float(inference[f"stamp_to_{end}_p99"])) < 60_000 for end in ("arrival", "publish"))
    now = ns_from_stamp(peer.received["diagnostics"][-1].header.stamp)
    assert set_stamp(0) <= now <= set_stamp(3)
    assert float(inference["memory_mib"]) > 50 and float(inference["sync_spread_p50"]) == 35.0
    for stage in ("decode_images", "transforms", "preprocess", "backbone", "decoder", "decode", "publish", "intake"):
        assert 0 <= float(inference[f"{stage}_p50"]) <= float(inference[f"{stage}_p99"])
    assert float(inference["arrival_to_publish_p99"]) > 0
    assert inference["subscribers.detections"] == inference["subscribers.markers"] == "1"
    assert synchronization["images_received"] == synchronization["images_in_sets"] == "24"
    assert "sparse4d: transforms" in latest()


def test_a_camera_with_a_wrong_clock_is_named_and_the_others_go_on(start, peer):
    """With both policies at once: log and diagnostics have the camera and how far its clock is off."""
    nodes = {}
    for policy in ("mask", "skip"):
        values = ("model:=demo", "autostart:=true", "image_reliability:=reliable", f"missing_camera:={policy}")
        words = [word for value in values for word in ("-p", value)]
        nodes[policy] = start("-r", f"__node:={policy}", *words, log=policy)
    tracks: dict[str, list] = {policy: [] for policy in nodes}
    for policy, heard in tracks.items():
        peer.node.create_subscription(Detection3DArray, f"/{policy}/tracks", heard.append, 10)
    statuses: list[DiagnosticArray] = []
    peer.node.create_subscription(DiagnosticArray, "/mask/set_status", statuses.append, 1)
    publishers = [peer.tf, *peer.images.values(), *peer.infos.values()]
    found = peer.spin_until(lambda: all(p.get_subscription_count() == 2 for p in publishers))
    assert found, nodes["mask"].log + nodes["skip"].log

    def publish_until(condition, **offsets_ns: int) -> bool:
        end = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < end:
            peer.publish_now(offsets_ns)
            peer.spin_until(condition, seconds=0.2)
        return condition()

    def status(policy: str) -> dict[str, str]:
        """Of the bad camera, in the node's newest diagnostics."""
        statuses = (s for message in reversed(peer.received["diagnostics"]) for s in message.status)
        found = next((s for s in statuses if s.name == f"{policy}: camera cam_back"), None)
        return {pair.key: pair.value for pair in found.values} if found else {}

    def is_quarantined(policy: str) -> bool:
        return status(policy).get("quarantined", "no") != "no"

    assert publish_until(lambda: all(tracks.values())), nodes["mask"].log + nodes["skip"].log
    hour = 3600 * 10**9
    for policy, node in nodes.items():
        assert publish_until(lambda n=node: "camera cam_back: quarantined, stamps 3" in n.log, cam_back=hour), node.log
        in_diagnostics = partial(is_quarantined, policy)
        assert publish_until(in_diagnostics, cam_back=hour), peer.received["diagnostics"][-1]
        assert float(status(policy)["clock_offset_ms"]) == pytest.approx(3_600_000, abs=10_000)
        assert " s ahead of the other cameras" in node.log
    tracks["mask"].clear()
    statuses.clear()

    def is_told() -> bool:
        """Of a set that was formed since: one from before lacks the camera for its stamps alone, "clock". On a machine
        that is busy enough another camera may be late, and as suspect, for a while."""
        missing = set_status_from_message(statuses[-1]).missing if statuses else {}
        return missing.keys() == {"cam_back"} and missing["cam_back"].reason == "quarantined"

    assert publish_until(lambda: len(tracks["mask"]) >= 2 and is_told(), cam_back=hour), "the others go on"
    seen = set_status_from_message(statuses[-1])
    assert seen.ages_ns.keys() == {*CAMERAS} - {"cam_back"}
    assert seen.missing["cam_back"].offset_ns == pytest.approx(hour, abs=10 * 10**9)
    tracks["skip"].clear()
    assert publish_until(lambda: "cam_back: its clock agrees again" in nodes["skip"].log and tracks["skip"])


def test_a_checkpoint_that_is_not_there_leaves_the_process_alive_and_unconfigured(start, peer):
    node = start("-p", "model:=demo", "-p", "autostart:=true", "-p", "checkpoint:=no_such_file.pt")
    assert peer.state() == "unconfigured"
    assert peer.spin_until(lambda: "configure failed: checkpoint: no file no_such_file.pt" in node.log), node.log
    assert not peer.change_state(Transition.TRANSITION_CONFIGURE)
    request = SetParameters.Request(parameters=[Parameter("checkpoint", value="").to_parameter_msg()])
    assert peer.call(SetParameters, "set_parameters", request).results[0].successful
    assert peer.change_state(Transition.TRANSITION_CONFIGURE) and peer.state() == "inactive"
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("sync_slop:=7.0", "out of range"),
        ("missing_camera:=guess", "missing_camera: expected one of skip, mask, got 'guess'"),
    ],
)
def test_a_bad_start_up_parameter_ends_the_process_with_the_reason(start, override, reason):
    node = start("-p", override)
    assert node.process.wait(PATIENCE) == 2
    assert reason in node.log and "Traceback" not in node.log
