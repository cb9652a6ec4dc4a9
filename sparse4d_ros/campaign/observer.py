"""The node as an operator sees it: what it publishes, and what it counts in its diagnostics."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from vision_msgs.msg import Detection3DArray

from ..messages.stamps import ns_from_stamp

COUNTED = ("sets_dropped.", "images_dropped.", "messages_rejected.", "refused.", "resets.", "sets.")
"""What keys of counters begin with."""


class Observer:
    """Keeps the newest diagnostics and the stamps of the newest output.

    Args:
        node: to subscribe with; somebody spins it.
        detector: full name of the node that is watched.
    """

    def __init__(self, node: Node, detector: str = "/sparse4d"):
        self._prefix = f"{detector.lstrip('/')}: "
        self._news = threading.Condition()
        self._values: dict[str, dict[str, str]] = {}
        self._texts: dict[str, str] = {}
        self._outputs: deque[tuple[int, float]] = deque(maxlen=1000)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, 10)
        node.create_subscription(Detection3DArray, f"{detector}/detections", self._take_output, 10)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        mine = [status for status in message.status if status.name.startswith(self._prefix)]
        if not mine:
            return
        with self._news:
            names = [status.name.removeprefix(self._prefix) for status in mine]
            self._values = {
                name: {pair.key: pair.value for pair in status.values} for name, status in zip(names, mine, strict=True)
            }
            self._texts = {name: status.message for name, status in zip(names, mine, strict=True)}
            self._news.notify_all()

    def _take_output(self, message: Detection3DArray) -> None:
        with self._news:
            self._outputs.append((ns_from_stamp(message.header.stamp), time.monotonic()))
            self._news.notify_all()

    def forget(self) -> None:
        """What a process that is gone has said."""
        with self._news:
            self._values, self._texts = {}, {}
            self._outputs.clear()

    def counters(self) -> dict[str, int]:
        """`images_dropped.timeout` and so on; of all components together."""
        with self._news:
            return {
                key: int(value)
                for values in self._values.values()
                for key, value in values.items()
                if key.startswith(COUNTED)
            }

    def values(self, component: str) -> dict[str, str]:
        """The newest figures of one component."""
        with self._news:
            return dict(self._values.get(component, {}))

    def text(self) -> str:
        """What all components say, one a line."""
        with self._news:
            return "\n".join(f"{name}: {text}" for name, text in self._texts.items())

    def is_there_output(self, since: float, after_ns: int, before_ns: int) -> bool:
        """Whether a result has come since a moment (s, monotonic) of images with stamps in an interval."""
        with self._news:
            return any(moment >= since and after_ns <= stamp_ns < before_ns for stamp_ns, moment in self._outputs)

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Looks at every message; False if time runs out."""
        deadline = time.monotonic() + seconds
        while not condition():
            with self._news:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(min(left, 0.1))
        return True


def growth(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What was counted in between; a counter that is smaller began anew meanwhile."""
    grown = {key: n - before.get(key, 0) if n >= before.get(key, 0) else n for key, n in now.items()}
    return {key: n for key, n in sorted(grown.items()) if n}


def any_of(causes: Sequence[str], grown: Mapping[str, int]) -> bool:
    return any(cause in grown for cause in causes)
