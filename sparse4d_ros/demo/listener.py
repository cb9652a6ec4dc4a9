"""Listens to a detector's diagnostics from the outside, as a monitoring tool would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from ..bags.message_records import RECORDED

LOOKS_EVERY = 1.0  # s without a message


class DiagnosticsListener:
    """Keeps the newest status of every component. A context manager; owns rclpy's default context meanwhile."""

    def __init__(self, detector: str = "sparse4d"):
        self._prefix = f"{detector}: "
        self._statuses: dict[str, dict[str, str]] = {}
        self._news = threading.Condition()

    def __enter__(self) -> DiagnosticsListener:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
        self._node = rclpy.create_node("demo_listener")
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._store, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="diagnostics", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait_until_recorded(self, seconds: float) -> bool:
        """True as soon as the detector is configured and has met a subscriber of every topic that a record holds: it
        does not publish what nobody has subscribed to, and a recorder that runs need not be known to it yet."""
        with self._news:
            return self._news.wait_for(self._recorded, seconds)

    def _recorded(self) -> bool:
        inference = self._statuses.get("inference", {})  # without it the detector tells at most how far it is
        return all(int(inference.get(f"subscribers.{name}", 0)) for name in RECORDED)

    def wait_until_idle(self, seconds: float, check: Callable[[], None] = lambda: None) -> None:
        """Return once no set is waiting or in the model from one message to the next, or time is up.

        Args:
            check: called with each message, and each second without one; what it raises ends the waiting.
        """
        deadline, before = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            check()
            with self._news:
                if not self._news.wait(min(LOOKS_EVERY, deadline - time.monotonic())):
                    continue
            last = self.last()
            now = last.get("inference", {}).get("sets_processed")
            if now == before and unfinished_sets(last) == 0:
                return
            before = now

    def last(self) -> dict[str, dict[str, str]]:
        """Component (inference, synchronization, transforms) -> its newest values."""
        with self._news:
            return {name: dict(values) for name, values in self._statuses.items()}

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _store(self, message: DiagnosticArray) -> None:
        with self._news:
            for status in message.status:
                if status.name.startswith(self._prefix):
                    name = status.name.removeprefix(self._prefix)
                    self._statuses[name] = {pair.key: pair.value for pair in status.values}
            self._news.notify_all()


def unfinished_sets(statuses: dict[str, dict[str, str]]) -> int:
    """Complete sets that were neither processed nor dropped nor replaced; a large model takes its time."""
    synchronization, inference = (statuses.get(name, {}) for name in ("synchronization", "inference"))
    formed = sum(int(synchronization.get(f"sets.{kind}", 0)) for kind in ("complete", "masked"))
    replaced = sum(int(synchronization.get(f"sets.{kind}", 0)) for kind in ("superseded", "no_camera_info"))
    dropped = sum(int(value) for key, value in inference.items() if key.startswith("sets_dropped."))
    return formed - replaced - dropped - int(inference.get("sets_processed", 0))
