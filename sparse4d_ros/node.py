"""The live node: images, calibration and transforms in; detections and tracks out. No mathematics in here.

    subscriptions (executor thread, only store) ─► Synchronizer ─► worker thread: Detector ─► Outputs

Managed (lifecycle) node: `configure` loads rig and model, `activate` subscribes to the images and starts the worker.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.process_settings import keep_freed_memory
from sparse4d_core.inference.threads import limit_threads

from . import parameters
from .messages.conversions import insert_transforms, make_header, ns_from_stamp
from .messages.diagnostics import Statistics, diagnostics_message
from .messages.outputs import Outputs
from .perception.frame_builder import FrameBuilder
from .perception.rig import Rig, load_rig
from .perception.serialized import stamp_of_serialized
from .perception.set_processor import Detector, FrameDropped
from .perception.synchronizer import SyncedSet, Synchronizer
from .perception.transforms import TransformBuffer, TransformError

NODE_NAME = "sparse4d"
NANOSECONDS = 1_000_000_000
MAX_BACKWARD_NS = NANOSECONDS // 2  # further back than this is a jump of time, not a message out of order
WORKER_WAIT = 0.1  # s between two looks at whether to stop
SWITCH_INTERVAL = 0.001  # s; Python's 5 ms would let the worker hold up the callbacks
TF_QUEUE_DEPTH = 100


class Arrival(NamedTuple):
    """A serialized image and when it came in."""

    data: bytes
    monotonic: float  # s


class DetectorNode(LifecycleNode):
    """See the module."""

    def __init__(self, **node_arguments):
        super().__init__(NODE_NAME, **node_arguments)
        self._values: parameters.NodeParameters | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        parameters.declare(self)
        self._statistics = Statistics()
        self._stop = threading.Event()
        self._forget_configuration()
        self._reset_service = self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def _forget_configuration(self) -> None:
        self._values = None
        self._rig: Rig | None = None
        self._buffer: TransformBuffer | None = None
        self._detector: Detector | None = None
        self._outputs: Outputs | None = None
        self._synchronizer: Synchronizer | None = None
        self._worker: threading.Thread | None = None
        self._tf_subscriptions: list = []
        self._image_subscriptions: list = []
        self._diagnostics_timer = None

    # ------------------------------------------------------------------------------------------------------ lifecycle

    def on_configure(self, state) -> TransitionCallbackReturn:
        """Loads rig and model. Whatever is wrong with them is said, and the node stays unconfigured."""
        try:
            values = parameters.read(self)
            parameters.check_together(values)
            self._rig = load_rig(values.rig or default_rig())
            self._detector = self._load_detector(values)
        except Exception as error:  # a file, a device, a checkpoint: the process lives on
            self.get_logger().error(f"configure failed: {error or type(error).__name__}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._outputs = Outputs(self, self._rig.frames, self._buffer)
        self._tf_subscriptions = self._subscribe_transforms()
        wall_time = Clock(clock_type=ClockType.STEADY_TIME)  # diagnostics go on where /clock stands still
        self._diagnostics_timer = self.create_timer(
            values.diagnostics_period, self._publish_diagnostics, clock=wall_time
        )
        self._values = values
        return super().on_configure(state)

    def on_activate(self, state) -> TransitionCallbackReturn:
        """Subscribes to the images and starts the worker."""
        values, rig = self._values, self._rig
        self._synchronizer = Synchronizer(
            rig.names,
            slop_ns=round(values.sync_slop * NANOSECONDS),
            timeout_ns=round(values.sync_timeout * NANOSECONDS),
            missing=values.missing_camera,
            max_backward_ns=MAX_BACKWARD_NS,
        )
        self._stop.clear()
        self._worker = threading.Thread(target=self._work, args=(self._synchronizer,), name="worker", daemon=True)
        self._worker.start()
        self._image_subscriptions = self._subscribe_cameras()
        self.get_logger().info(f"active: {len(rig.names)} cameras, boxes in frame {rig.frames.base_frame}")
        return super().on_activate(state)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        """Stops the worker; model and transforms stay. The last diagnostics message has the final counts."""
        self._stop_intake()
        return super().on_deactivate(state)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        """Back to what the constructor left."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state) -> TransitionCallbackReturn:
        """After an error in a transition: free everything, start over from unconfigured."""
        self.get_logger().error("a transition failed; the node is unconfigured")
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def autostart(self) -> None:
        """Configures and activates, if the parameter says so; a failure leaves the node unconfigured."""
        if not self.get_parameter("autostart").value:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Ends worker and node."""
        self._release()
        self.destroy_node()

    def _stop_intake(self) -> None:
        for subscription in self._image_subscriptions:
            self.destroy_subscription(subscription)
        self._image_subscriptions = []
        self._stop.set()
        if self._worker is not None:
            self._worker.join()
            self._say_counts()
        self._worker = self._synchronizer = None

    def _say_counts(self) -> None:
        """Last words of an activation: a summary in the log, and diagnostics while there is somebody to tell."""
        dropped = ", ".join(f"{cause} {n}" for cause, n in sorted(self._statistics.dropped.items())) or "none"
        images = ", ".join(f"{cause} {n}" for cause, n in sorted(self._synchronizer.drops.items()) if n) or "none"
        summary = rclpy.logging.get_logger(f"{NODE_NAME}.summary")  # not on /rosout, which may be gone by now
        summary.info(
            f"{self._statistics.processed} sets processed; sets dropped: {dropped}; images dropped before: {images}"
        )
        if self.context.ok():
            self._publish_diagnostics()

    def _release(self) -> None:
        self._stop_intake()
        for subscription in self._tf_subscriptions:
            self.destroy_subscription(subscription)
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
        if self._outputs is not None:
            self._outputs.destroy()
        if self._detector is not None:
            self._detector.close()
        self._forget_configuration()

    def _load_detector(self, values: parameters.NodeParameters) -> Detector:
        pipeline = Pipeline.from_preset(
            values.model,
            values.checkpoint or None,
            device=values.device,
            precision=values.precision,
            compile=values.compile,
            scene_reset=values.scene_reset,
            temporal_stride=values.temporal_stride,
            allow_untrained=values.allow_untrained,
            resize=values.resize,
        )
        pipeline.check_cameras(len(self._rig.cameras))
        log = self.get_logger()
        weights = (values.checkpoint or "by name") if pipeline.trained else "random"
        log.info(f"model {values.model} on {values.device}, {values.precision}; weights: {weights}")
        log.info(f"scene reset: {values.scene_reset}")
        if not pipeline.trained:
            log.warning(f"model {values.model}: the weights are UNTRAINED (random), as allow_untrained permits")
        if not pipeline.config.tracking:
            log.info(f"model {values.model} gives no ids: ~/tracks stays empty, markers and overlay show detections")
        self._buffer = TransformBuffer(values.tf_cache)
        message_types = {
            camera.name: CompressedImage if camera.transport == "compressed" else Image for camera in self._rig.cameras
        }
        builder = FrameBuilder(
            self._rig.frames,
            self._buffer,
            distortion=values.distortion,
            tf_timeout=values.tf_timeout,
            max_field_of_view=values.fisheye_field_of_view,
            reduced_for=pipeline.config.image if values.reduced_decoding else None,
            decode_threads=values.decode_threads,
            to_message=lambda camera, arrival: deserialize_message(arrival.data, message_types[camera]),
        )
        return Detector(pipeline, builder)

    # --------------------------------------------------------------------------------------------------------- intake

    def _subscribe_transforms(self) -> list:
        static = QoSProfile(depth=TF_QUEUE_DEPTH, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return [
            self.create_subscription(TFMessage, "/tf_static", partial(self._on_transforms, static=True), static),
            self.create_subscription(TFMessage, "/tf", partial(self._on_transforms, static=False), TF_QUEUE_DEPTH),
        ]

    def _subscribe_cameras(self) -> list:
        """CameraInfo first: where both are waiting, the executor then takes the calibration before the image."""
        values = self._values
        quality = QoSProfile(
            depth=values.image_queue_depth, reliability=ReliabilityPolicy[values.image_reliability.upper()]
        )
        infos = [
            self.create_subscription(CameraInfo, camera.info_topic, partial(self._on_info, camera.name), quality)
            for camera in self._rig.cameras
        ]
        images = [
            self.create_subscription(
                CompressedImage if camera.transport == "compressed" else Image,
                camera.image_topic,
                partial(self._on_image, camera.name),
                quality,
                raw=True,
            )
            for camera in self._rig.cameras
        ]
        return infos + images

    def _on_image(self, camera: str, data: bytes) -> None:
        """Stores a serialized image; the worker looks inside."""
        start = time.perf_counter()
        stamp_ns = stamp_of_serialized(data)
        if stamp_ns <= 0:
            self._statistics.count_rejected("stamp")
            self._warn("stamp", f"camera {camera}: image without a stamp; expected the time of exposure")
            return
        self._statistics.measure("stamp_to_arrival", (self.get_clock().now().nanoseconds - stamp_ns) * 1e-6)
        cause = self._synchronizer.add_image(camera, stamp_ns, Arrival(data, time.monotonic()))
        self._statistics.measure("intake", (time.perf_counter() - start) * 1e3)
        if cause is not None:
            self._warn(f"{camera} {cause}", f"camera {camera}: image of {stamp_ns} ns dropped: {cause}")

    def _on_info(self, camera: str, info: CameraInfo) -> None:
        self._synchronizer.add_info(camera, info, ns_from_stamp(info.header.stamp))

    def _on_transforms(self, message: TFMessage, static: bool) -> None:
        start = time.perf_counter()
        try:
            if not static and self._time_jumped(message):
                self._buffer.clear()
                self._statistics.count_reset("transforms jumped back in time")
                self.get_logger().warning("/tf jumped back in time: older transforms are forgotten")
            insert_transforms(self._buffer, message, static)
        except TransformError as error:
            self._statistics.count_rejected(f"tf_{error.kind}")
            self._warn(f"tf_{error.kind}", str(error))
        self._statistics.measure("intake", (time.perf_counter() - start) * 1e3)

    def _time_jumped(self, message: TFMessage) -> bool:
        for transform in message.transforms:
            newest = self._buffer.newest_ns(transform.child_frame_id)
            if newest is not None and ns_from_stamp(transform.header.stamp) < newest - MAX_BACKWARD_NS:
                return True
        return False

    # --------------------------------------------------------------------------------------------------------- worker

    def _work(self, synchronizer: Synchronizer) -> None:
        """Runs sets through the model until told to stop."""
        values = self._values
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), values.worker_niceness)
        limit_threads(values.torch_threads)
        while not self._stop.is_set():
            if synchronizer.wait(WORKER_WAIT) and (synced := synchronizer.take_newest()) is not None:
                self._process(synced)

    def _process(self, synced: SyncedSet) -> None:
        try:
            processed = self._detector.process(synced)
            timings = self._outputs.publish(processed)
        except FrameDropped as error:
            self._drop(error.cause, str(error))
        except TransformError as error:
            self._drop(f"tf_{error.kind}", str(error))
        except Exception:  # the node lives on, whatever a frame does
            self._drop("internal_error", traceback.format_exc())
        else:
            if processed.reset:
                self._statistics.count_reset(processed.reset)
                self.get_logger().warning(f"memory cleared: {processed.reset}")
            arrived = max(item.monotonic for _, item in synced.images.values())
            timings["arrival_to_publish"] = (time.monotonic() - arrived) * 1e3
            timings["stamp_to_publish"] = (self.get_clock().now().nanoseconds - synced.stamp_ns) * 1e-6
            timings["sync_spread"] = synced.spread_ns * 1e-6
            self._statistics.count_processed(processed.timings_ms | timings)

    def _drop(self, cause: str, message: str) -> None:
        self._statistics.count_drop(cause)
        self._warn(cause, f"set dropped, {cause}: {message}")

    def _warn(self, cause: str, message: str) -> None:
        if self._statistics.is_worth_logging(cause):
            self.get_logger().warning(message)

    # -------------------------------------------------------------------------------- services, parameters, diagnostics

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._detector is not None
        response.message = "instances are forgotten before the next set" if response.success else "not configured"
        if response.success:
            self._detector.request_reset("asked for")
        return response

    def _on_parameters(self, changes):
        return parameters.check(changes, self._values, configured=self._values is not None)

    def _publish_diagnostics(self) -> None:
        values, pipeline = self._values, self._detector.pipeline
        facts = {
            "model": values.model,
            "weights": "trained" if pipeline.trained else "untrained",
            "track_ids": "yes" if pipeline.config.tracking else "no (a model of v1 or v2)",
            "scene_reset": values.scene_reset,
            "precision": values.precision,
        }
        header = make_header("", self.get_clock().now().nanoseconds)
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(
            diagnostics_message(header, name, values.device, facts, self._statistics, self._synchronizer)
        )


def default_rig() -> Path:
    """The nuScenes rig: beside the sources, or where the package is installed."""
    beside = Path(__file__).resolve().parents[1] / "config" / "nuscenes_rig.yaml"
    if beside.is_file():
        return beside
    from ament_index_python.packages import get_package_share_directory  # only installed packages need the index

    return Path(get_package_share_directory("sparse4d_ros")) / "config" / "nuscenes_rig.yaml"


def main(arguments: list[str] | None = None) -> int:
    """Runs the node until it is interrupted."""
    arguments = sys.argv if arguments is None else arguments
    argparse.ArgumentParser(
        "python -m sparse4d_ros.node",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Camera images, calibration and transforms in; 3D detections and tracks out.",
        epilog="example, without a launch system:\n"
        "  python -m sparse4d_ros.node --ros-args --params-file config/detector.yaml -p model:=v3_r50 "
        "-p checkpoint:=sparse4dv3_r50.pth\n\nParameters with their ranges: ros2 param describe /sparse4d <name>, "
        "or sparse4d_ros/parameters.py.",
    ).parse_args(rclpy.utilities.remove_ros_args(arguments)[1:])
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_freed_memory()
    rclpy.init(args=arguments)
    try:
        node = DetectorNode()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger(NODE_NAME).fatal(f"parameter refused: {error}")
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal and the launch system both send it
        node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
