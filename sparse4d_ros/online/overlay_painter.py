"""The thread that draws the overlay, for people alone: always the newest set, as fast as it can, and nobody waits."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from ..perception.set_processor import Processed
from .log_throttle import LogThrottle
from .statistics import Statistics


class OverlayPainter:
    """Runs from `start` until `stop`.

    Args:
        publish: draws and publishes a set's overlay; returns milliseconds, None where nobody looks.
        statistics: for the stage `overlay`.
        log: a picture that fails costs no set and is not counted among the sets, but it is logged.
    """

    def __init__(self, publish: Callable[[Processed], float | None], statistics: Statistics, log: LogThrottle):
        self._publish, self._statistics, self._log = publish, statistics, log
        self._changed = threading.Condition()
        self._next: Processed | None = None
        self._stopped = False

    def offer(self, processed: Processed) -> None:
        """A new set, in place of the one before if that was not begun."""
        with self._changed:
            self._next = processed
            self._changed.notify_all()

    def stop(self) -> None:
        """Nothing is begun any more."""
        with self._changed:
            self._stopped, self._next = True, None
            self._changed.notify_all()

    def run(self) -> None:
        """In a thread of its own."""
        while (processed := self._take()) is not None:
            try:
                milliseconds = self._publish(processed)
            except Exception:
                self._log.warning("overlay", f"no overlay for a set, internal error: {traceback.format_exc()}")
                continue
            if milliseconds is not None:
                self._statistics.measure("overlay", milliseconds)

    def _take(self) -> Processed | None:
        with self._changed:
            self._changed.wait_for(lambda: self._next is not None or self._stopped)
            taken, self._next = self._next, None
            return taken
