"""Subscriptions to images, calibration and transforms. Callbacks only store; they run in the executor's thread."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from ..messages.incoming import transforms_of_serialized
from ..messages.rig_transforms import RigTransforms
from ..messages.stamps import ns_from_stamp, stamp_of_serialized
from ..parameters import NodeParameters
from ..perception.camera_statistics import CameraStatus
from ..perception.rig import Rig, RigFrames
from ..perception.synchronizer import Synchronizer
from ..perception.transforms import TransformBuffer, TransformError
from .arrival_clock import ArrivalClock
from .log_throttle import LogThrottle
from .statistics import Statistics

TF_QUEUE_DEPTH = 100


class Arrival(NamedTuple):
    """A serialized image and when it came in."""

    data: bytes
    monotonic: float  # s


class TransformIntake:
    """`/tf` and `/tf_static` into the buffer, as far as the rig needs them, while the node is configured."""

    def __init__(
        self, node: Node, frames: RigFrames, buffer: TransformBuffer, statistics: Statistics, log: LogThrottle
    ):
        self._node, self._statistics, self._log = node, statistics, log
        self._transforms = RigTransforms(frames, buffer)
        latched = QoSProfile(depth=TF_QUEUE_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        guarded = partial(_guarded, statistics=statistics, log=log)
        take_static, take = (guarded(partial(self.take, static=is_static)) for is_static in (True, False))
        self._subscriptions = [
            _subscribe(node, TFMessage, "/tf_static", take_static, latched, raw=True),
            _subscribe(node, TFMessage, "/tf", take, QoSProfile(depth=TF_QUEUE_DEPTH), raw=True),
        ]

    def destroy(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def take(self, data: bytes, static: bool) -> None:
        """Stores the transforms of a serialized message; one that cannot be right is refused, counted and logged."""
        start = time.perf_counter()
        try:
            samples = list(transforms_of_serialized(data))
        except ValueError as error:
            _refuse(self._statistics, self._log, f"on {'/tf_static' if static else '/tf'}: {error}")
            return
        try:
            if self._transforms.take(samples, static):
                self._statistics.count_reset("transforms jumped back in time")
                self._log.warning("tf jump", "/tf jumped back in time: older transforms are forgotten")
        except TransformError as error:
            self._statistics.count_rejected(error.cause)
            self._log.warning(error.cause, str(error))
        self._statistics.measure("intake", (time.perf_counter() - start) * 1e3)


class CameraIntake:
    """Images and CameraInfo into the synchronizer, while the node is active."""

    def __init__(
        self,
        node: Node,
        rig: Rig,
        parameters: NodeParameters,
        synchronizer: Synchronizer,
        statistics: Statistics,
        log: LogThrottle,
    ):
        self._node, self._synchronizer, self._statistics, self._log = node, synchronizer, statistics, log
        self._uncalibrated = dict.fromkeys(rig.names)  # in the order of the rig
        self._arrivals = ArrivalClock(self._ros_now_ns, statistics.clock)
        depth = parameters.image_queue_depth
        guarded = partial(_guarded, statistics=statistics, log=log)
        self._subscriptions: list[Subscription] = []
        try:
            # CameraInfo first: where both are waiting, the executor then takes the calibration before the image.
            for camera in rig.cameras:
                quality = QoSProfile(depth=depth, reliability=_reliability(parameters.camera_info_reliability))
                take = guarded(partial(self.take_info, camera.name))
                self._subscriptions.append(_subscribe(node, CameraInfo, camera.info_topic, take, quality))
            for camera in rig.cameras:
                quality = QoSProfile(depth=depth, reliability=_reliability(parameters.image_reliability))
                take, kind = guarded(partial(self.take_image, camera.name)), image_type(camera.transport)
                self._subscriptions.append(_subscribe(node, kind, camera.image_topic, take, quality, raw=True))
        except Exception:
            self.destroy()
            raise

    def destroy(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """Cameras whose CameraInfo never came."""
        return tuple(self._uncalibrated)

    def take_image(self, camera: str, data: bytes) -> None:
        """Stores a serialized image; the worker deserializes it."""
        start = time.perf_counter()
        try:
            stamp_ns = stamp_of_serialized(data)
        except ValueError as error:
            _refuse(self._statistics, self._log, f"of camera {camera}: {error}")
            return
        age_ns = self._ros_now_ns() - stamp_ns if stamp_ns > 0 else None
        self._synchronizer.add_image(camera, stamp_ns, Arrival(data, time.monotonic()), self._arrivals.now_ns(), age_ns)
        self._log_events()
        if age_ns is not None:
            self._statistics.measure("stamp_to_arrival", age_ns * 1e-6)
        self._statistics.measure("intake", (time.perf_counter() - start) * 1e3)

    def take_info(self, camera: str, info: CameraInfo) -> None:
        """Stores a calibration."""
        self._uncalibrated.pop(camera, None)
        self._synchronizer.add_info(camera, info, ns_from_stamp(info.header.stamp))

    def look_for_silence(self) -> None:
        """To be called about once a second: no callback runs where nothing comes."""
        self._synchronizer.poll(self._arrivals.now_ns())
        self._log_events()

    def camera_status(self) -> dict[str, CameraStatus]:
        """Each camera at this moment."""
        return self._synchronizer.camera_status(self._arrivals.now_ns())

    def _log_events(self) -> None:
        for event in self._synchronizer.take_events():
            self._log.warning(f"event {event.kind} {event.camera}", event.text)

    def _ros_now_ns(self) -> int:
        return self._node.get_clock().now().nanoseconds


def _subscribe(
    node: Node, kind: type, topic: str, callback: Callable, quality: QoSProfile, raw: bool = False
) -> Subscription:
    """A subscription whose history, depth and reliability may be overridden by the parameters
    `qos_overrides.<topic>.subscription.<policy>`, which rclpy declares. It also changes `quality`: one for each topic.
    """
    overridable = QoSOverridingOptions.with_default_policies()
    return node.create_subscription(kind, topic, callback, quality, raw=raw, qos_overriding_options=overridable)


def _reliability(name: str) -> ReliabilityPolicy:
    return ReliabilityPolicy[name.upper()]


def image_type(transport: str) -> type:
    """Message type of a camera's images, by the rig's `transport`."""
    return CompressedImage if transport == "compressed" else Image


def _refuse(statistics: Statistics, log: LogThrottle, reason: str) -> None:
    """Bytes that are not the message that they should be."""
    statistics.count_rejected("message")
    log.warning("message", f"message refused {reason}")


def _guarded(callback: Callable[[Any], None], statistics: Statistics, log: LogThrottle) -> Callable[[Any], None]:
    """The callback with a barrier: an error that nobody thought of costs its message, not the node."""

    @wraps(callback, assigned=())
    def call(message: Any) -> None:
        try:
            callback(message)
        except Exception:
            statistics.count_rejected("internal_error")
            log.warning("internal_error on arrival", f"message refused, internal error: {traceback.format_exc()}")

    return call
