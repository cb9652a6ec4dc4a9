"""The live node: images, calibration and transforms in; detections and tracks out. No mathematics in here.

    subscriptions (executor thread, only store) ─► Synchronizer ─► Worker (a thread a stage): SetProcessor ─► Outputs

Managed (lifecycle) node: `configure` loads rig and model, `activate` subscribes to the images and starts the worker.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_srvs.srv import Trigger

from sparse4d_core.inference.process_settings import keep_freed_memory
from sparse4d_core.interrupts import StopRequest

from . import parameters
from .assembly import load_pipeline, make_frame_builder, make_synchronizer, other_outputs
from .messages.labels import to_label_info
from .messages.stamps import make_header
from .online import watch
from .online.diagnostics import to_diagnostics
from .online.health import ComponentHealth, Moment, SetCounts, keyed, recent
from .online.image_messages import image_deserializer
from .online.log_throttle import LogThrottle
from .online.niceness import started_threads_are_nice
from .online.operator_build import OperatorBuild
from .online.outputs import Outputs
from .online.statistics import Snapshot, Statistics
from .online.subscriptions import CameraIntake, TransformIntake
from .online.watch import Watch
from .online.worker import Worker
from .perception.rig import Rig, load_rig
from .perception.set_processor import SetProcessor
from .perception.synchronizer import Synchronizer
from .perception.transforms import TransformBuffer
from .ros_arguments import split_ros_arguments

NODE_NAME = "sparse4d"
SIGNALS_SEEN = 0.1  # s; while rclpy waits for messages, Python does not handle a signal
KERNEL_BACKENDS = ("torch", "aoti")  # those that call the operator's kernels; the others bring their own, or have none
SWITCH_INTERVAL = 0.001  # s; Python's 5 ms would let the worker hold up the callbacks


class DetectorNode(LifecycleNode):
    """See the module.

    Args:
        statistics: counters to use; benchmarks give their own.
        node_arguments: of rclpy's LifecycleNode.
    """

    def __init__(self, statistics: Statistics | None = None, **node_arguments):
        super().__init__(NODE_NAME, **node_arguments)
        self._values: parameters.NodeParameters | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        parameters.declare(self)
        self.statistics = statistics or Statistics()
        self.exit_status = 0  # of a program that runs this node
        self.takes_long = False  # it builds, loads or compiles: a program that is to end need not wait for that
        self._log = LogThrottle(self.get_logger(), alive=self.context.ok)
        self._gave_up: str | None = None
        self._give_up_signal = self.create_guard_condition(self._on_give_up)
        self._forget_configuration()
        self._reset_service = self.create_service(Trigger, "~/reset", self._on_reset)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def _forget_configuration(self) -> None:
        self._values = None
        self._rig: Rig | None = None
        self._operator: OperatorBuild | None = None
        self.processor: SetProcessor | None = None
        self.outputs: Outputs | None = None
        self.transform_intake: TransformIntake | None = None
        self._diagnostics_timer = None
        self._epoch = 0  # the synchronizer's last: a jump of time is no news to the next activation
        self._forget_activation()

    def _forget_activation(self) -> None:
        self.synchronizer: Synchronizer | None = None
        self.camera_intake: CameraIntake | None = None
        self._worker: Worker | None = None
        self._watch: Watch | None = None
        self._watch_timer = None
        self._at_activation: Snapshot | None = None  # the counters, which are those of the node's whole life

    # ------------------------------------------------------------------------------------------------------ lifecycle

    def on_configure(self, state) -> TransitionCallbackReturn:
        """Loads rig and model. Whatever is wrong with them is logged, and the node stays unconfigured."""
        try:
            values = parameters.read(self)
            parameters.check_together(values)
            self._rig = load_rig(values.rig).with_topics(self._expand_topic)
            buffer = TransformBuffer(values.tf_cache)
            self._operator = OperatorBuild(values.device, self.get_logger(), self._publish_components)
            self.processor = self._load(values, buffer)
            config = self.processor.pipeline.config
            header = make_header(self._rig.frames.base_frame, self.get_clock().now().nanoseconds)
            labels = to_label_info(config.class_names, config.tracking_threshold, header)
            self.outputs = Outputs(self, self._rig.frames, buffer, values.first_id, labels, other_outputs(values))
            self.transform_intake = TransformIntake(self, self._rig.frames, buffer, self.statistics, self._log)
        except Exception as error:  # a file, a device, a checkpoint: the process lives on
            self.get_logger().error(f"configure failed: {error or type(error).__name__}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._diagnostics_timer = self._create_timer(values.diagnostics_period, self._publish_diagnostics)
        self._values = values
        return super().on_configure(state)

    def on_activate(self, state) -> TransitionCallbackReturn:
        """Subscribes to the images and starts the worker."""
        values, rig, log = self._values, self._rig, self._log
        self._gave_up = None
        self.synchronizer = make_synchronizer(values, rig, self._epoch)
        try:
            self.camera_intake = CameraIntake(self, rig, values, self.synchronizer, self.statistics, log)
        except Exception as error:  # an override of the quality of service that cannot be
            self.get_logger().error(f"activate failed: {error}")
            self._forget_activation()
            return TransitionCallbackReturn.FAILURE
        self._worker = Worker(
            self, values, self.synchronizer, self.processor, self.outputs, self.statistics, log, self._give_up
        )
        self._at_activation = self.statistics.snapshot(percentiles=False)
        self._watch = Watch(rig, log)
        self.look_after_losses()
        self._watch_timer = self._create_timer(watch.PERIOD, self.look_after_losses)
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
        """Configures and activates, if the parameter asks for it; a failure leaves the node unconfigured."""
        if not self.get_parameter("autostart").value:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _give_up(self, reason: str) -> None:
        """In a thread of the worker, which cannot end itself."""
        self._gave_up = reason
        self._give_up_signal.trigger()

    def _on_give_up(self) -> None:
        """In the executor's thread."""
        self.get_logger().fatal(f"{self._values.after_internal_errors}: {self._gave_up}")
        if self._values.after_internal_errors == "deactivate":
            self.trigger_deactivate()
        else:
            self.exit_status = 1
            self.executor.shutdown(timeout_sec=0.0)

    def close(self) -> None:
        """Ends worker and node."""
        self._release()
        self.destroy_node()

    def _expand_topic(self, topic: str) -> str:
        return expand_topic_name(topic, self.get_name(), self.get_namespace())

    def _create_timer(self, period: float, callback: Callable[[], None]):
        """On a steady clock: it goes on where /clock stands still."""
        return self.create_timer(
            period, lambda: self._without_failing(callback), clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def _without_failing(self, look: Callable[[], None]) -> None:
        """An error while the node looks at itself costs that look, not the node."""
        try:
            look()
        except Exception:
            self._log.warning("look", f"the node cannot look after itself: {traceback.format_exc()}")

    def _stop_intake(self) -> None:
        if self.camera_intake is not None:
            self.camera_intake.destroy()
        if self._watch_timer is not None:
            self.destroy_timer(self._watch_timer)
        if self._worker is not None:
            self._worker.stop()
            self._epoch = self.synchronizer.epoch
            self._log_summary()
            if self.context.ok():
                self._without_failing(self._publish_diagnostics)
        self._forget_activation()

    def _log_summary(self) -> None:
        """Last words of an activation."""
        counts, before = self.statistics.snapshot(percentiles=False), self._at_activation
        dropped = ", ".join(f"{cause} {n}" for cause, n in sorted(recent(counts.dropped, before.dropped).items()))
        images = ", ".join(f"{cause} {n}" for cause, n in sorted(self.synchronizer.drops.items()) if n) or "none"
        # Not the node's own logger, which writes to /rosout as well: that may be gone by now.
        summary = rclpy.logging.get_logger(f"{self.get_logger().name}.summary")
        processed = counts.processed - before.processed
        summary.info(f"{processed} sets processed; sets dropped: {dropped or 'none'}; images dropped before: {images}")

    def _release(self) -> None:
        self._stop_intake()
        if self.transform_intake is not None:
            self.transform_intake.destroy()
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
        if self.outputs is not None:
            self.outputs.destroy()
        if self.processor is not None:
            self.processor.close()
        self._forget_configuration()

    def _load(self, values: parameters.NodeParameters, buffer: TransformBuffer) -> SetProcessor:
        """Builds the operator, if it is to be built, and loads the model, which may compile it."""
        self.takes_long = True
        try:
            self._operator.prepare(values.build_operator and values.backend in KERNEL_BACKENDS)
            return self._load_processor(values, buffer)
        finally:
            self.takes_long = False

    def _load_processor(self, values: parameters.NodeParameters, buffer: TransformBuffer) -> SetProcessor:
        with started_threads_are_nice(values.worker_nice_increment, self._log):  # they will run the model
            pipeline = load_pipeline(values, self._rig)
        log = self.get_logger()
        weights = (values.checkpoint or "by name") if pipeline.trained else "random"
        if pipeline.artefact is not None:
            weights = f"of {values.artefact}" if pipeline.trained else "random"
        log.info(f"model {values.model} on {values.device}, {pipeline.precision}; weights: {weights}")
        log.info(f"backend: {pipeline.backend}")
        log.info(f"scene reset: {values.scene_reset}")
        if not pipeline.trained:
            log.warning(f"model {values.model}: the weights are UNTRAINED (random), as allow_untrained permits")
        if not pipeline.config.tracking:
            log.info(f"model {values.model} gives no ids: ~/tracks stays empty, markers and overlay show detections")
        builder = make_frame_builder(
            values,
            self._rig,
            buffer,
            tf_timeout=values.tf_timeout,
            to_message=image_deserializer(self._rig),
        )
        return SetProcessor(pipeline, builder)

    # -------------------------------------------------------------------------------- services, parameters, diagnostics

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self.processor is not None
        response.message = "instances are forgotten before the next set" if response.success else "not configured"
        if response.success:
            self.processor.request_reset("asked for")
        return response

    def _on_parameters(self, changes):
        return parameters.check(changes, self._values, configured=self._values is not None)

    def _moment(self, percentiles: bool = True) -> Moment:
        """The counters now."""
        counts = self.statistics.snapshot(percentiles)
        if self.synchronizer is None:
            return Moment(counts, gave_up=self._gave_up)
        intake = self.camera_intake
        return Moment(
            counts,
            self._at_activation.moment,
            SetCounts.of(self.synchronizer),
            intake.camera_status(),
            intake.uncalibrated,
        )

    def look_after_losses(self) -> None:
        """Once a second: logs what was lost since the last time, and remembers the counters."""
        self.camera_intake.look_for_silence()
        self._watch.look(self._moment(percentiles=False))

    def health(self) -> list[ComponentHealth]:
        """How the node is, by component; it must be configured."""
        values, pipeline = self._values, self.processor.pipeline
        facts = {
            "model": values.model,
            "weights": "trained" if pipeline.trained else "untrained",
            "track_ids": "yes" if pipeline.config.tracking else "no (a model of v1 or v2)",
            "scene_reset": values.scene_reset,
            "precision": pipeline.precision,
            "backend": pipeline.backend,
            "memory_mib": _memory_mib(),
        } | keyed("subscribers", self.outputs.subscribers())
        verdicts = (self._watch or Watch(self._rig, self._log)).health(self._moment(), facts)
        if pipeline.artefact is not None:  # it takes no PyTorch path, and was refused if it lacks its operator
            return verdicts
        return [*verdicts, self._operator.health()]

    def _publish_diagnostics(self) -> None:
        self._publish_components(self.health())

    def _publish_components(self, components: Sequence[ComponentHealth]) -> None:
        name = self.get_fully_qualified_name().lstrip("/")
        header = make_header("", self.get_clock().now().nanoseconds)
        device = self.get_parameter("device").value
        self._diagnostics.publish(to_diagnostics(components, name, device, header))


def _memory_mib() -> int | str:
    """Resident; a word where the system does not tell, as when no file can be opened any more."""
    try:
        return round(psutil.Process().memory_info().rss / 2**20)
    except (OSError, psutil.Error):
        return "unknown"


def check_arguments(arguments: Sequence[str]) -> None:
    """The command line without its ROS arguments: nothing but --help."""
    argparse.ArgumentParser(
        "python -m sparse4d_ros.node",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Camera images, calibration and transforms in; 3D detections and tracks out.",
        epilog="example, without a launch system:\n"
        "  python -m sparse4d_ros.node --ros-args --params-file config/detector.yaml -p model:=v3_r50 "
        "-p checkpoint:=sparse4dv3_r50.pth\n\nParameters with their ranges: ros2 param describe /sparse4d <name>, "
        "or sparse4d_ros/parameters.py.",
    ).parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the node until it is interrupted; returns the exit status.

    2: a parameter was refused. 1: it gave up after internal errors, if after_internal_errors is exit. 0: otherwise.
    """
    words, own = split_ros_arguments(arguments)
    check_arguments(own)
    sys.setswitchinterval(SWITCH_INTERVAL)
    keep_freed_memory()
    rclpy.init(args=words, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    try:
        node = DetectorNode()
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger(NODE_NAME).fatal(f"parameter refused: {error}")
        rclpy.try_shutdown()
        return 2
    stop = StopRequest()

    def end(*_: object) -> None:
        """Between two callbacks, the context still valid: rclpy's native code does not hand on what is raised in the
        middle of a message, and its own handlers take the context away while the executor and the log still use it."""
        stop.requested = True
        if node.takes_long:
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.autostart()
        while not (stop.requested or node.exit_status):
            executor.spin_once(timeout_sec=SIGNALS_SEEN)
    except KeyboardInterrupt:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()
    return node.exit_status


if __name__ == "__main__":
    sys.exit(main())
