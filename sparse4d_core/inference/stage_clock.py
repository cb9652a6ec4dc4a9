"""Times of the stages of a frame, without waiting for the device between them."""

from __future__ import annotations

import time

import torch


class StageClock:
    """Started when it is made; every `mark` ends a stage, and the next one begins there.

    On a GPU the host runs ahead of the device, and waiting for it after each stage would cost the lead. There, marks
    are events in the device's stream, read when the frame is done; the last stage ends on the host, which then has the
    result.
    """

    def __init__(self, device: torch.device):
        self._device = device if device.type == "cuda" else None
        self._stages: list[str] = []
        self._moments: list[torch.cuda.Event | float] = []
        self._start = time.perf_counter()
        self._note()

    def mark(self, stage: str) -> None:
        """The stage of this name ends here."""
        self._stages.append(stage)
        self._note()

    def finish(self, stage: str) -> dict[str, float]:
        """Ends the last stage, whose result the host holds: milliseconds of all stages."""
        total = (time.perf_counter() - self._start) * 1e3
        pairs = zip(self._moments, self._moments[1:], strict=False)
        if self._device is None:
            spent = [(after - before) * 1e3 for before, after in pairs]
        else:
            spent = [before.elapsed_time(after) for before, after in pairs]
        return dict(zip(self._stages, spent, strict=True)) | {stage: max(total - sum(spent), 0.0)}

    def _note(self) -> None:
        if self._device is None:
            self._moments.append(time.perf_counter())
            return
        with torch.cuda.device(self._device):  # an event belongs to the device that is current when it is recorded
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
        self._moments.append(event)
