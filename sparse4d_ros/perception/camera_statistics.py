"""What the cameras delivered and what became of it: lately, and ever."""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .clock_watch import CameraState

WINDOW_NS = 10_000_000_000  # what `recent` means


@dataclass(frozen=True)
class CameraStatus:
    """One camera, for the diagnostics. `recent`: of the last ten seconds, by the arrival times."""

    state: CameraState
    since_ns: int | None  # arrival time at which the state began; None: since the beginning
    reason: str  # of a state that is not healthy
    offset_ns: int | None  # of its clock against the others, positive ahead; None before the first image
    rate_hz: float  # images received, recent
    silent_ns: int | None  # time since its last image; None before the first
    age_ns: int | None  # of an image on arrival, after its stamp, median of recent; None without arrival times
    received: int  # images, ever
    recent_received: int
    drops: Mapping[str, int]  # cause -> images, ever
    recent_drops: Mapping[str, int]
    missed: int  # sets that lacked it, ever
    recent_missed: int


class CameraTally:
    """Counts for one camera. All times are arrival times in nanoseconds."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[int, int | None]] = deque()  # (when, age)
        self._drops: deque[tuple[int, str]] = deque()  # (when, cause)
        self._missed: deque[int] = deque()
        self._heard_ns: int | None = None
        self.received = self.missed = 0
        self.drops: Counter[str] = Counter()
        self.last_cause: str | None = None  # why the last image was dropped on arrival, if it was

    def arrive(self, now_ns: int, age_ns: int | None) -> None:
        self.received += 1
        self._heard_ns = now_ns
        self._arrivals.append((now_ns, age_ns))
        while self._arrivals[0][0] < now_ns - WINDOW_NS:
            self._arrivals.popleft()

    def drop(self, now_ns: int, cause: str, count: int = 1) -> None:
        self.drops[cause] += count
        self._drops.extend([(now_ns, cause)] * count)
        while self._drops and self._drops[0][0] < now_ns - WINDOW_NS:
            self._drops.popleft()

    def miss(self, now_ns: int) -> None:
        self.missed += 1
        self._missed.append(now_ns)
        while self._missed[0] < now_ns - WINDOW_NS:
            self._missed.popleft()

    def status(
        self, now_ns: int, state: CameraState, since_ns: int | None, reason: str, offset_ns: int | None
    ) -> CameraStatus:
        """Everything about the camera at this moment."""
        arrivals = [entry for entry in self._arrivals if entry[0] >= now_ns - WINDOW_NS]
        ages = [age for _, age in arrivals if age is not None]
        span_ns = now_ns - arrivals[0][0] if arrivals else 0
        return CameraStatus(
            state=state,
            since_ns=since_ns,
            reason=reason,
            offset_ns=offset_ns,
            rate_hz=(len(arrivals) - 1) / span_ns * 1e9 if span_ns > 0 else 0.0,
            silent_ns=None if self._heard_ns is None else now_ns - self._heard_ns,
            age_ns=round(statistics.median(ages)) if ages else None,
            received=self.received,
            recent_received=len(arrivals),
            drops=dict(self.drops),
            recent_drops=dict(Counter(cause for when, cause in self._drops if when >= now_ns - WINDOW_NS)),
            missed=self.missed,
            recent_missed=sum(when >= now_ns - WINDOW_NS for when in self._missed),
        )


class ImageCounts:
    """Counts of all cameras. Invariant: every image received is delivered, dropped or pending."""

    def __init__(self, cameras: Sequence[str]):
        self._tallies = {camera: CameraTally() for camera in cameras}
        self._now_ns = 0
        self.received = 0  # images
        self.delivered = 0  # images
        self.drops: Counter[str] = Counter()  # cause -> images
        self.sets: Counter[str] = Counter()  # complete, masked, superseded, no_camera_info, incomplete -> sets
        self.missing_images: Counter[str] = Counter()  # camera -> sets that lacked its image

    def __getitem__(self, camera: str) -> CameraTally:
        return self._tallies[camera]

    def arrive(self, camera: str, now_ns: int, age_ns: int | None) -> None:
        """An image came; what follows happens at this time."""
        self._now_ns = now_ns
        self.received += 1
        self._tallies[camera].arrive(now_ns, age_ns)

    def drop(self, camera: str, cause: str, count: int = 1) -> None:
        if count:
            self.drops[cause] += count
            self._tallies[camera].drop(self._now_ns, cause, count)

    def miss(self, cameras: Iterable[str]) -> None:
        """A set went without the images of these cameras."""
        for camera in cameras:
            self.missing_images[camera] += 1
            self._tallies[camera].miss(self._now_ns)
