"""What the node counts and measures, and the diagnostics message that says it."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

WINDOW = 512  # newest measurements kept of each stage
SILENT_AFTER = 3.0  # s without output, while images arrive, is an error
REPEAT_AFTER = 10.0  # s until the same warning is logged again


class Statistics:
    """Counters and measurements; written by the worker and the callbacks, read by the timer. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._measured: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self._published: deque[float] = deque(maxlen=WINDOW)  # monotonic times
        self.processed = 0  # sets
        self.dropped: Counter[str] = Counter()  # cause -> sets
        self.rejected: Counter[str] = Counter()  # cause -> messages refused on arrival
        self.resets: Counter[str] = Counter()  # reason -> times
        self._logged: dict[str, float] = {}

    def measure(self, stage: str, value: float) -> None:
        """One measurement: milliseconds for latencies."""
        with self._lock:
            self._measured[stage].append(value)

    def count_processed(self, timings_ms: Mapping[str, float]) -> None:
        with self._lock:
            self.processed += 1
            self._published.append(time.monotonic())
            for stage, value in timings_ms.items():
                self._measured[stage].append(value)

    def count_drop(self, cause: str) -> None:
        with self._lock:
            self.dropped[cause] += 1

    def count_rejected(self, cause: str) -> None:
        with self._lock:
            self.rejected[cause] += 1

    def count_reset(self, reason: str) -> None:
        with self._lock:
            self.resets[_without_numbers(reason)] += 1

    def is_worth_logging(self, cause: str) -> bool:
        """True the first time, and again after a while: a stream of the same error does not flood the log."""
        now = time.monotonic()
        with self._lock:
            if now - self._logged.get(cause, -REPEAT_AFTER) < REPEAT_AFTER:
                return False
            self._logged[cause] = now
            return True

    def rate(self, seconds: float = 5.0) -> float:
        """Sets published per second, lately."""
        now = time.monotonic()
        with self._lock:
            recent = sum(now - moment <= seconds for moment in self._published)
        return recent / min(seconds, max(now - self._started, 1e-3))

    def silent_for(self) -> float:
        """Seconds since the last output."""
        with self._lock:
            return time.monotonic() - (self._published[-1] if self._published else self._started)

    def percentiles(self) -> dict[str, tuple[float, float]]:
        """Stage -> (median, 99th percentile) of the newest measurements."""
        with self._lock:
            measured = {stage: np.array(values) for stage, values in self._measured.items()}
        return {stage: tuple(np.percentile(values, (50, 99)).tolist()) for stage, values in measured.items()}


def diagnostics_message(
    header: Header, name: str, device: str, facts: Mapping[str, Any], statistics: Statistics, synchronizer: Any
) -> DiagnosticArray:
    """The state of the node as diagnostic_msgs/DiagnosticArray.

    Args:
        facts: what holds since configure: model, weights, scene reset, ...
        synchronizer: its counters; None while the node is not active.
    """
    statuses = [_inference_status(statistics, facts, synchronizer)]
    if synchronizer is not None:
        statuses.append(_synchronization_status(statistics, synchronizer))
    statuses.append(_transforms_status(statistics))
    for status in statuses:
        status.name, status.hardware_id = f"{name}: {status.name}", device
    return DiagnosticArray(header=header, status=statuses)


def _inference_status(statistics: Statistics, facts: Mapping[str, Any], synchronizer: Any) -> DiagnosticStatus:
    values: dict[str, Any] = dict(facts) | {
        "rate_hz": f"{statistics.rate():.2f}",
        "sets_processed": statistics.processed,
        "memory_mib": round(psutil.Process().memory_info().rss / 2**20),
    }
    for stage, (median, p99) in sorted(statistics.percentiles().items()):
        values |= {f"{stage}_p50": f"{median:.2f}", f"{stage}_p99": f"{p99:.2f}"}
    values |= {f"sets_dropped.{cause}": n for cause, n in sorted(statistics.dropped.items())}
    values |= {f"resets.{reason}": n for reason, n in sorted(statistics.resets.items())}
    level, message = DiagnosticStatus.OK, f"{statistics.rate():.1f} sets per second"
    if synchronizer is None:
        message = "not active"
    elif not synchronizer.received:
        level, message = DiagnosticStatus.WARN, "no images yet: check the topics of the rig file and the reliability"
    elif statistics.silent_for() > SILENT_AFTER:
        level, message = DiagnosticStatus.ERROR, f"no output for {statistics.silent_for():.0f} s although images arrive"
    elif facts.get("weights") == "untrained":
        level, message = DiagnosticStatus.WARN, f"{message}; the weights are UNTRAINED"
    return _status("inference", level, message, values)


def _synchronization_status(statistics: Statistics, synchronizer: Any) -> DiagnosticStatus:
    values: dict[str, Any] = {
        "images_received": synchronizer.received,
        "images_in_sets": synchronizer.delivered,
        "images_pending": synchronizer.pending,
    }
    values |= {f"images_dropped.{cause}": n for cause, n in sorted(synchronizer.drops.items())}
    values |= {f"messages_rejected.{cause}": n for cause, n in sorted(statistics.rejected.items())}
    values |= {f"sets.{kind}": n for kind, n in sorted(synchronizer.sets.items())}
    values |= {f"missing.{camera}": n for camera, n in sorted(synchronizer.missing_images.items())}
    silent = synchronizer.silent_cameras()
    if silent:
        return _status("synchronization", DiagnosticStatus.WARN, f"no images from {', '.join(silent)}", values)
    return _status("synchronization", DiagnosticStatus.OK, "all cameras", values)


def _transforms_status(statistics: Statistics) -> DiagnosticStatus:
    failures = {cause: n for cause, n in statistics.dropped.items() if cause.startswith("tf_")}
    level = DiagnosticStatus.WARN if failures else DiagnosticStatus.OK
    message = f"{sum(failures.values())} sets without their poses" if failures else "all poses found"
    return _status("transforms", level, message, {f"failed.{cause}": n for cause, n in sorted(failures.items())})


def _status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)


def _without_numbers(reason: str) -> str:
    """`time gap of 3.1 s` and `time gap of 2.7 s` are one reason."""
    return " ".join(word for word in reason.split() if not any(character.isdigit() for character in word))
