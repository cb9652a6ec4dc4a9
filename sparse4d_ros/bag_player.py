"""Plays a rosbag2 over ROS 2 in real time: serialized bytes go out as they are stored.

    python -m sparse4d_ros.bag_player bags/0061 --rate 0.5 --clock

Starts once every camera, CameraInfo and TF topic of the bag has a subscriber, so that nothing is lost to discovery, and
ends once everything was acknowledged. Message order and spacing are those of the bag; long silences (the hours between
two drives in one bag) are shortened.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.interfaces import Connection, QosDurability
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from sparse4d_core.interrupts import StopRequest, stop_requests

from .bags.bag_io import BagError, open_bag
from .messages.stamps import stamp_from_ns
from .ros_arguments import split_ros_arguments
from .units import NANOSECONDS

log = logging.getLogger(__name__)

AWAITED_TYPES = ("Image", "CompressedImage", "CameraInfo", "TFMessage")  # what a detector subscribes to
CLOCK_TOPIC = "/clock"
DEPTH = 100  # messages kept for retransmission
SETTLE_SECONDS = 0.3  # a subscriber may learn of its publisher a little later than the publisher of it
ACKNOWLEDGE_SECONDS = 5.0


class NoSubscriberError(BagError):
    """Nobody listens to what is to be played."""


@dataclass(frozen=True)
class PlayOptions:
    """How to play."""

    rate: float = 1.0  # 2 = twice as fast
    loops: int = 1  # 0 = for ever
    topics: tuple[str, ...] = ()  # empty = all
    clock_hz: float = 0.0  # of /clock; 0 = none
    max_gap: float = 2.0  # s of bag time; longer silences are shortened to this
    wait_seconds: float = 30.0  # for subscribers; 0 = do not wait
    best_effort_images: bool = False  # as camera drivers publish
    log: Path | None = None  # JSON lines: topic, stamp of the bag, wall time of publication

    def __post_init__(self):
        if not self.rate > 0 or not self.max_gap > 0:
            raise ValueError(f"rate, max_gap: expected positive numbers, got {self.rate} and {self.max_gap}")
        if self.loops < 0 or self.clock_hz < 0 or self.wait_seconds < 0:
            raise ValueError("loops, clock_hz, wait_seconds: expected numbers of at least 0")


@dataclass
class PlayReport:
    """What was played."""

    published: Counter[str] = field(default_factory=Counter)  # topic -> messages
    seconds: float = 0.0
    late_ms: float = 0.0  # largest delay behind the schedule


def message_class(type_name: str) -> type:
    """Python class of `package/msg/Name`.

    Raises:
        BagError: the interface package is not installed.
    """
    package, _, name = type_name.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise BagError(f"bag: message type {type_name} is not installed: {error}") from error


class Schedule:
    """Wall time of every bag time, long silences shortened."""

    def __init__(self, rate: float, max_gap: float):
        self._rate, self._max_gap_ns = rate, max_gap * NANOSECONDS
        self._start = time.monotonic()
        self._played_ns, self._last_ns = 0, None

    def due(self, log_ns: int) -> float:
        """time.monotonic() at which the message logged at `log_ns` goes out; call in the order of the bag."""
        if self._last_ns is not None:
            self._played_ns += int(min(max(log_ns - self._last_ns, 0), self._max_gap_ns))
        self._last_ns = log_ns
        return self._start + self._played_ns / NANOSECONDS / self._rate


class BagPlayer:
    """Publishers for the topics of one bag."""

    def __init__(self, node: Node, connections: Sequence[Connection], options: PlayOptions, stop: StopRequest):
        self._node, self._options, self._stop = node, options, stop
        self._types = {c.topic: c.msgtype for c in connections}
        self._publishers: dict[str, Publisher] = {
            c.topic: node.create_publisher(message_class(c.msgtype), c.topic, self._quality_of_service(c))
            for c in {c.topic: c for c in connections}.values()  # a bag of several files may have them several times
        }
        own_clock = options.clock_hz and CLOCK_TOPIC not in self._publishers  # two would contradict each other
        self._clock = node.create_publisher(Clock, CLOCK_TOPIC, 1) if own_clock else None
        if options.clock_hz and not own_clock:
            log.warning("clock: the bag has %s itself, which is played instead", CLOCK_TOPIC)

    def _quality_of_service(self, connection: Connection) -> QoSProfile:
        """Reliable and volatile, unless the bag has them latched, or best effort is asked for the images."""
        offered = connection.ext.offered_qos_profiles
        latched = connection.topic == "/tf_static" or any(
            q.durability == QosDurability.TRANSIENT_LOCAL for q in offered
        )
        image = connection.msgtype.endswith("Image")
        return QoSProfile(
            depth=DEPTH,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
            reliability=ReliabilityPolicy.BEST_EFFORT
            if image and self._options.best_effort_images
            else ReliabilityPolicy.RELIABLE,
        )

    def wait_for_subscribers(self) -> None:
        """Returns once every awaited topic has a subscriber, or when time is up: a rig may leave cameras out.

        Raises:
            NoSubscriberError: none has one in time.
            KeyboardInterrupt: asked to end.
        """
        awaited = {t: p for t, p in self._publishers.items() if self._types[t].rsplit("/", 1)[1] in AWAITED_TYPES}
        deadline = time.monotonic() + self._options.wait_seconds
        while alone := [topic for topic, publisher in awaited.items() if publisher.get_subscription_count() == 0]:
            if time.monotonic() > deadline:
                text = f"no subscriber within {self._options.wait_seconds:g} s on {', '.join(sorted(alone))}"
                if len(alone) == len(awaited):
                    raise NoSubscriberError(
                        f"{text}; is the detector active, and in this ROS_DOMAIN_ID? --wait 0 does not wait"
                    )
                log.warning("%s; playing on. --topics leaves topics out", text)
                break
            self._sleep(0.02)
        self._sleep(SETTLE_SECONDS)

    def play(self, messages: Callable[[], Iterator[tuple[str, int, bytes]]], total: int | None) -> PlayReport:
        """Publishes all messages `loops` times, each at its time; `total` None: unknown.

        Raises:
            KeyboardInterrupt: asked to end, between two messages.
            BagError: there is no message.
        """
        report, start = PlayReport(), time.monotonic()
        played = self._options.log.open("w", encoding="utf-8") if self._options.log else None
        try:
            loop = 0
            while loop < self._options.loops or self._options.loops == 0:
                self._sleep(0.0)  # a request to end is heard where there is no message
                loop += 1
                # Without a terminal (under a launch system) a bar would be one endless line.
                bar = tqdm(messages(), total=total, desc=f"loop {loop}", unit="msg", disable=None)
                self._play_once(bar, report, played)
                if not report.published:
                    raise BagError(f"topics: the bag has no message on {', '.join(sorted(self._publishers))}")
            for publisher in self._publishers.values():
                publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_SECONDS))
        finally:
            report.seconds = time.monotonic() - start
            if played:
                played.close()
        return report

    def _play_once(
        self, messages: Iterator[tuple[str, int, bytes]], report: PlayReport, played: IO[str] | None
    ) -> None:
        schedule = Schedule(self._options.rate, self._options.max_gap)
        for topic, log_ns, data in messages:
            due = schedule.due(log_ns)
            self._sleep_until(due, log_ns)
            report.late_ms = max(report.late_ms, 1e3 * (time.monotonic() - due))
            self._publishers[topic].publish(data)
            report.published[topic] += 1
            if played:
                played.write(json.dumps({"topic": topic, "stamp_ns": log_ns, "wall_ns": time.time_ns()}) + "\n")

    def _sleep_until(self, due: float, log_ns: int) -> None:
        """Sleeps, and keeps /clock running towards `log_ns` meanwhile."""
        self._sleep(0.0)  # however late it is, a request to end is heard
        while (left := due - time.monotonic()) > 0:
            if self._clock is None:
                self._sleep(left)
                continue
            self._publish_clock(log_ns - int(left * self._options.rate * NANOSECONDS))
            self._sleep(min(left, 1 / self._options.clock_hz))
        if self._clock is not None:
            self._publish_clock(log_ns)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise KeyboardInterrupt

    def _publish_clock(self, now_ns: int) -> None:
        self._clock.publish(serialize_message(Clock(clock=stamp_from_ns(now_ns))))


def play_bag(bag: str | Path, options: PlayOptions) -> PlayReport:
    """Plays a bag in a node of its own; rclpy must be initialised.

    Raises:
        BagError: the bag cannot be read, or has none of the topics or no message on them.
        NoSubscriberError: nobody listens.
        KeyboardInterrupt: on the way.
    """
    node = rclpy.create_node("bag_player")
    try:
        with open_bag(bag) as reader:
            connections = [c for c in reader.connections if not options.topics or c.topic in options.topics]
            if not connections:
                known = ", ".join(sorted(reader.topics))
                raise BagError(f"topics: none of {', '.join(options.topics)} is in {bag}; it has {known}")

            def messages() -> Iterator[tuple[str, int, bytes]]:
                for connection, log_ns, data in reader.messages(connections=connections):
                    yield connection.topic, log_ns, bytes(data)

            # Python does not hand on what a handler raises while rclpy turns a message into bytes.
            with stop_requests() as stop:
                player = BagPlayer(node, connections, options, stop)
                if options.wait_seconds:
                    player.wait_for_subscribers()
                return player.play(messages, sum(c.msgcount for c in connections) or None)
    finally:
        node.destroy_node()


def parse_arguments(arguments: Sequence[str] | None) -> tuple[str, PlayOptions]:
    """The command line."""
    default = PlayOptions()
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.bag_player", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("bag", help="bag folder")
    add("--rate", type=float, default=default.rate, help="speed; 2 = twice as fast (default: %(default)s)")
    add("--loops", type=int, default=default.loops, metavar="N", help="0 = for ever (default: %(default)s)")
    add("--topics", nargs="+", default=(), help="publish these topics only")
    add("--clock", dest="clock_hz", type=float, nargs="?", const=100.0, default=0.0, metavar="HZ",
        help="publish /clock, at 100 Hz unless HZ is given; a /clock of the bag goes first")  # fmt: skip
    add("--max-gap", type=float, default=default.max_gap, metavar="S",
        help="shorten silences longer than this, in seconds of the bag (default: %(default)s)")  # fmt: skip
    add("--wait", dest="wait_seconds", type=float, default=default.wait_seconds, metavar="S",
        help="give up when there is no subscriber after S seconds; 0 = do not wait (default: %(default)s)")  # fmt: skip
    add("--best-effort-images", action="store_true", help="publish images as camera drivers do")
    add("--log", type=Path, metavar="FILE", help="write topic, stamp and wall time of each message as JSON lines")
    values = vars(parser.parse_args(arguments))
    bag, values["topics"] = values.pop("bag"), tuple(values["topics"])
    try:
        return bag, PlayOptions(**values)
    except ValueError as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, 1 if nobody listens."""
    words, own = split_ros_arguments(arguments)
    bag, options = parse_arguments(own)
    rclpy.init(args=words, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        report = play_bag(bag, options)
    except KeyboardInterrupt:
        print(f"{bag}: interrupted", file=sys.stderr)
        return 0  # how a program ends that a launch system stops
    except NoSubscriberError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (BagError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        rclpy.try_shutdown()
    count = sum(report.published.values())
    print(f"{bag}: {count} messages in {report.seconds:.1f} s, at most {report.late_ms:.1f} ms behind the schedule")
    return 0


if __name__ == "__main__":
    sys.exit(main())
