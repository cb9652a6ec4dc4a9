"""What the node counts and measures. Lifetime counters here; what they mean for its health is decided in `health`.

Images are counted by the synchronizer (`perception/camera_statistics.py`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

WINDOW = 512  # newest measurements kept of each stage
RATE_SECONDS = 5.0  # over which rates are counted


@dataclass(frozen=True)
class Snapshot:
    """All counters at one moment. Lifetime counts; a difference of two snapshots is what happened in between."""

    moment: float  # s, monotonic
    processed: int  # sets
    dropped: Mapping[str, int]  # cause -> sets
    rejected: Mapping[str, int]  # cause -> messages refused on arrival
    resets: Mapping[str, int]  # reason -> times
    rate_hz: float  # sets processed
    last_processed: float | None  # moment
    busy_since: float | None  # moment at which the oldest set in work was taken; None: no set is in work
    percentiles: Mapping[str, tuple[float, float]]  # stage -> (median, 99th percentile) of the newest measurements


class Statistics:
    """Counters and measurements; written by the worker and the callbacks, read by timers. Thread-safe.

    Args:
        clock: monotonic seconds.
        window: newest measurements kept of each stage; None keeps all, for benchmarks.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, window: int | None = WINDOW) -> None:
        self._lock = threading.Lock()
        self.clock = clock
        self._measured: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))
        self._processed_at: deque[float] = deque(maxlen=WINDOW)
        self._begun: list[float] = []  # moments at which the sets in work were taken
        self.processed = 0
        self.dropped: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()

    def measure(self, stage: str, value: float) -> None:
        """One measurement: milliseconds for latencies."""
        with self._lock:
            self._measured[stage].append(value)

    def measured(self, stage: str) -> list[float]:
        """The measurements of one stage that are kept, oldest first."""
        with self._lock:
            return list(self._measured[stage])

    def begin_set(self) -> float:
        """The worker has taken a set. Returns what names it when its outcome is counted."""
        with self._lock:
            self._begun.append(self.clock())
            return self._begun[-1]

    def count_processed(self, timings_ms: Mapping[str, float], begun: float | None = None) -> None:
        """A set was published; `begun` is what `begin_set` returned for it."""
        with self._lock:
            self.processed += 1
            self._end_set(begun)
            self._processed_at.append(self.clock())
            for stage, value in timings_ms.items():
                self._measured[stage].append(value)

    def count_drop(self, cause: str, begun: float | None = None) -> None:
        """A set gave no output; `begun` is what `begin_set` returned for it."""
        with self._lock:
            self.dropped[cause] += 1
            self._end_set(begun)

    def count_rejected(self, cause: str) -> None:
        """A message was refused on arrival."""
        with self._lock:
            self.rejected[cause] += 1

    def count_reset(self, reason: str) -> None:
        """The memory was cleared."""
        with self._lock:
            self.resets[kind_of_reset(reason)] += 1

    def snapshot(self, percentiles: bool = True) -> Snapshot:
        """All counters at this moment; nothing changes in it later.

        Args:
            percentiles: with those of the stages, which cost more than all the rest.
        """
        with self._lock:
            now = self.clock()
            measured = {stage: np.array(values) for stage, values in self._measured.items()} if percentiles else {}
            counters = {name: dict(getattr(self, name)) for name in ("dropped", "rejected", "resets")}
            processed, busy_since = self.processed, min(self._begun, default=None)
            rate_hz = _rate(self._processed_at, now)
            last_processed = self._processed_at[-1] if self._processed_at else None
        found = {stage: tuple(np.percentile(values, (50, 99)).tolist()) for stage, values in measured.items()}
        return Snapshot(
            moment=now,
            processed=processed,
            rate_hz=rate_hz,
            last_processed=last_processed,
            busy_since=busy_since,
            percentiles=found,
            **counters,
        )

    def _end_set(self, begun: float | None) -> None:
        if begun in self._begun:
            self._begun.remove(begun)


def _rate(moments: deque[float], now: float) -> float:
    """Events per second in the last RATE_SECONDS, or since the first event where that is shorter."""
    if not moments:
        return 0.0
    seconds = min(max(now - moments[0], 1.0), RATE_SECONDS)
    return sum(now - moment <= seconds for moment in moments) / seconds


def kind_of_reset(reason: str) -> str:
    """Makes one kind, `time gap`, of `time gap of 3.1 s ...` and `time gap of 2.7 s ...`."""
    words = list(takewhile(lambda word: not any(character.isdigit() for character in word), reason.split()))
    if len(words) < len(reason.split()) and words[-1:] in (["of"], ["by"]):
        words.pop()
    return " ".join(words)
