"""Times of device work: events around the replays of a CUDA graph, with the caches cold or warm.

A graph has no launch overhead of the host in it, and events lie in the stream: what is measured is the device's work.
On a CPU, where neither exists, the clock is read around the call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

_WARM_UPS = 3
_FLUSHED_BYTES = 512 * 2**20  # more than the caches of any device hold


def median_milliseconds(run: Callable[[], object], device: str, cold: bool, repeats: int = 50) -> float:
    """Milliseconds of one `run`, which always reads and writes the same tensors.

    cold: caches are overwritten before each repetition, outside of what is timed.
    """
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device=device) if cold else None
    repeat = _replayed(run, device) if device.startswith("cuda") else _timed_by_clock(run)
    times = []
    for _ in range(repeats):
        if flushed is not None:
            flushed.zero_()
        times.append(repeat())
    return statistics.median(times)


def _timed_by_clock(run: Callable[[], object]) -> Callable[[], float]:
    run()

    def repeat() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    return repeat


def _replayed(run: Callable[[], object], device: str) -> Callable[[], float]:
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run()
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def repeat() -> float:
        with torch.cuda.device(device):
            before.record()
            graph.replay()
            after.record()
            after.synchronize()
        return before.elapsed_time(after)

    return repeat
