"""What the node needs and does at one moment, seen from outside."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

from .observer import Observer

MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """One look at the node."""

    seconds: float  # since the streams flow
    memory_mib: float  # resident
    files: int  # open file descriptors
    threads: int
    sets: int  # processed so far
    rate_hz: float
    latency_p50_ms: float  # from the arrival of a set's last image to its messages, newest 512 sets
    latency_p99_ms: float
    drops: dict[str, int] = field(default_factory=dict)  # cause -> sets or images so far


def take_sample(process: psutil.Process, observer: Observer, seconds: float) -> Sample:
    """
    Raises:
        psutil.Error: the process has ended.
    """
    with process.oneshot():
        memory, files, threads = process.memory_info().rss / MIB, process.num_fds(), process.num_threads()
    inference = observer.values("inference")
    return Sample(
        seconds=round(seconds, 1),
        memory_mib=round(memory, 2),
        files=files,
        threads=threads,
        sets=int(inference.get("sets_processed", 0)),
        rate_hz=float(inference.get("rate_hz", 0.0)),
        latency_p50_ms=float(inference.get("arrival_to_publish_p50", 0.0)),
        latency_p99_ms=float(inference.get("arrival_to_publish_p99", 0.0)),
        drops={key: n for key, n in observer.counters().items() if "dropped" in key or "rejected" in key},
    )


def unexplained(observer: Observer) -> tuple[int, int]:
    """Images, and sets, that came in and of which nothing is known: neither an output nor a cause."""
    counts, inference = observer.values("synchronization"), observer.values("inference")

    def total(values: dict[str, str], prefix: str) -> int:
        return sum(int(n) for key, n in values.items() if key.startswith(prefix))

    def number(values: dict[str, str], key: str) -> int:
        return int(values.get(key, 0))

    images = number(counts, "images_received") - number(counts, "images_in_sets") - number(counts, "images_pending")
    taken = number(counts, "sets.complete") + number(counts, "sets.masked")
    taken -= number(counts, "sets.superseded") + number(counts, "sets.no_camera_info")
    sets = taken - number(inference, "sets_processed") - total(inference, "sets_dropped.")
    return images - total(counts, "images_dropped."), sets
