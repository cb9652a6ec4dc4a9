"""Records what a detector publishes, set by set, without loss of a digit.

    python -m sparse4d_ros.box_recorder --out out/record.jsonl --detector /sparse4d

A set is complete once its detections, tracks, both state clouds (which carry the velocities) and its status (which
cameras it saw) have come. Ends with Ctrl-C or SIGTERM, or when a given number of sets was recorded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from sparse4d_core.interrupts import StopRequest, stop_requests

from .bags.box_record import BoxRecordWriter, SetRecord
from .bags.message_records import RECORDED, record_from_messages
from .messages.outgoing import OUTPUTS
from .messages.stamps import ns_from_stamp
from .perception.image_decoding import ConversionError
from .ros_arguments import split_ros_arguments

DEPTH = 100
MAX_PENDING = 50  # sets of which a message is missing


class BoxRecorder(Node):
    """Joins the topics by stamp."""

    def __init__(self, detector: str, on_record: Callable[[SetRecord], None], **options: Any):
        """
        Args:
            detector: full name of the detector's node.
            on_record: called with every complete set, in the executor's thread.
            options: of rclpy's Node.
        """
        super().__init__("box_recorder", **options)
        self._on_record = on_record
        self._pending: dict[int, dict[str, Any]] = {}
        self.incomplete = 0  # sets given up: a message never came, or those that came are not of one set
        quality = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        for name in RECORDED:
            topic = f"{detector.rstrip('/')}/{name}"
            self.create_subscription(OUTPUTS[name], topic, partial(self._store, name), quality)

    def _store(self, name: str, message: Any) -> None:
        stamp = ns_from_stamp(message.header.stamp)
        parts = self._pending.setdefault(stamp, {})
        parts[name] = message
        if len(parts) == len(RECORDED):
            self._give_up_before(stamp)
            del self._pending[stamp]
            self._record(stamp, parts)
        elif len(self._pending) > MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
            self.incomplete += 1

    def _give_up_before(self, stamp: int) -> None:
        """Each topic is in order: what a set that began before this one still lacks was lost. Kept, it would be mixed
        with messages of another playback, whose stamps are the same."""
        while (first := next(iter(self._pending))) != stamp:
            del self._pending[first]
            self.incomplete += 1

    def _record(self, stamp: int, parts: dict[str, Any]) -> None:
        try:
            record = record_from_messages(**parts, received_ns=time.time_ns())
        except ConversionError as error:
            self.incomplete += 1
            self.get_logger().warning(f"set {stamp} is not recorded: {error}")
        else:
            self._on_record(record)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.box_recorder", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write (JSON lines)")
    parser.add_argument("--detector", default="/sparse4d", help="name of the detector's node (default: %(default)s)")
    parser.add_argument("--count", type=int, default=0, help="stop after so many sets (default: never)")
    return parser.parse_args(arguments)


def record(options: argparse.Namespace, stop: StopRequest) -> str:
    """Records until asked to end, or until the asked number of sets is there; returns a sentence about the outcome."""
    with BoxRecordWriter(options.out) as file:

        def write(record: SetRecord) -> None:
            file.write(record)
            if file.count == options.count:
                stop.requested = True

        node = BoxRecorder(options.detector, write)
        try:
            while not stop.requested:
                rclpy.spin_once(node, timeout_sec=0.1)
        except ExternalShutdownException:
            pass
        node.destroy_node()
    return f"{options.out}: {file.count} sets, {node.incomplete} incomplete"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for a file that cannot be written."""
    words, own = split_ros_arguments(arguments)
    options = parse_arguments(own)
    with stop_requests() as stop:
        rclpy.init(args=words, signal_handler_options=rclpy.SignalHandlerOptions.NO)
        try:
            print(record(options, stop))
        except OSError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        finally:
            rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
