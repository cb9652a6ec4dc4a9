"""A bag over DDS: everything arrives, unchanged, in order, not before its time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict

import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosgraph_msgs.msg import Clock

from sparse4d_core.interrupts import StopRequest
from sparse4d_ros.bag_player import BagPlayer, PlayOptions, Schedule, message_class, parse_arguments
from sparse4d_ros.bags.bag_io import create_bag, open_bag, read_messages, typestore
from sparse4d_ros.messages.stamps import ns_from_stamp


class Listener:
    """Subscribes to topics and keeps the raw bytes that arrive."""

    def __init__(self, topics: dict[str, str], domain: int):
        self.received = defaultdict(list)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("listener", context=self.context)
        for topic, kind in topics.items():
            self._subscribe(topic, kind)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def _subscribe(self, topic: str, kind: str) -> None:
        latched = topic == "/tf_static"
        quality = QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        self.node.create_subscription(message_class(kind), topic, self.received[topic].append, quality, raw=True)

    def until(self, condition) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, {topic: len(messages) for topic, messages in self.received.items()}
            time.sleep(0.01)

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(5)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def player(ros_domain):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(ros_domain)}

    def player(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "sparse4d_ros.bag_player", *map(str, arguments)]
        pipe = subprocess.PIPE
        # A shell starts background jobs with SIGINT ignored; here it is Ctrl-C in a terminal.
        return subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=_heed_interrupts
        )

    return player


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def play(player):
    def play(*arguments: object) -> subprocess.CompletedProcess:
        process = player(*arguments)
        out, errors = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    return play


@pytest.mark.ros
def test_everything_arrives_as_stored(play, ros_domain, tiny_bag, tmp_path):
    """The bytes of every message, in order, none before its time; /clock runs along to the end."""
    stored = defaultdict(list)
    with open_bag(tiny_bag) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        for connection, log_ns, data in reader.messages():
            stored[connection.topic].append((log_ns, bytes(data)))
    last = max(log_ns for rows in stored.values() for log_ns, _ in rows)
    listener = Listener(kinds | {"/clock": "rosgraph_msgs/msg/Clock"}, ros_domain)
    try:
        result = play(tiny_bag, "--clock", "--log", tmp_path / "log.jsonl")
        assert result.returncode == 0, result.stderr
        listener.until(lambda: all(len(listener.received[topic]) == len(rows) for topic, rows in stored.items()))
        listener.until(lambda: clock_ns(listener.received["/clock"][-1]) == last)
    finally:
        listener.close()
    for topic, messages in stored.items():
        # The middleware pads to a multiple of four bytes.
        arrived = [data[: len(sent)] for data, (_, sent) in zip(listener.received[topic], messages, strict=True)]
        assert arrived == [data for _, data in messages], topic
    times = [clock_ns(data) for data in listener.received["/clock"]]
    assert times == sorted(times) and len(times) > 1
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(log) == sum(map(len, stored.values())) and log == sorted(log, key=lambda row: row["wall_ns"])
    late_ns = float(re.search(r"at most ([\d.]+) ms behind", result.stdout)[1]) * 1e6 + 1e6  # the first one, too
    ahead_ns = [(row["stamp_ns"] - log[0]["stamp_ns"]) - (row["wall_ns"] - log[0]["wall_ns"]) for row in log]
    assert max(ahead_ns) <= late_ns


def clock_ns(data: bytes) -> int:
    return ns_from_stamp(deserialize_message(data, Clock).clock)


@pytest.mark.ros
def test_the_clock_of_a_bag_is_the_only_one(play, ros_domain, tiny_bag, tmp_path):
    """A recorded /clock, here an hour behind, is played as it is; --clock adds none of the player's own."""
    types, sent = typestore().types, []
    with create_bag(tmp_path / "bag") as writer:
        for topic, log_ns, message in read_messages(tiny_bag, ["/cam_front/camera_info"]):
            writer.write(topic, log_ns, message)
            sent.append(log_ns - 3600 * 10**9)
            stamp = types["builtin_interfaces/msg/Time"](*divmod(sent[-1], 10**9))
            writer.write("/clock", log_ns, types["rosgraph_msgs/msg/Clock"](stamp))
    listener = Listener(
        {"/cam_front/camera_info": "sensor_msgs/msg/CameraInfo", "/clock": "rosgraph_msgs/msg/Clock"}, ros_domain
    )
    try:
        result = play(tmp_path / "bag", "--clock")
        listener.until(lambda: clock_ns(listener.received["/clock"][-1]) == sent[-1])
    finally:
        listener.close()
    assert result.returncode == 0 and "the bag has /clock itself" in result.stderr
    assert [clock_ns(data) for data in listener.received["/clock"]] == sent


def bag_of_a_silent_topic(out, topic: str) -> None:
    """Recorded, but nothing came."""
    with Writer(out, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection(topic, "std_msgs/msg/String", typestore=typestore())


@pytest.mark.ros
def test_topics_without_a_message_are_named(play, tmp_path):
    bag_of_a_silent_topic(tmp_path / "bag", "/bumper")
    result = play(tmp_path / "bag", "--loops", "0", "--topics", "/bumper")
    assert result.returncode == 2 and "the bag has no message on /bumper" in result.stderr


@pytest.mark.ros
def test_a_request_to_end_is_heard_without_a_message(ros_domain, tmp_path):
    bag_of_a_silent_topic(tmp_path / "bag", "/bumper")
    stop, context = StopRequest(), rclpy.Context()
    stop.requested = True
    rclpy.init(context=context, domain_id=ros_domain)
    node = rclpy.create_node("player", context=context)
    try:
        with open_bag(tmp_path / "bag") as reader, pytest.raises(KeyboardInterrupt):
            BagPlayer(node, reader.connections, PlayOptions(), stop).play(lambda: iter([]), None)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.ros
def test_nobody_listens(play, tiny_bag):
    result = play(tiny_bag, "--wait", "0.3", "--topics", "/tf", "/cam_front/camera_info")
    assert result.returncode == 1
    assert "no subscriber within 0.3 s on /cam_front/camera_info, /tf; is the detector active" in result.stderr


@pytest.mark.ros
def test_a_camera_that_the_rig_leaves_out_is_played_to_nobody(play, ros_domain, tiny_bag, tmp_path):
    """Of a bag whose recorder died, too, before it wrote the metadata."""
    (path,) = tiny_bag.glob("*.mcap")
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-100])
    listener = Listener({"/cam_front/camera_info": "sensor_msgs/msg/CameraInfo"}, ros_domain)
    try:
        result = play(tmp_path, "--wait", "5", "--rate", "20", "--topics", "/cam_front/camera_info", "/tf")
    finally:
        listener.close()
    assert f"metadata.yaml is missing, {path.name} was cut off; " in result.stderr
    assert result.returncode == 0 and "no subscriber within 5 s on /tf; playing on" in result.stderr
    assert len(listener.received["/cam_front/camera_info"]) == 15


@pytest.mark.ros
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_player_ends_quietly(player, tiny_bag, tmp_path, how):
    """In the middle of the bag, as a launch system stops it."""
    log = tmp_path / "log.jsonl"
    process = player(tiny_bag, "--wait", "0", "--loops", "0", "--log", log)
    end = time.monotonic() + PATIENCE
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(how)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and errors.strip() == f"{tiny_bag}: interrupted"


# Interrupted while rclpy turns a message into bytes: what a handler raises there arrives as an error of rclpy's.
INTERRUPTED = """
import signal, sys
from rosgraph_msgs.msg import Clock
from sparse4d_ros.bag_player import main

def interrupted(message, usual=Clock.clock):
    try:
        signal.raise_signal(signal.SIGINT)
        return usual.fget(message)
    except KeyboardInterrupt:
        print("in the middle of a message", flush=True)
        raise

Clock.clock = Clock.clock.getter(interrupted)
sys.exit(main())
"""


@pytest.mark.ros
def test_an_interrupt_waits_for_the_message_at_hand(tiny_bag, ros_domain):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tiny_bag, "--wait", "0", "--loops", "0", "--clock"],
        env={**os.environ, "ROS_DOMAIN_ID": str(ros_domain)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=_heed_interrupts,
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "", f"{tiny_bag}: interrupted")


@pytest.mark.ros
def test_bad_bags_and_topics(play, tmp_path, tiny_bag):
    result = play(tmp_path / "nothing")
    assert result.returncode == 2 and "does not exist" in result.stderr
    result = play(tiny_bag, "--topics", "/camera")
    assert result.returncode == 2 and "none of /camera is in" in result.stderr and "/cam_back" in result.stderr


def test_schedule_shortens_silences():
    schedule = Schedule(rate=2.0, max_gap=1.0)
    start = schedule.due(100)
    assert schedule.due(100 + 500_000_000) - start == pytest.approx(0.25)
    hours = schedule.due(10**13)
    assert hours - start == pytest.approx(0.75)
    assert schedule.due(10**13 + 10**8) - hours == pytest.approx(0.05)


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--loops", "-1"], ["--max-gap", "0"]])
def test_bad_options(arguments):
    with pytest.raises(SystemExit):
        parse_arguments(["bag", *arguments])
    assert parse_arguments(["bag", "--clock"]) == ("bag", PlayOptions(clock_hz=100.0))
