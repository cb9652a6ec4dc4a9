"""Records what a detector publishes, set by set, without loss of a digit.

    python -m sparse4d_ros.box_recorder --out out/record.jsonl --detector /sparse4d

A set is complete once its detections, tracks and both state clouds (which carry the velocities) have come. Ends with
Ctrl-C or SIGTERM, or when a given number of sets was recorded.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2
from vision_msgs.msg import Detection3DArray

from .bags.box_record import RecordFile, SetRecord
from .messages.outgoing import ns_from_stamp, record_from_messages

TOPICS = {
    "detections": Detection3DArray,
    "detection_states": PointCloud2,
    "tracks": Detection3DArray,
    "track_states": PointCloud2,
}
DEPTH = 100
MAX_PENDING = 50  # sets of which a message is missing


class Recorder(Node):
    """Joins the four topics by stamp."""

    def __init__(self, detector: str, on_record: Callable[[SetRecord], None], **options: Any):
        """
        Args:
            detector: full name of the detector's node.
            on_record: called with every complete set, in the executor's thread.
            options: of rclpy's Node.
        """
        super().__init__("recorder", **options)
        self._on_record = on_record
        self._pending: dict[int, dict[str, Any]] = {}
        self.incomplete = 0  # sets given up because one of their messages never came
        quality = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        for name, kind in TOPICS.items():
            topic = f"{detector.rstrip('/')}/{name}"
            self.create_subscription(kind, topic, lambda message, name=name: self._store(name, message), quality)

    def _store(self, name: str, message: Any) -> None:
        stamp = ns_from_stamp(message.header.stamp)
        parts = self._pending.setdefault(stamp, {})
        parts[name] = message
        if len(parts) == len(TOPICS):
            del self._pending[stamp]
            self._on_record(record_from_messages(**parts, received_ns=time.time_ns()))
        elif len(self._pending) > MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
            self.incomplete += 1


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.box_recorder", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write (JSON lines)")
    parser.add_argument("--detector", default="/sparse4d", help="name of the detector's node (default: %(default)s)")
    parser.add_argument("--count", type=int, default=0, help="stop after so many sets (default: never)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    words = sys.argv if argv is None else ["recorder", *argv]
    arguments = parse_arguments(rclpy.utilities.remove_ros_args(words)[1:])
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    rclpy.init(args=words, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    with RecordFile(arguments.out) as file:

        def write(record: SetRecord) -> None:
            file.write(record)
            if file.count == arguments.count:
                done.set()

        node = Recorder(arguments.detector, write)
        try:
            while not done.is_set():
                rclpy.spin_once(node, timeout_sec=0.1)
        except ExternalShutdownException:
            pass
        node.destroy_node()
    rclpy.try_shutdown()
    print(f"{arguments.out}: {file.count} sets, {node.incomplete} incomplete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
