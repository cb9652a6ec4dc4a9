"""Times of the stages of a frame, without waiting for the device between them."""

from __future__ import annotations

import time

import torch


class StageClock:
    """Started when it is made; every `mark` ends a stage, and the next one begins there.

    On a GPU the host runs ahead of the device, and waiting for it after each stage would cost the lead. There, marks
    are events in the device's stream, read when the frame is done; the last stage ends on the host, which then has the
    result. What another thread gives the same stream between two marks counts as well.
    """

    def __init__(self, device: torch.device):
        self._device = device if device.type == "cuda" else None
        self._stages: list[tuple[str, torch.cuda.Event | float, torch.cuda.Event | float]] = []
        self._before = 0.0  # s, before the last pause
        self.resume()

    def mark(self, stage: str) -> None:
        """The stage of this name ends here."""
        end = self._moment()
        self._stages.append((stage, self._begin, end))
        self._begin = end

    def pause(self) -> None:
        """A frame that waits, between two stages, is in none of them."""
        self._before += time.perf_counter() - self._start

    def resume(self) -> None:
        """The next stage begins here, maybe in another thread."""
        self._start = time.perf_counter()
        self._begin = self._moment()

    def finish(self, stage: str) -> dict[str, float]:
        """Ends the last stage, whose result the host holds: milliseconds of all stages."""
        total = (self._before + time.perf_counter() - self._start) * 1e3
        spent = {name: self._milliseconds(begin, end) for name, begin, end in self._stages}
        return spent | {stage: max(total - sum(spent.values()), 0.0)}

    def _milliseconds(self, begin: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
        return (end - begin) * 1e3 if self._device is None else begin.elapsed_time(end)

    def _moment(self) -> torch.cuda.Event | float:
        if self._device is None:
            return time.perf_counter()
        with torch.cuda.device(self._device):  # an event belongs to the device that is current when it is recorded
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
        return event
