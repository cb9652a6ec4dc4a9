"""The threads that sets go through, one stage each, and what became of every set.

    synchronizer ─► prepare ─Lookahead─► network ─► publish ─► overlay
                    (decode,                        (messages)  (only the newest set, and only if somebody looks)
                     preprocess)

Neighbouring sets overlap: the rate is that of the slowest stage. The network gets sets in the order of their stamps,
one after another, so its memory advances as in a replay. A network that waits for the publisher holds at most one
result; nothing that it gave is lost.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rclpy.lifecycle import LifecycleNode

from sparse4d_core.inference.process_settings import limit_threads, release_unused_memory

from ..parameters import NodeParameters
from ..perception.set_processor import FrameDropped, PreparedSet, Processed, SetProcessor
from ..perception.synchronizer import SyncedSet, Synchronizer
from ..perception.transforms import TransformError
from .log_throttle import LogThrottle
from .lookahead import Lookahead, looks_ahead
from .niceness import be_nice
from .outputs import Outputs
from .overlay_painter import OverlayPainter
from .statistics import Statistics

WAIT_SECONDS = 0.1  # between two looks at whether to stop
RELEASE_SECONDS = 600.0  # from one release of unused memory to the next; each may cost a set


@dataclass
class SetInWork:
    """A set between the synchronizer and its outcome. Holds no message, so that images live no longer than needed."""

    begun: float  # of the statistics
    start: float  # s, performance counter
    arrived: float  # s, monotonic: its last image
    stamp_ns: int
    spread_ns: int
    ready: float = 0.0  # s, performance counter: prepared
    waited_ms: float = 0.0  # prepared, for the network
    prepared: PreparedSet | None = None  # until the network has run
    processed: Processed | None = None


class Worker:
    """Runs from its construction until `stop`, or until it gives up.

    Args:
        node: for its clock, its log, and to notice a shutdown.
        parameters: of the node.
        synchronizer: gives the sets.
        processor: runs them.
        outputs: publish what comes out.
        statistics, log: what became of each set.
        give_up: called with the reason, in a thread of the worker, after too many internal errors in a row.
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
        self._error_lock = threading.Lock()
        self._stop = threading.Event()
        self._ahead = looks_ahead(
            parameters.look_ahead, processor.on_gpu, parameters.torch_threads, parameters.decode_threads
        )
        self._lookahead: Lookahead[SetInWork] = Lookahead(self._ahead, replace=parameters.waiting_sets == 1)
        self._results: queue.Queue[SetInWork | None] = queue.Queue(1)
        self._painter = OverlayPainter(outputs.publish_overlay, statistics, log)
        stages = {
            "prepare": self._prepare_sets,
            "network": self._run_network,
            "publish": self._publish_results,
            "overlay": self._painter.run,
        }
        self._threads = [
            threading.Thread(target=self._run, args=(stage,), name=name, daemon=True) for name, stage in stages.items()
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when the set that the network has is published; sets behind it are given up."""
        self._end()
        for thread in self._threads:
            thread.join()

    def _end(self) -> None:
        """Nothing is begun any more. From any thread."""
        self._stop.set()
        left = self._lookahead.close()
        if left is not None:
            self._give_up_set(left)

    def _run(self, stage: Callable[[], None]) -> None:
        """A thread's life."""
        be_nice(self._parameters.worker_nice_increment, self._log)
        limit_threads(self._parameters.torch_threads)  # of each thread its own; as the model was warmed up
        stage()

    # ---------------------------------------------------------------------------------------------------- the stages

    def _prepare_sets(self) -> None:
        while not self._stop.is_set():
            # First a set, then the moment: what is taken is what waits at that moment.
            if self._synchronizer.wait(WAIT_SECONDS) and self._lookahead.wait_until_due():
                synced = self._synchronizer.take_next()
                if synced is not None:
                    self._prepare(synced)

    def _prepare(self, synced: SyncedSet) -> None:
        arrived = max(item.monotonic for _, item in synced.images.values())
        begun, start = self._statistics.begin_set(), time.perf_counter()
        work = SetInWork(begun, start, arrived, synced.stamp_ns, synced.spread_ns)
        with self._counting_losses(work):
            work.prepared = self._processor.prepare(synced)
            work.ready = time.perf_counter()
            left = self._lookahead.put(work, work.ready - work.start)
            if left is not None:
                self._give_up_set(left)

    def _run_network(self) -> None:
        while (work := self._lookahead.take()) is not None:
            with self._counting_losses(work):
                work.waited_ms = (time.perf_counter() - work.ready) * 1e3
                work.processed, work.prepared = self._processor.run(work.prepared), None
                self._results.put(work)
            if not self._ahead:  # decoding the next set would hold up the publishing of this one
                self._results.join()
            del work  # its images need not live until the next set comes
        self._results.put(None)

    def _publish_results(self) -> None:
        released = time.monotonic()
        while (work := self._results.get()) is not None:
            with self._counting_losses(work):
                self._publish(work)
            del work
            if time.monotonic() - released > RELEASE_SECONDS:  # here nothing waits for it but the next set
                release_unused_memory()
                released = time.monotonic()
            self._results.task_done()
        self._painter.stop()

    def _publish(self, work: SetInWork) -> None:
        processed = work.processed
        timings = self._outputs.publish(processed)
        self._painter.offer(processed)
        with self._error_lock:
            self._errors_in_a_row = 0
        if processed.reset:
            self._statistics.count_reset(processed.reset)
            self._node.get_logger().warning(f"memory cleared: {processed.reset}")
        self._statistics.count_processed(processed.timings_ms | timings | self._delays_ms(work), work.begun)

    def _delays_ms(self, work: SetInWork) -> dict[str, float]:
        """What a set took from its images to its messages."""
        return {
            "wait_for_network": work.waited_ms,
            "processing": (time.perf_counter() - work.start) * 1e3,
            "arrival_to_publish": (time.monotonic() - work.arrived) * 1e3,
            "stamp_to_publish": (self._node.get_clock().now().nanoseconds - work.stamp_ns) * 1e-6,
            "sync_spread": work.spread_ns * 1e-6,
        }

    # --------------------------------------------------------------------------------------- sets that give no output

    @contextmanager
    def _counting_losses(self, work: SetInWork) -> Iterator[None]:
        """The node lives on, whatever a set does in a stage."""
        try:
            yield
        except (FrameDropped, TransformError) as error:
            self._drop(error.cause, str(error), work)
        except Exception as error:
            self._on_internal_error(work, error)

    def _on_internal_error(self, work: SetInWork, error: Exception) -> None:
        if not self._node.context.ok():  # interrupted in between: the publishers are gone
            self._statistics.count_drop("shutdown", work.begun)
            self._end()
            return
        self._drop("internal_error", traceback.format_exc(), work)
        with self._error_lock:
            self._errors_in_a_row += 1
            too_many = self._errors_in_a_row == self._parameters.max_internal_errors and not self._stop.is_set()
        # A broken GPU context, say, fails every frame from then on, and only a new process helps.
        if too_many:
            self._end()
            self._give_up(f"{self._parameters.max_internal_errors} internal errors in a row, the last: {error!r}")

    def _give_up_set(self, work: SetInWork) -> None:
        """A prepared set that the network does not get."""
        if self._stop.is_set():
            self._statistics.count_drop("stopped", work.begun)
        else:
            self._drop("superseded", "a newer set was ready before the network was free", work)

    def _drop(self, cause: str, message: str, work: SetInWork) -> None:
        self._log.warning(cause, f"set dropped, {cause}: {message}")
        self._statistics.count_drop(cause, work.begun)  # whoever sees the count finds the reason in the log
