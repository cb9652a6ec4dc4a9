"""Warnings that come in streams: the first is logged at once, its like only now and then, with their number."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

REPEAT_AFTER = 10.0  # s until a warning of the same cause is logged again


class LogThrottle:
    """Thread-safe.

    Args:
        logger: of rclpy.
        clock: monotonic seconds.
        alive: whether there is still somebody to log for; after a shutdown /rosout is gone, and rcl complains of it.
    """

    def __init__(
        self, logger: Any, clock: Callable[[], float] = time.monotonic, alive: Callable[[], bool] = lambda: True
    ):
        self._logger, self._clock, self._alive = logger, clock, alive
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}  # cause -> moment
        self._withheld: dict[str, int] = {}  # cause -> warnings since then

    def warning(self, cause: str, message: str) -> None:
        """Logs the message unless one of the same cause was logged a short while ago."""
        if not self._alive():
            return
        now = self._clock()
        with self._lock:
            if now - self._logged.get(cause, -REPEAT_AFTER) < REPEAT_AFTER:
                self._withheld[cause] = self._withheld.get(cause, 0) + 1
                return
            self._logged[cause] = now
            withheld = self._withheld.pop(cause, 0)
        self._logger.warning(message + (f" (and {withheld} times since the last such line)" if withheld else ""))
