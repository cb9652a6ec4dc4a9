"""A bag over DDS: everything arrives, unchanged, in order, on time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict

import pytest

pytest.importorskip("rclpy")
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from sparse4d_ros.bag_player import PlayOptions, Schedule, message_class, parse_arguments
from sparse4d_ros.bags.bag_io import open_bag


class Listener:
    """Subscribes to topics and keeps the raw bytes that arrive, with the time of arrival."""

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
            reliability=ReliabilityPolicy.BEST_EFFORT if kind.endswith("Image") else ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        received = self.received[topic]
        self.node.create_subscription(
            message_class(kind), topic, lambda data: received.append((time.monotonic(), data)), quality, raw=True
        )

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join(5)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def play(ros_domain):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(ros_domain)}

    def play(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sparse4d_ros.bag_player", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return play


@pytest.mark.ros
def test_everything_arrives_as_stored(play, ros_domain, tiny_bag, tmp_path):
    """Real time, six cameras with best-effort subscribers: the bytes of every message, in order; /clock runs along."""
    stored = defaultdict(list)
    with open_bag(tiny_bag) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        for connection, log_ns, data in reader.messages():
            stored[connection.topic].append((log_ns, bytes(data)))
    listener = Listener(kinds | {"/clock": "rosgraph_msgs/msg/Clock"}, ros_domain)
    try:
        result = play(tiny_bag, "--clock", "--log", tmp_path / "log.jsonl")
        assert result.returncode == 0, result.stderr
        time.sleep(0.2)  # the last best-effort images are not acknowledged
    finally:
        listener.close()
    for topic, messages in stored.items():
        # The middleware pads to a multiple of four bytes.
        arrived = [data[: len(sent)] for (_, data), (_, sent) in zip(listener.received[topic], messages, strict=True)]
        assert arrived == [data for _, data in messages], topic
    arrivals = [t for t, _ in listener.received["/tf"]]
    stamps = [t for t, _ in stored["/tf"]]
    assert abs((arrivals[-1] - arrivals[0]) - (stamps[-1] - stamps[0]) / 1e9) < 0.3
    assert len(listener.received["/clock"]) > 100
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(log) == sum(map(len, stored.values())) and log == sorted(log, key=lambda row: row["wall_ns"])


@pytest.mark.ros
def test_nobody_listens(play, tiny_bag):
    result = play(tiny_bag, "--wait", "0.3", "--topics", "/tf", "/cam_front/camera_info")
    assert result.returncode == 1
    assert "no subscriber within 0.3 s on /cam_front/camera_info, /tf; is the detector active" in result.stderr


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
