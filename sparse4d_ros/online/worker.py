"""The thread that takes sets, runs them through the model, publishes what comes out, and counts what became of each."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode

from sparse4d_core.inference.process_settings import limit_threads

from ..parameters import NodeParameters
from ..perception.set_processor import FrameDropped, SetProcessor
from ..perception.synchronizer import SyncedSet, Synchronizer
from ..perception.transforms import TransformError
from .log_throttle import LogThrottle
from .outputs import Outputs
from .statistics import Statistics

WAIT_SECONDS = 0.1  # between two looks at whether to stop


class Worker:
    """Runs from its construction until `stop`, or until it gives up.

    Args:
        node: for its clock, its log, and to notice a shutdown.
        parameters: of the node.
        synchronizer: gives the sets.
        processor: runs them.
        outputs: publish what comes out.
        statistics, log: what became of each set.
        give_up: called with the reason, in the worker's thread, after too many internal errors in a row.
    """

    def __init__(
        self,
        node: LifecycleNode,
        parameters: NodeParameters,
        synchronizer: Synchronizer,
        processor: SetProcessor,
        outputs: Outputs,
        statistics: Statistics,
        log: LogThrottle,
        give_up: Callable[[str], None],
    ):
        self._node, self._parameters = node, parameters
        self._synchronizer, self._processor, self._outputs = synchronizer, processor, outputs
        self._statistics, self._log, self._give_up = statistics, log, give_up
        self._errors_in_a_row = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the set in work is done."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        self._be_nice(self._parameters.worker_nice_increment)
        limit_threads(self._parameters.torch_threads)
        while not self._stop.is_set():
            if self._synchronizer.wait(WAIT_SECONDS) and (synced := self._synchronizer.take_newest()) is not None:
                self._process(synced)

    def _be_nice(self, increment: int) -> None:
        """Raises this thread's niceness, and with it that of the threads that it will start."""
        if increment == 0:
            return  # whatever the process was started with, by `nice` or systemd, stays
        thread = threading.get_native_id()
        try:
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + increment)
        except OSError as error:
            self._node.get_logger().warning(f"worker_nice_increment: {increment} had no effect: {error.strerror}")

    def _process(self, synced: SyncedSet) -> None:
        self._statistics.begin_set()
        start = time.perf_counter()
        try:
            processed = self._processor.process(synced)
            timings = self._outputs.publish(processed)
        except (FrameDropped, TransformError) as error:
            self._drop(error.cause, str(error))
        except Exception as error:  # the node lives on, whatever a frame does
            self._on_internal_error(error)
        else:
            self._errors_in_a_row = 0
            if processed.reset:
                self._statistics.count_reset(processed.reset)
                self._node.get_logger().warning(f"memory cleared: {processed.reset}")
            timings["processing"] = (time.perf_counter() - start) * 1e3
            self._statistics.count_processed(processed.timings_ms | timings | self._delays_ms(synced))

    def _on_internal_error(self, error: Exception) -> None:
        if not self._node.context.ok():  # interrupted in between: the publishers are gone
            self._statistics.count_drop("shutdown")
            self._stop.set()
            return
        self._drop("internal_error", traceback.format_exc())
        self._errors_in_a_row += 1
        # A broken GPU context, say, fails every frame from then on, and only a new process helps.
        if self._errors_in_a_row == self._parameters.max_internal_errors:
            self._stop.set()
            self._give_up(f"{self._errors_in_a_row} internal errors in a row, the last: {error!r}")

    def _delays_ms(self, synced: SyncedSet) -> dict[str, float]:
        """What a set took from its images to its messages."""
        arrived = max(item.monotonic for _, item in synced.images.values())
        return {
            "arrival_to_publish": (time.monotonic() - arrived) * 1e3,
            "stamp_to_publish": (self._node.get_clock().now().nanoseconds - synced.stamp_ns) * 1e-6,
            "sync_spread": synced.spread_ns * 1e-6,
        }

    def _drop(self, cause: str, message: str) -> None:
        self._statistics.count_drop(cause)
        self._log.warning(cause, f"set dropped, {cause}: {message}")
