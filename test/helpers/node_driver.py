"""A node that is fed by hand: messages go to its callbacks as the executor would hand them over."""

from __future__ import annotations

import threading
import time

from patience import PATIENCE
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from rig_messages import (
    CAMERAS,
    START,
    camera_info,
    compressed,
    ego_pose,
    image_stamps,
    set_stamp,
    static_transforms,
)
from tf2_msgs.msg import TFMessage

from sparse4d_ros.node import DetectorNode
from sparse4d_ros.online.statistics import Statistics

DEFAULTS = {"model": "demo", "allow_untrained": True, "look_ahead": "always"}


class WatchedPipeline:
    """Keeps the frames that the network is given and what it gives; holds it up while `free` is not set."""

    def __init__(self, pipeline):
        self._pipeline = pipeline
        self.frames, self.results = [], []
        self.free = threading.Event()
        self.free.set()

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def run(self, prepared, state=None):
        self.frames.append(prepared.frame)
        assert self.free.wait(PATIENCE)
        self.results.append(self._pipeline.run(prepared, state))
        return self.results[-1]

    @property
    def ids(self) -> list[set[int]]:
        """Instance ids of every result."""
        return [{int(i) for i in result.detections.ids if i >= 0} for result in self.results]


class Driver:
    """Owns a DetectorNode.

    Args:
        statistics: of the node.
        context: of rclpy; None: the default one.
        namespace: of the node.
        parameters: overrides of the node's.
    """

    def __init__(self, statistics: Statistics | None = None, context=None, namespace: str = "", **parameters):
        overrides = [Parameter(name, value=value) for name, value in (DEFAULTS | parameters).items()]
        self.node = DetectorNode(statistics, context=context, namespace=namespace, parameter_overrides=overrides)
        self.statistics = self.node.statistics

    def start(self, static: bool = True, infos: bool = True) -> Driver:
        """Configures, activates, and gives transforms and calibrations."""
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        if static:
            self.transforms(static_transforms(), static=True)
        self.activate(infos)
        return self

    def activate(self, infos: bool = True) -> None:
        """Activates, and gives calibrations."""
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        if infos:
            for camera in CAMERAS:
                self.info(camera, camera_info(camera, START))

    def watch(self) -> WatchedPipeline:
        """The node's pipeline, watched from here on."""
        self.node.processor.pipeline = WatchedPipeline(self.node.processor.pipeline)
        return self.node.processor.pipeline

    @property
    def waiting_stamp_ns(self) -> int | None:
        """Of the set that is ready for the network, which has another one."""
        waiting = self.node._worker._lookahead.waiting
        return None if waiting is None else waiting.stamp_ns

    def busy(self) -> WatchedPipeline:
        """The network has set 1 and keeps it until the pipeline's `free` is set; set 0 is done."""
        watched = self.watch()
        assert self.run(0) == "ok"
        watched.free.clear()
        self.feed(1)
        self.until(lambda: len(watched.frames) == 2)
        return watched

    def occupied(self) -> WatchedPipeline:
        """The same, and set 2 is prepared and waits for the network."""
        watched = self.busy()
        self.feed(2)
        self.until(lambda: self.waiting_stamp_ns == set_stamp(2))
        return watched

    @property
    def drops(self) -> dict[str, int]:
        """Cause -> sets."""
        return dict(self.statistics.dropped)

    @property
    def outcomes(self) -> int:
        """Sets of which something has become."""
        return self.statistics.processed + sum(self.drops.values())

    def transforms(self, message: TFMessage, static: bool = False) -> None:
        self.node.transform_intake.take(bytes(serialize_message(message)), static)

    def info(self, camera: str, message) -> None:
        self.node.camera_intake.take_info(camera, message)

    def image(self, camera: str, message) -> None:
        self.node.camera_intake.take_image(camera, bytes(serialize_message(message)))

    def feed(self, k: int, changes: dict | None = None, poses: bool = True, start_ns: int = START) -> None:
        """Set number k; `changes` replaces (None: leaves out) images of cameras."""
        changes = changes or {}
        for camera, stamp in image_stamps(k, start_ns).items():
            if poses:
                self.transforms(ego_pose(stamp))
            message = changes[camera] if camera in changes else compressed(camera, stamp)
            if message is not None:
                self.image(camera, message)

    def run(self, k: int, changes: dict | None = None, **arguments) -> str:
        """Feeds a set and waits for what becomes of it: "ok" or the cause of the drop."""
        before, drops = self.outcomes, self.drops
        self.feed(k, changes, **arguments)
        self.wait(before + 1)
        return next((cause for cause, n in self.drops.items() if n != drops.get(cause, 0)), "ok")

    def wait(self, outcomes: int) -> None:
        """Until so many sets had an outcome."""
        self.until(lambda: self.outcomes >= outcomes)

    def until(self, condition) -> None:
        """Until the condition holds; fails if it never does."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"still waiting; {self.statistics.processed} sets processed, {self.drops}"
            time.sleep(0.002)
