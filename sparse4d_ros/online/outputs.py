"""The node's publishers, and one processed set on its way out. Nobody listening, nothing converted."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import LabelInfo

from ..messages.outgoing import OUTPUTS, OtherOutput, output_messages, overlay_message, renumbered
from ..messages.trails import Trails
from ..perception.rig import RigFrames
from ..perception.set_processor import Processed
from ..perception.transforms import TransformBuffer

QUEUE_DEPTH = 10  # messages
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IDS_A_SECOND = 2**15  # more than are ever given away: 30 sets a second with 900 anchors each need 27,000


def ids_since_boot() -> int:
    """A number above every id of a node that began to count here before, since the machine was booted."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * IDS_A_SECOND)


class Outputs:
    """The topics of `OUTPUTS` below the node's name, and `~/overlay/compressed`.

    Args:
        node: of the publishers.
        frames: of the rig.
        buffer: has the model frame's pose in the base frame.
        first_id: track ids count from here; -1: from the time since boot.
        labels: the model's classes; latched on `~/label_info`.
        others: topics of other families of messages.
    """

    def __init__(
        self,
        node: LifecycleNode,
        frames: RigFrames,
        buffer: TransformBuffer,
        first_id: int,
        labels: LabelInfo,
        others: Mapping[str, OtherOutput],
    ):
        self._node, self._frames, self._buffer, self._others = node, frames, buffer, others
        self._first_id = ids_since_boot() if first_id < 0 else first_id
        self._trails = Trails()
        kinds = OUTPUTS | {topic: other.kind for topic, other in others.items()}
        self._publishers = {
            topic: node.create_lifecycle_publisher(kind, f"~/{topic}", QUEUE_DEPTH) for topic, kind in kinds.items()
        }
        self._labels = node.create_publisher(LabelInfo, "~/label_info", LATCHED)
        self._labels.publish(labels)
        self._overlay = node.create_lifecycle_publisher(CompressedImage, "~/overlay/compressed", 1)

    def destroy(self) -> None:
        """Removes the publishers."""
        for publisher in [*self._publishers.values(), self._overlay]:
            self._node.destroy_lifecycle_publisher(publisher)
        self._node.destroy_publisher(self._labels)

    def subscribers(self) -> dict[str, int]:
        """How many there are of each topic: what nobody has subscribed to is not made, and nobody gets it later."""
        return {topic: publisher.get_subscription_count() for topic, publisher in self._publishers.items()}

    def publish(self, processed: Processed) -> dict[str, float]:
        """Publishes one set in the base frame, at the set's stamp.

        Returns:
            Milliseconds of the stage `publish`.

        Raises:
            TransformError: the model frame has no pose in the base frame.
        """
        start = time.perf_counter()
        result = renumbered(processed.result, self._first_id)
        messages = output_messages(
            result,
            processed.status,
            self._frames,
            self._buffer,
            self._value("score_threshold"),
            wanted=[topic for topic, subscribers in self.subscribers().items() if subscribers],
            others=self._others,
            trails=self._trails,
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
                renumbered(processed.result, self._first_id),
                self._frames.base_frame,
                tile_width=self._value("overlay_width"),
                quality=self._value("overlay_quality"),
            )
        )
        return (time.perf_counter() - start) * 1e3

    def _value(self, parameter: str) -> float | int:
        """Of a parameter that may change at any time."""
        return self._node.get_parameter(parameter).value
