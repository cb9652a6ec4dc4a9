"""The node's publishers, and one processed set on its way out. Nobody listening, nothing converted."""

from __future__ import annotations

import time

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CompressedImage

from ..messages.outgoing import OUTPUTS, output_messages, overlay_message
from ..perception.rig import RigFrames
from ..perception.set_processor import Processed
from ..perception.transforms import TransformBuffer

QUEUE_DEPTH = 10  # messages


class Outputs:
    """`~/detections`, `~/detection_states`, `~/tracks`, `~/track_states`, `~/markers`, `~/overlay/compressed`."""

    def __init__(self, node: LifecycleNode, frames: RigFrames, buffer: TransformBuffer):
        self._node, self._frames, self._buffer = node, frames, buffer
        self._publishers = {
            topic: node.create_lifecycle_publisher(kind, f"~/{topic}", QUEUE_DEPTH) for topic, kind in OUTPUTS.items()
        }
        self._overlay = node.create_lifecycle_publisher(CompressedImage, "~/overlay/compressed", 1)

    def destroy(self) -> None:
        """Removes the publishers."""
        for publisher in [*self._publishers.values(), self._overlay]:
            self._node.destroy_lifecycle_publisher(publisher)

    def publish(self, processed: Processed) -> dict[str, float]:
        """Publishes one set in the base frame, at the set's stamp.

        Returns:
            Milliseconds of the stage `publish`.

        Raises:
            TransformError: the model frame has no pose in the base frame.
        """
        start = time.perf_counter()
        messages = output_messages(
            processed.result,
            processed.frame.stamp_ns,
            self._frames,
            self._buffer,
            self._value("score_threshold"),
            wanted=[topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count()],
        )
        for topic, message in messages.items():
            self._publishers[topic].publish(message)
        return {"publish": (time.perf_counter() - start) * 1e3}

    def publish_overlay(self, processed: Processed) -> float | None:
        """Draws and publishes the overlay of one set: milliseconds; None if nobody looks at it."""
        if not self._overlay.get_subscription_count():
            return None
        start = time.perf_counter()
        self._overlay.publish(
            overlay_message(
                processed.frame,
                processed.result,
                self._frames.base_frame,
                tile_width=self._value("overlay_width"),
                quality=self._value("overlay_quality"),
            )
        )
        return (time.perf_counter() - start) * 1e3

    def _value(self, parameter: str) -> float | int:
        """Of a parameter that may change at any time."""
        return self._node.get_parameter(parameter).value
