"""The node as a process, live camera streams for it, and an observer: what a campaign works on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter

from ..demo.node_run import READY_SECONDS
from ..demo.programs import Processes
from ..middleware import variables
from ..perception.rig import Rig
from ..ros_arguments import parameter_words
from ..units import nanoseconds
from .observer import Observer
from .streams import CameraStreams

SERVICE_SECONDS = 60.0  # configure loads the model
DETECTOR = "/sparse4d"


class CampaignError(RuntimeError):
    """The system did not come up, or does not answer."""


class RunningSystem:
    """A context manager; owns rclpy's default context meanwhile.

    Args:
        folder: of logs and whatever faults leave.
        domain: ROS domain of all processes.
        rig, rate, size_wh: of the camera streams.
        parameters: of the node.
        large: with the transport profile for raw images.

    Attributes:
        streams, observer, node: the cameras, what is seen of the detector, and a ROS node of the campaign's own.
        process: the detector; it may be another one after a restart.
    """

    def __init__(
        self,
        folder: Path,
        domain: int,
        rig: Rig,
        rate: float,
        size_wh: tuple[int, int],
        parameters: Mapping[str, Any],
        large: bool = False,
    ):
        self.folder, self.rig, self.size_wh = folder, rig, size_wh
        self._rate, self._parameters = rate, parameters
        folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(folder, domain, large)
        self._started = 0
        self._stack = contextlib.ExitStack()
        self._node_stack = contextlib.ExitStack()

    def __enter__(self) -> RunningSystem:
        with contextlib.ExitStack() as stack:
            stack.enter_context(variables(self.processes.middleware))
            rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
            stack.callback(rclpy.try_shutdown)
            self.node = rclpy.create_node("campaign")
            self.observer = Observer(self.node, DETECTOR)
            self._executor = SingleThreadedExecutor()
            self._executor.add_node(self.node)
            thread = threading.Thread(target=self._spin, name="campaign", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._executor.shutdown)
            self.streams = CameraStreams(self.node, self.rig, self._rate, self.size_wh)
            stack.callback(self.streams.close)
            stack.callback(self._end_node)
            self.start_node()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    # ------------------------------------------------------------------------------------------------------------ node

    def start_node(self) -> None:
        """A detector process; returns when it gives output.

        Raises:
            CampaignError: it does not.
        """
        self.observer.forget()
        self._started += 1
        words = ["--ros-args", *parameter_words({"autostart": True, **self._parameters})]
        background = self.processes.background(f"node_{self._started}", "sparse4d_ros.node", *words)
        self._node_stack = contextlib.ExitStack()
        self.process: subprocess.Popen = self._node_stack.enter_context(background)
        self.wait_for_output(READY_SECONDS)

    def end_node(self, how: signal.Signals) -> int:
        """Sends a signal, and returns the exit status."""
        self.process.send_signal(how)
        try:
            status = self.process.wait(SERVICE_SECONDS)
        except subprocess.TimeoutExpired:
            raise CampaignError(f"the node did not end after {how.name}") from None
        self._end_node()
        return status

    def restart(self) -> None:
        """Another process, whatever has become of this one."""
        self._end_node()
        self.start_node()

    def _end_node(self) -> None:
        self._node_stack.close()

    @property
    def alive(self) -> bool:
        """Whether the detector's process runs."""
        return self.process.poll() is None

    def log(self) -> str:
        """Output of the detector's processes, all of them."""
        return "".join(
            self.processes.log_of(f"node_{k}").read_text(errors="replace") for k in range(1, self._started + 1)
        )

    def wait_for_output(self, seconds: float) -> float:
        """Until there is a result of images that are taken from now on; how many seconds that took.

        Raises:
            CampaignError: the node has ended, or none came.
        """
        start, now_ns = time.monotonic(), time.time_ns()
        end_ns = now_ns + nanoseconds(2 * seconds)  # what a fault has stamped is of another time
        there = self.observer.wait_for(
            lambda: not self.alive or self.observer.is_there_output(start, now_ns, end_ns), seconds
        )
        if not self.alive:
            raise CampaignError(f"the node ended with status {self.process.poll()}")
        if not there:
            raise CampaignError(f"no output within {seconds:.0f} s; the diagnostics: {self.observer.text()}")
        return time.monotonic() - start

    # -------------------------------------------------------------------------------------------------------- services

    def call(self, kind: type, name: str, request: Any) -> Any:
        """A service of the detector.

        Raises:
            CampaignError: it does not answer.
        """
        client = self.node.create_client(kind, f"{DETECTOR}/{name}")
        try:
            answered = threading.Event()
            if not client.wait_for_service(SERVICE_SECONDS):
                raise CampaignError(f"service {name} is not there")
            future = client.call_async(request)
            future.add_done_callback(lambda _: answered.set())
            if not answered.wait(SERVICE_SECONDS):
                raise CampaignError(f"service {name} does not answer")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def change_state(self, transition: int) -> bool:
        """A transition of lifecycle_msgs/Transition; whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, "change_state", request).success

    def set_parameter(self, name: str, value: Any) -> tuple[bool, str]:
        """Whether the node took it, and why not."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        result = self.call(SetParameters, "set_parameters", request).results[0]
        return result.successful, result.reason
