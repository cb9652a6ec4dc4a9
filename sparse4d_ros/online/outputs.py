"""The node's publishers, and one processed set on its way out. Nobody listening, nothing converted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from sensor_msgs.msg import CompressedImage, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from sparse4d_core.inference.tracking import above, worth_showing
from sparse4d_core.visualization import draw_overlay

from ..messages.outgoing import (
    RigFrames,
    make_header,
    ns_from_stamp,
    to_base_frame,
    to_compressed_image,
    to_detection_array,
    to_markers,
    to_state_cloud,
)
from ..perception.set_processor import Processed
from ..perception.transforms import TransformBuffer

QUEUE_DEPTH = 10  # messages


class Outputs:
    """`~/detections`, `~/detection_states`, `~/tracks`, `~/track_states`, `~/markers`, `~/overlay/compressed`."""

    def __init__(self, node: LifecycleNode, frames: RigFrames, buffer: TransformBuffer):
        self._node, self._frames, self._buffer = node, frames, buffer
        self._detections = node.create_lifecycle_publisher(Detection3DArray, "~/detections", QUEUE_DEPTH)
        self._detection_states = node.create_lifecycle_publisher(PointCloud2, "~/detection_states", QUEUE_DEPTH)
        self._tracks = node.create_lifecycle_publisher(Detection3DArray, "~/tracks", QUEUE_DEPTH)
        self._track_states = node.create_lifecycle_publisher(PointCloud2, "~/track_states", QUEUE_DEPTH)
        self._markers = node.create_lifecycle_publisher(MarkerArray, "~/markers", QUEUE_DEPTH)
        self._overlay = node.create_lifecycle_publisher(CompressedImage, "~/overlay/compressed", 1)

    def destroy(self) -> None:
        """Removes the publishers."""
        for publisher in vars(self).copy().values():
            if isinstance(publisher, LifecyclePublisher):
                self._node.destroy_lifecycle_publisher(publisher)

    def publish(self, processed: Processed) -> dict[str, float]:
        """Publishes one set in the base frame, at the set's stamp.

        Returns:
            Milliseconds of the stages `publish` and, when somebody looks at it, `overlay`.

        Raises:
            TransformError: the model frame has no pose in the base frame.
        """
        start = time.perf_counter()
        result, header = processed.result, make_header(self._frames.base_frame, processed.frame.stamp_ns)
        detections = above(result.detections, self._node.get_parameter("score_threshold").value)
        self._publish(
            detections, header, {self._detections: to_detection_array, self._detection_states: to_state_cloud}
        )
        self._publish(result.tracks, header, {self._tracks: to_detection_array, self._track_states: to_state_cloud})
        self._publish(worth_showing(result.detections, result.tracks), header, {self._markers: to_markers})
        timings = {"publish": (time.perf_counter() - start) * 1e3}
        if self._overlay.get_subscription_count():
            start = time.perf_counter()
            self._overlay.publish(self._picture(processed, header))
            timings["overlay"] = (time.perf_counter() - start) * 1e3
        return timings

    def _publish(self, found: Any, header: Header, conversions: dict[LifecyclePublisher, Callable]) -> None:
        boxes = to_base_frame(found, self._frames, self._buffer, ns_from_stamp(header.stamp))
        for publisher, convert in conversions.items():
            if publisher.get_subscription_count():
                publisher.publish(convert(found, boxes, header))

    def _picture(self, processed: Processed, header: Header) -> CompressedImage:
        width = self._node.get_parameter("overlay_width").value
        boxes = worth_showing(processed.result.detections, processed.result.tracks)
        picture = draw_overlay(processed.frame, boxes, tile_width=width)
        return to_compressed_image(picture, header, self._node.get_parameter("overlay_quality").value)
