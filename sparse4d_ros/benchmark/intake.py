"""Measures whether the model holds up the intake: how long the node's callbacks take while the worker is busy.

    python -m sparse4d_ros.benchmark.intake --model demo --out out/bench/intake.json

The node runs in this process with its worker at full load (images come faster than the model takes them); another
process publishes six cameras, calibration and ego poses. The bound: 10 ms at the 99th percentile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage
from tqdm import tqdm

from sparse4d_core.benchmark import machine

from ..messages.stamps import make_header
from ..middleware import claimed_domain
from ..node import SWITCH_INTERVAL, DetectorNode
from ..online.statistics import Statistics
from ..perception.rig import Rig, load_rig

LIMIT_MS = 10.0
WIDTH, HEIGHT = 1600, 900  # pixels
DISCOVERY_SECONDS = 30.0
STAGES = ("intake", "stamp_to_arrival", "processing")


def measure(model: str, seconds: float, rate: float) -> dict:
    """Runs the node under load.

    Args:
        model: preset.
        seconds: of measurement, after the first set came out.
        rate: sets published per second.

    Raises:
        RuntimeError: the node could not be configured, or nothing arrived.
    """
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    statistics = Statistics(window=None)
    with claimed_domain() as domain:
        publisher = spawn.Process(target=_publish, args=(domain, stop, rate), daemon=True)
        publisher.start()
        rclpy.init(args=[], domain_id=domain)
        node = DetectorNode(statistics, parameter_overrides=[Parameter("model", value=model)])
        try:
            return _run(node, statistics, seconds)
        finally:
            stop.set()
            node.close()
            rclpy.try_shutdown()
            publisher.join(10)
            publisher.kill()


def _run(node: DetectorNode, statistics: Statistics, seconds: float) -> dict:
    for transition in (node.trigger_configure, node.trigger_activate):
        if transition() != TransitionCallbackReturn.SUCCESS:
            raise RuntimeError("the node could not be started; its log has the reason")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    end = time.monotonic() + DISCOVERY_SECONDS
    while statistics.processed < 2:
        if time.monotonic() > end:
            dropped = dict(statistics.dropped)
            raise RuntimeError(f"no set came out within {DISCOVERY_SECONDS:.0f} s; dropped: {dropped}")
        executor.spin_once(timeout_sec=0.1)
    before = {stage: len(statistics.measured(stage)) for stage in STAGES}
    received = node.synchronizer.received
    start = time.monotonic()
    with tqdm(total=round(seconds), unit="s", desc=f"intake beside {node.get_parameter('model').value}") as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            executor.spin_once(timeout_sec=0.1)
            bar.update(int(elapsed) - bar.n)
    measured = {stage: np.array(statistics.measured(stage)[count:]) for stage, count in before.items()}
    sets, intake = len(measured["processing"]), measured["intake"]
    return {
        "model": node.get_parameter("model").value,
        "images": f"compressed, {WIDTH}x{HEIGHT}",
        "seconds": seconds,
        "callbacks": len(intake),
        "images_per_second": (node.synchronizer.received - received) / seconds,
        "callback_ms": _summary(intake),
        "stamp_to_arrival_ms": _summary(measured["stamp_to_arrival"]),
        "sets_processed_per_second": round(sets / seconds, 2),
        "model_busy_share": round(min(1.0, measured["processing"].sum() * 1e-3 / seconds), 3),
        "sets_superseded": node.synchronizer.sets["superseded"],
        "limit_p99_ms": LIMIT_MS,
        "ok": bool(len(intake) and np.percentile(intake, 99) < LIMIT_MS),
    }


def _summary(values: np.ndarray) -> dict[str, float]:
    figures = {name: np.percentile(values, share) for name, share in (("p50", 50), ("p99", 99), ("p99.9", 99.9))}
    return {name: round(float(value), 4) for name, value in (figures | {"max": values.max()}).items()}


# --- publishing process -----------------------------------------------------------------------------------------------


def _publish(domain: int, stop, rate: float) -> None:
    """Six staggered cameras with calibration and ego pose until told to stop."""
    rig = load_rig()
    with _node(domain) as node:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        static = node.create_publisher(TFMessage, "/tf_static", latched)
        static.publish(_static_transforms(rig))
        poses = node.create_publisher(TFMessage, "/tf", 100)
        images = {c.name: node.create_publisher(CompressedImage, c.image_topic, 5) for c in rig.cameras}
        infos = {c.name: node.create_publisher(CameraInfo, c.info_topic, 5) for c in rig.cameras}
        picture, due = _picture(), time.monotonic()
        while not stop.is_set():
            for camera in rig.cameras:
                stamp = time.time_ns()
                poses.publish(TFMessage(transforms=[_transform(rig.frames.global_frame, rig.frames.base_frame, stamp)]))
                infos[camera.name].publish(_camera_info(camera.frame, stamp))
                header = make_header(camera.frame, stamp)
                images[camera.name].publish(CompressedImage(header=header, format="jpeg", data=picture))
            due += 1.0 / rate
            time.sleep(max(0.0, due - time.monotonic()))


@contextmanager
def _node(domain: int) -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("intake_publisher", context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.try_shutdown(context=context)


def _picture() -> bytes:
    """A JPEG of about 150 kB."""
    coarse = np.random.default_rng(0).integers(0, 255, (HEIGHT // 12, WIDTH // 12, 3), np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def _camera_info(frame: str, stamp_ns: int) -> CameraInfo:
    info = CameraInfo(header=make_header(frame, stamp_ns), width=WIDTH, height=HEIGHT, distortion_model="plumb_bob")
    info.k = [1260.0, 0.0, WIDTH / 2, 0.0, 1260.0, HEIGHT / 2, 0.0, 0.0, 1.0]
    return info


def _transform(parent: str, child: str, stamp_ns: int) -> TransformStamped:
    message = TransformStamped(header=make_header(parent, stamp_ns), child_frame_id=child)
    message.transform.rotation.w = 1.0
    return message


def _static_transforms(rig: Rig) -> TFMessage:
    """Where the cameras look does not matter here: all frames coincide."""
    children = [rig.frames.model_frame, *rig.frames.cameras.values()]
    return TFMessage(transforms=[_transform(rig.frames.base_frame, child, 0) for child in children])


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m sparse4d_ros.benchmark.intake", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="preset (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of measurement (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=12.0, help="sets per second (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="write the figures as JSON to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 where the measurement fails or the bound does not hold."""
    options = parse_arguments(arguments)
    sys.setswitchinterval(SWITCH_INTERVAL)
    report = {"hardware": machine.describe(), "load_average": os.getloadavg()[0]}
    try:
        report |= measure(options.model, options.seconds, options.rate)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
