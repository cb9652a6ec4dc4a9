"""Measures what arrives of six camera streams, and when: one process publishes, another feeds the synchronizer.

    python -m sparse4d_ros.benchmark.transport --out out/bench/transport.json

Loss is counted after discovery: small warm-up images flow until each camera's first one has arrived, then the measured
streams start. Latency is the time from just before `publish` to the subscriber's callback, on one clock.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from tqdm import tqdm

from sparse4d_core.benchmark import machine

from ..perception.synchronizer import Synchronizer

CAMERAS = ("cam_front", "cam_front_right", "cam_front_left", "cam_back", "cam_back_left", "cam_back_right")
WIDTH, HEIGHT = 1600, 900  # pixels
COMPRESSED_BYTES = 150_000
PROFILES_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
QUIET_SECONDS = 1.0  # without a message for so long after the last one was sent, the rest counts as lost
DISCOVERY_SECONDS = 30.0
SLOP_NS = 40_000_000


@dataclass(frozen=True)
class Case:
    """One measurement."""

    images: str  # "raw" (bgr8) or "compressed"
    shared_memory: bool = True  # config/fastdds_shm.xml, else the middleware's defaults
    seconds: float = 10.0
    rate: float = 12.0  # sets per second
    domain_id: int = 91


@dataclass(frozen=True)
class Result:
    """What came of a case; latencies in milliseconds."""

    case: Case
    sent: int
    received: int
    sets: int  # complete sets out of the synchronizer
    latency_p50_ms: float
    latency_p99_ms: float
    latency_max_ms: float

    @property
    def lost(self) -> int:
        return self.sent - self.received


CASES = (Case("raw"), Case("compressed"), Case("raw", shared_memory=False), Case("compressed", shared_memory=False))


def profiles_file() -> pathlib.Path:
    """config/fastdds_shm.xml of the source tree, or of the installed package."""
    source = pathlib.Path(__file__).resolve().parents[2] / "config" / "fastdds_shm.xml"
    if source.is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return pathlib.Path(get_package_share_directory("sparse4d_ros")) / "config" / "fastdds_shm.xml"


def quality_of_service() -> QoSProfile:
    """Best effort as the node's default; the depth holds two sets."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=2 * len(CAMERAS), reliability=ReliabilityPolicy.BEST_EFFORT
    )


def measure(case: Case) -> Result:
    """Run one case with a publishing and a receiving process.

    Raises:
        RuntimeError: the processes did not find each other, or one of them ended early.
    """
    spawn = multiprocessing.get_context("spawn")
    with _environment(PROFILES_VARIABLE, str(profiles_file()) if case.shared_memory else None):
        ends = {role: spawn.Pipe() for role in (_publish, _receive)}
        processes = [spawn.Process(target=role, args=(case, ends[role][1]), daemon=True) for role in ends]
        for process in processes:
            process.start()
    for _, end in ends.values():
        end.close()  # the processes have their own; where one ends, ours must notice
    publisher, receiver = (end for end, _ in ends.values())
    try:
        return _run(case, publisher, receiver)
    except EOFError as error:
        raise RuntimeError(f"a process of the measurement {case} ended early; its output says why") from error
    finally:
        publisher.close()
        receiver.close()
        for process in processes:
            process.join(timeout=10)
            process.kill()


def _run(case: Case, publisher: Connection, receiver: Connection) -> Result:
    _expect(receiver, "found", DISCOVERY_SECONDS)
    publisher.send("start")
    sent = _expect(publisher, "sent", case.seconds + DISCOVERY_SECONDS)
    receiver.send("end")
    outcome = _expect(receiver, "received", DISCOVERY_SECONDS)
    publisher.send("end")
    return Result(case=case, sent=sent, **outcome)


def _expect(connection: Connection, what: str, timeout: float):
    if not connection.poll(timeout):
        raise RuntimeError(f"no word {what!r} from a process of the measurement within {timeout:.0f} s")
    word, value = connection.recv()
    if word != what:
        raise RuntimeError(f"expected {what!r} from a process of the measurement, got {word!r}: {value}")
    return value


# --- publishing process -----------------------------------------------------------------------------------------------


def _publish(case: Case, control: Connection) -> None:
    with _node("transport_publisher", case.domain_id) as node:
        kind = _message_type(case)
        publishers = {camera: node.create_publisher(kind, _topic(camera), quality_of_service()) for camera in CAMERAS}
        warm_up, message = _message(case, small=True), _message(case)
        while not control.poll(0.05):
            for publisher in publishers.values():
                publisher.publish(warm_up)
        control.recv()
        sets = round(case.seconds * case.rate)
        start = time.monotonic()
        for index in range(sets):
            time.sleep(max(0.0, start + index / case.rate - time.monotonic()))
            for camera, publisher in publishers.items():
                message.header.frame_id = camera
                _set_stamp(message, time.time_ns())
                publisher.publish(message)
        control.send(("sent", sets * len(CAMERAS)))
        control.recv()


def _message(case: Case, small: bool = False) -> Image | CompressedImage:
    """An image of the case's size, or a tiny one with stamp zero for the warm-up. The content does not matter."""
    if case.images == "compressed":
        return CompressedImage(format="jpeg", data=array.array("B", bytes(16 if small else COMPRESSED_BYTES)))
    width, height = (4, 4) if small else (WIDTH, HEIGHT)
    content = array.array("B", bytes(3 * width * height))
    return Image(width=width, height=height, step=3 * width, encoding="bgr8", data=content)


def _set_stamp(message: Image | CompressedImage, nanoseconds: int) -> None:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 1_000_000_000)


# --- receiving process ------------------------------------------------------------------------------------------------


class Receiver:
    """Feeds the synchronizer and notes each image's latency."""

    def __init__(self, node: Node, case: Case):
        self.synchronizer = Synchronizer(CAMERAS, slop_ns=SLOP_NS, require_info=False)
        self.latencies_ms: list[float] = []
        self.sets = 0
        self.found: set[str] = set()
        self.last = time.monotonic()
        for camera in CAMERAS:
            node.create_subscription(
                _message_type(case),
                _topic(camera),
                lambda message, camera=camera: self.take(camera, message),
                quality_of_service(),
            )

    def take(self, camera: str, message: Image | CompressedImage) -> None:
        now = time.time_ns()
        stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        if stamp == 0:
            self.found.add(camera)
            return
        self.last = time.monotonic()
        self.latencies_ms.append((now - stamp) * 1e-6)
        self.synchronizer.add_image(camera, stamp, message)
        self.sets += self.synchronizer.take_newest() is not None


def _receive(case: Case, control: Connection) -> None:
    with _node("transport_receiver", case.domain_id) as node:
        receiver = Receiver(node, case)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        while len(receiver.found) < len(CAMERAS):
            executor.spin_once(timeout_sec=0.1)
        control.send(("found", None))
        while not control.poll():
            executor.spin_once(timeout_sec=0.1)
        while time.monotonic() - receiver.last < QUIET_SECONDS:
            executor.spin_once(timeout_sec=0.1)
        p50, p99, largest = np.percentile(receiver.latencies_ms or [np.inf], (50, 99, 100)).tolist()
        outcome = {
            "received": receiver.synchronizer.received,
            "sets": receiver.sets,
            "latency_p50_ms": p50,
            "latency_p99_ms": p99,
            "latency_max_ms": largest,
        }
        control.send(("received", outcome))


# --- both -------------------------------------------------------------------------------------------------------------


def _message_type(case: Case) -> type:
    return {"raw": Image, "compressed": CompressedImage}[case.images]


def _topic(camera: str) -> str:
    return f"/{camera}/image_rect"


@contextlib.contextmanager
def _node(name: str, domain_id: int) -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set (or with None, remove) a variable for processes started inside."""
    old = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if old is not None:
            os.environ[name] = old


# --- command line -----------------------------------------------------------------------------------------------------


def table(results: list[Result]) -> str:
    """The results as Markdown."""
    rows = [
        "| images | transport | received | lost | complete sets | latency p50 / p99 / max |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        case = result.case
        rows.append(
            f"| {case.images} | {'shared memory' if case.shared_memory else 'default'} "
            f"| {result.received} of {result.sent} | {result.lost} | {result.sets} "
            f"| {result.latency_p50_ms:.1f} / {result.latency_p99_ms:.1f} / {result.latency_max_ms:.1f} ms |"
        )
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.benchmark.transport",
        description="Publish six 1600x900 camera streams from one process to the synchronizer in another; count what "
        "is lost after discovery and measure when the rest arrives, with shared memory and with the middleware's "
        "defaults.",
        epilog="example: python -m sparse4d_ros.benchmark.transport --seconds 5 --out out/bench/transport.json",
    )
    parser.add_argument("--out", type=pathlib.Path, help="write the results to this JSON file")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement (default: 10)")
    parser.add_argument("--rate", type=float, default=12.0, help="sets of images per second (default: 12)")
    arguments = parser.parse_args(argv)
    cases = [replace(case, seconds=arguments.seconds, rate=arguments.rate) for case in CASES]
    results = [measure(case) for case in tqdm(cases, desc="transport", unit="case", file=sys.stderr)]
    print(f"Six cameras, {WIDTH}x{HEIGHT}, {arguments.rate:g} Hz, on {machine.summary()}\n\n{table(results)}")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(result) | {"lost": result.lost} for result in results]
        arguments.out.write_text(json.dumps({"hardware": machine.describe(), "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
