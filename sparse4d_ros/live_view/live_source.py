"""What a running detector publishes, for the page: a node of its own, in a process of its own.

    callbacks (executor thread, only store the newest) ─► worker thread: decode, look up poses ─► Scene

Nothing waits for the page. What comes faster than it is shown is replaced by the next one, and counted. Images are
subscribed to once the detector tells that it is active: a player that waits for subscribers means the detector.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from ..messages.detections import detections_from_messages
from ..messages.incoming import transforms_of
from ..messages.outgoing import OUTPUTS
from ..messages.rig_transforms import RigTransforms
from ..messages.stamps import ns_from_stamp, stamp_of_serialized
from ..perception.image_decoding import ConversionError
from ..perception.rig import Rig
from ..perception.transforms import TransformBuffer, TransformError
from .health_sample import health_from_message
from .scene import KEPT_SECONDS, ObjectSet, Scene
from .thumbnails import Thumbnails

IMAGE_PERIOD = 0.2  # s between two pictures of a camera
PATIENCE = 0.3  # s that what came in together waits for its poses
TF_CACHE = KEPT_SECONDS  # s of transforms kept: of a slow model's set the images are still there
MAX_HALVES = 20  # sets of which one of two messages is missing

log = logging.getLogger(__name__)


class LiveSource:
    """See the module.

    Args:
        node: gets the subscriptions; somebody spins it.
        scene: is filled.
        rig: cameras, topics, frames; topics without a leading slash are below the detector's namespace.
        detector: full name of the detector's node.

    Attributes:
        skipped: cause -> messages that are not shown; `no pose`: sets whose boxes are in the scene alone, in no image.
    """

    def __init__(self, node: Node, scene: Scene, rig: Rig, detector: str):
        self._node, self._scene, self._detector = node, scene, detector
        namespace, _, name = f"/{detector.strip('/')}".rpartition("/")
        # As the detector expands them, whatever namespace this node is in.
        self._rig = rig.with_topics(lambda topic: expand_topic_name(topic, name, namespace or "/"))
        self.skipped: Counter[str] = Counter()
        self._buffer = TransformBuffer(TF_CACHE)
        self._transforms = RigTransforms(rig.frames, self._buffer)
        self._thumbnails = Thumbnails(rig.frames, self._buffer)
        self._news = threading.Condition()
        self._images: dict[str, tuple[float, bytes]] = {}  # camera -> when it came in, serialized image
        self._infos: dict[str, Any] = {}
        self._kinds: dict[str, type] = {}  # message types, once the cameras are subscribed to
        self._halves: dict[int, dict[str, Any]] = {}
        self._sets: list[tuple[float, Any, Any]] = []
        self._closed = False
        self._shown = ""
        self._set_subscriptions: list[Any] = []
        self._subscribe()
        self._show("tracks")
        self._worker = threading.Thread(target=self._work, name="pictures", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Ends the worker; the node stays."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._worker.join()

    # ---------------------------------------------------------------------------------------------- subscriptions

    def _subscribe(self) -> None:
        static = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscribe = self._node.create_subscription
        subscribe(TFMessage, "/tf_static", partial(self._on_transforms, static=True), static)
        subscribe(TFMessage, "/tf", partial(self._on_transforms, static=False), 100)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _subscribe_to_cameras(self) -> None:
        if self._kinds:
            return
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscribe = self._node.create_subscription
        for camera in self._rig.cameras:
            self._kinds[camera.name] = kind = CompressedImage if camera.transport == "compressed" else Image
            subscribe(CameraInfo, camera.info_topic, partial(self._infos.__setitem__, camera.name), newest)
            subscribe(kind, camera.image_topic, partial(self._on_image, camera.name), newest, raw=True)

    def _show(self, what: str) -> None:
        """Subscribes to `tracks` or `detections`, each in two halves: the velocities are in a message of their own."""
        if what == self._shown:
            return
        for subscription in self._set_subscriptions:
            self._node.destroy_subscription(subscription)
        self._shown = what
        names = {"array": what, "states": f"{what.removesuffix('s')}_states"}
        self._halves.clear()
        self._set_subscriptions = [
            self._node.create_subscription(
                OUTPUTS[name], f"{self._detector.rstrip('/')}/{name}", partial(self._on_half, half), 10
            )
            for half, name in names.items()
        ]

    def _on_transforms(self, message: TFMessage, static: bool) -> None:
        try:
            self._transforms.take(transforms_of(message), static)
        except TransformError as error:
            self._skip(error.cause, str(error))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        sample = health_from_message(message, self._detector)
        if sample is not None:
            if "synchronization" in sample.components:  # a status that an active node alone has
                self._subscribe_to_cameras()
            self._scene.add_health(time.monotonic(), sample)
            self._show("tracks" if sample.gives_track_ids else "detections")

    def _on_image(self, camera: str, data: bytes) -> None:
        with self._news:
            if camera in self._images:
                self.skipped["newer image"] += 1
            self._images[camera] = time.monotonic(), data

    def _on_half(self, half: str, message: Any) -> None:
        stamp_ns = ns_from_stamp(message.header.stamp)
        halves = self._halves.setdefault(stamp_ns, {})
        halves[half] = message
        if len(halves) == 2:
            while next(iter(self._halves)) != stamp_ns:
                self._give_up_oldest()
            del self._halves[stamp_ns]
            with self._news:
                self._sets.append((time.monotonic(), halves["array"], halves["states"]))
                self._news.notify_all()
        elif len(self._halves) > MAX_HALVES:
            self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        """Each topic is in order: what a set that began before a whole one still lacks was lost. Kept, it would be
        joined with a message of another playback, whose stamps are the same."""
        del self._halves[next(iter(self._halves))]
        self._skip("half a set", "one of a set's two messages came alone")

    # ------------------------------------------------------------------------------------------------------ worker

    def _work(self) -> None:
        pictures_at = 0.0
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._sets, max(pictures_at - time.monotonic(), 0.01))
                if self._closed:
                    return
                sets, self._sets = self._sets, []
                images: dict[str, tuple[float, bytes]] = {}
                if time.monotonic() >= pictures_at:
                    images, self._images = self._images, {}
                    pictures_at = time.monotonic() + IMAGE_PERIOD
            self._thumbnails.wait_at_most(PATIENCE)
            for arrival in sets:
                self._guarded(self._add_set, *arrival)
            for camera, (arrived, data) in images.items():
                self._guarded(self._add_image, arrived, camera, data)
            self._scene.tick(time.monotonic())

    def _guarded(self, step: Any, *arguments: Any) -> None:
        """A message that cannot be shown costs itself, not the page."""
        try:
            step(*arguments)
        except ConversionError as error:
            self._skip(error.cause, str(error))
        except Exception as error:
            self._skip("internal_error", f"{type(error).__name__}: {error}")

    def _add_set(self, arrived: float, array: Any, states: Any) -> None:
        boxes = detections_from_messages(array, states)
        stamp_ns = ns_from_stamp(array.header.stamp)
        pose = self._thumbnails.pose(self._rig.frames.global_frame, array.header.frame_id, stamp_ns)
        if pose is None:
            self._skip("no pose", f"TF has no pose of {array.header.frame_id} at a set's time: no boxes in the images")
        self._scene.add_objects(arrived, ObjectSet(stamp_ns, boxes, pose))

    def _add_image(self, arrived: float, camera: str, data: bytes) -> None:
        if camera not in self._infos:
            self._skip("camera_info", f"camera {camera}: image without CameraInfo")
            return
        message = deserialize_message(data, self._kinds[camera])
        stamp_ns = stamp_of_serialized(data)
        picture = self._thumbnails.picture(camera, stamp_ns, message, self._infos[camera])
        self._scene.add_image(arrived, camera, picture)

    def _skip(self, cause: str, text: str) -> None:
        """Counts it; the first of a kind is logged."""
        self.skipped[cause] += 1
        if self.skipped[cause] == 1:
            log.warning("%s (further ones are counted)", text)
