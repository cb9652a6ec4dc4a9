"""Measures what arrives of six camera streams, and when: one process publishes, another has the node's own intake.

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
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tqdm import tqdm

from sparse4d_core.benchmark import machine

from ..assembly import make_synchronizer
from ..messages.stamps import make_header
from ..middleware import PROFILE_VARIABLES, claimed_domain, large_messages, variables
from ..online.log_throttle import LogThrottle
from ..online.statistics import Statistics
from ..online.subscriptions import CameraIntake, image_type
from ..parameters import NodeParameters
from ..perception.rig import Rig, load_rig

WIDTH, HEIGHT = 1600, 900  # pixels
COMPRESSED_BYTES = 150_000
QUIET_SECONDS = 1.0  # without a message for so long after the last one was sent, the rest counts as lost
PROCESS_SECONDS = 60.0  # to start, to discover each other, to end
PUBLISHER_DEPTH = 12  # two sets


@dataclass(frozen=True)
class Case:
    """One measurement."""

    images: str  # "raw" (bgr8) or "compressed"
    shared_memory: bool = True  # config/fastdds_shm.xml, else the middleware's defaults
    seconds: float = 10.0
    rate: float = 12.0  # sets per second


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


def measure(case: Case) -> Result:
    """Runs one case with a publishing and a receiving process.

    Raises:
        RuntimeError: the processes did not find each other, or one of them ended early.
    """
    spawn = multiprocessing.get_context("spawn")
    profile = large_messages() if case.shared_memory else dict.fromkeys(PROFILE_VARIABLES)
    with claimed_domain() as domain:
        with variables(profile):
            ends = {role: spawn.Pipe() for role in (_publish, _receive)}
            processes = [spawn.Process(target=role, args=(case, domain, ends[role][1]), daemon=True) for role in ends]
            for process in processes:
                process.start()
        for _, end in ends.values():
            end.close()  # the processes have their own; where one ends, ours must notice
        publisher, receiver = (end for end, _ in ends.values())
        try:
            return _run(case, publisher, receiver)
        except EOFError as error:
            raise RuntimeError(f"a process of the measurement {case} ended early; its output has the reason") from error
        finally:
            publisher.close()
            receiver.close()
            for process in processes:
                process.join(timeout=10)
                process.kill()


def _run(case: Case, publisher: Connection, receiver: Connection) -> Result:
    _expect(receiver, "found", PROCESS_SECONDS)
    publisher.send("end of the warm-up")
    _expect(publisher, "quiet", PROCESS_SECONDS)
    receiver.send("begin")
    _expect(receiver, "ready", PROCESS_SECONDS)
    publisher.send("start")
    sent = _expect(publisher, "sent", case.seconds + PROCESS_SECONDS)
    receiver.send("end")
    outcome = _expect(receiver, "received", PROCESS_SECONDS)
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


def _publish(case: Case, domain: int, control: Connection) -> None:
    rig = _rig(case)
    quality = QoSProfile(depth=PUBLISHER_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
    with _node("transport_publisher", domain) as node:
        publishers = {c: node.create_publisher(image_type(c.transport), c.image_topic, quality) for c in rig.cameras}
        warm_up, message = _message(case, small=True), _message(case)

        def publish(content: Image | CompressedImage) -> None:
            for camera, publisher in publishers.items():
                content.header = make_header(camera.frame, time.time_ns())
                publisher.publish(content)

        while not control.poll(0.05):
            publish(warm_up)
        control.recv()
        control.send(("quiet", None))
        control.recv()
        sets = round(case.seconds * case.rate)
        start = time.monotonic()
        for index in range(sets):
            time.sleep(max(0.0, start + index / case.rate - time.monotonic()))
            publish(message)
        control.send(("sent", sets * len(publishers)))
        control.recv()


def _message(case: Case, small: bool = False) -> Image | CompressedImage:
    """An image of the case's size, or a tiny one for the warm-up. The content does not matter."""
    if case.images == "compressed":
        return CompressedImage(format="jpeg", data=array.array("B", bytes(16 if small else COMPRESSED_BYTES)))
    width, height = (4, 4) if small else (WIDTH, HEIGHT)
    content = array.array("B", bytes(3 * width * height))
    return Image(width=width, height=height, step=3 * width, encoding="bgr8", data=content)


# --- receiving process ------------------------------------------------------------------------------------------------


class Receiver:
    """The node's intake and synchronizer, whose sets are counted."""

    def __init__(self, node: Node, case: Case):
        parameters, rig = NodeParameters(), _rig(case)
        self._statistics = Statistics(window=None)
        self._synchronizer = make_synchronizer(parameters, rig)
        for camera in rig.cameras:
            self._synchronizer.add_info(camera.name, CameraInfo())
        log = LogThrottle(node.get_logger())
        self._intake = CameraIntake(node, rig, parameters, self._synchronizer, self._statistics, log)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self.sets = 0

    @property
    def images(self) -> int:
        """So far, of all cameras."""
        return self._synchronizer.received

    @property
    def latencies_ms(self) -> list[float]:
        """Of all images so far."""
        return self._statistics.measured("stamp_to_arrival")

    def found_all(self) -> bool:
        """Whether every camera has been heard."""
        return all(camera.received for camera in self._synchronizer.camera_status().values())

    def spin(self) -> None:
        """One callback, or a short while."""
        self._executor.spin_once(timeout_sec=0.1)
        self.sets += self._synchronizer.take_next() is not None

    def spin_until_quiet(self) -> None:
        """Until nothing has come for a while."""
        images, last = self.images, time.monotonic()
        while time.monotonic() - last < QUIET_SECONDS:
            self.spin()
            if self.images != images:
                images, last = self.images, time.monotonic()


def _receive(case: Case, domain: int, control: Connection) -> None:
    with _node("transport_receiver", domain) as node:
        receiver = Receiver(node, case)
        while not receiver.found_all():
            receiver.spin()
        control.send(("found", None))
        while not control.poll():
            receiver.spin()
        control.recv()
        receiver.spin_until_quiet()
        warm_up, receiver.sets = receiver.images, 0
        control.send(("ready", None))
        while not control.poll():
            receiver.spin()
        receiver.spin_until_quiet()
        latencies = receiver.latencies_ms[warm_up:]
        p50, p99, largest = np.percentile(latencies or [np.inf], (50, 99, 100)).tolist()
        outcome = {
            "received": len(latencies),
            "sets": receiver.sets,
            "latency_p50_ms": p50,
            "latency_p99_ms": p99,
            "latency_max_ms": largest,
        }
        control.send(("received", outcome))


# --- both -------------------------------------------------------------------------------------------------------------


def _rig(case: Case) -> Rig:
    """The cameras of nuScenes, with the case's kind of images."""
    rig = load_rig()
    if case.images == "compressed":
        return rig
    if case.images != "raw":
        raise ValueError(f"images: expected 'raw' or 'compressed', got {case.images!r}")
    cameras = [replace(c, image_topic=c.image_topic.removesuffix("/compressed"), transport="raw") for c in rig.cameras]
    return replace(rig, cameras=tuple(cameras))


@contextlib.contextmanager
def _node(name: str, domain: int) -> Iterator[Node]:
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    node = Node(name, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


# --- command line -----------------------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
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


def write_report(results: Sequence[Result], path: pathlib.Path) -> None:
    """The results with the hardware as JSON; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [asdict(result) | {"lost": result.lost} for result in results]
    path.write_text(json.dumps({"hardware": machine.describe(), "results": rows}, indent=2) + "\n")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.benchmark.transport",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, help="write the results to this JSON file")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=12.0, help="sets of images per second (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if a measurement fails."""
    options = parse_arguments(arguments)
    cases = [replace(case, seconds=options.seconds, rate=options.rate) for case in CASES]
    try:
        results = [measure(case) for case in tqdm(cases, desc="transport", unit="case", file=sys.stderr)]
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Six cameras, {WIDTH}x{HEIGHT}, {options.rate:g} Hz, on {machine.summary()}\n\n{table(results)}")
    if options.out is not None:
        write_report(results, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
