"""Simulated camera streams: what a rig's images look like to the receiver, with the truth about when they were taken.

Cameras fire in rounds, one after another (stagger), not quite on time (jitter). An image takes its camera's own way
(base), a little longer or shorter (transport), rarely much longer (spike), and some never come (loss). Images of one
camera arrive in order. In a stall the receiver takes nothing; afterwards everything comes at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MS = 10**6
SECOND = 10**9
EPOCH = 1_700_000_000 * SECOND
WRONG_NS = SECOND // 10  # a clock that is off by this much is to be found out


class Image(NamedTuple):
    """One image as it arrives."""

    camera: str
    round: int
    exposure_ns: int  # the truth
    stamp_ns: int  # what the camera claims
    arrival_ns: int

    @property
    def is_wrong(self) -> bool:
        return abs(self.stamp_ns - self.exposure_ns) >= WRONG_NS


@dataclass(frozen=True)
class Rig:
    """A rig's cameras and their ways to the receiver. Times in seconds."""

    cameras: int
    rate: float  # Hz
    stagger: float = 0.35  # of a period, between first and last camera
    jitter: float = 0.03  # of a period, largest
    base: float = 0.025  # largest difference between two cameras' ways
    transport: float = 0.02  # largest additional time
    spikes: float = 0.01  # share of images that take up to 120 ms longer
    losses: float = 0.0  # share of images
    burst_by_camera: bool = False  # after a stall: one camera after the other, instead of as they came

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"cam_{k}" for k in range(self.cameras))

    @property
    def period_ns(self) -> int:
        return round(SECOND / self.rate)

    @property
    def slop_ns(self) -> int:
        """Above stagger and jitter; below what lies between two rounds, so that a set is never of two rounds."""
        return round((self.stagger + 4 * self.jitter) * self.period_ns)


Claim = Callable[[int, int | None], int | None]
"""(exposure, stamp of the camera's last image before the fault) -> what the camera claims, None: it sends nothing."""


@dataclass(frozen=True)
class Fault:
    """One camera's clock, wrong from `start` to `end` (seconds of the stream)."""

    camera: str
    start: float
    end: float
    claim: Claim

    @property
    def start_ns(self) -> int:
        return EPOCH + round(self.start * SECOND)

    @property
    def end_ns(self) -> int:
        return EPOCH + round(self.end * SECOND)


def stream(
    rig: Rig, seconds: float, seed: int, fault: Fault | None = None, stalls: Sequence[tuple[float, float]] = ()
) -> list[Image]:
    """All images in the order of their arrival. stalls: (start, length), seconds."""
    noise = random.Random(seed)
    images = []
    for k, camera in enumerate(rig.names):
        base_ns = round(noise.uniform(0.002, 0.002 + rig.base) * SECOND)
        phase_ns = round(rig.stagger * rig.period_ns * k / max(1, rig.cameras - 1))
        images += _one_camera(rig, camera, phase_ns, base_ns, seconds, noise, fault)
    images = [image._replace(arrival_ns=_after_stalls(image.arrival_ns, stalls)) for image in images]
    key = (lambda i: (i.arrival_ns, i.camera, i.round)) if rig.burst_by_camera else (lambda i: (i.arrival_ns, i.round))
    return sorted(images, key=key)


def _one_camera(
    rig: Rig, camera: str, phase_ns: int, base_ns: int, seconds: float, noise: random.Random, fault: Fault | None
) -> Iterable[Image]:
    last_arrival_ns, stamp_ns = 0, None
    for index in range(round(seconds * rig.rate)):
        exposure_ns = EPOCH + phase_ns + round((index + noise.uniform(0, rig.jitter)) * rig.period_ns)
        delay_ns = base_ns + round(noise.uniform(0, rig.transport) * SECOND)
        if noise.random() < rig.spikes:
            delay_ns += round(noise.uniform(0.03, 0.12) * SECOND)
        last_arrival_ns = max(last_arrival_ns, exposure_ns + delay_ns)
        claimed_ns = exposure_ns
        if fault and fault.camera == camera and fault.start_ns <= exposure_ns < fault.end_ns:
            claimed_ns = fault.claim(exposure_ns, stamp_ns)
        else:
            stamp_ns = exposure_ns
        if noise.random() >= rig.losses and claimed_ns is not None:
            yield Image(camera, index, exposure_ns, claimed_ns, last_arrival_ns)


def _after_stalls(arrival_ns: int, stalls: Sequence[tuple[float, float]]) -> int:
    for start, length in stalls:
        begin, end = EPOCH + round(start * SECOND), EPOCH + round((start + length) * SECOND)
        if begin <= arrival_ns < end:
            return end + (arrival_ns - begin) // 10**6  # still in order, and before whatever comes later
    return arrival_ns


# --- ways for a clock to be wrong -------------------------------------------------------------------------------------


def offset(by_ns: int) -> Claim:
    return lambda exposure_ns, before_ns: exposure_ns + by_ns


def drift(rate: float, start: float) -> Claim:
    """`rate` seconds a second."""
    return lambda exposure_ns, before_ns: exposure_ns + round(rate * (exposure_ns - EPOCH - start * SECOND))


def jumps(offsets_ns: Sequence[int], dwell: float, start: float) -> Claim:
    """Another offset every `dwell` seconds."""

    def claim(exposure_ns: int, before_ns: int | None) -> int:
        index = int((exposure_ns - EPOCH - start * SECOND) / (dwell * SECOND))
        return exposure_ns + offsets_ns[index % len(offsets_ns)]

    return claim


def stuck(exposure_ns: int, before_ns: int | None) -> int:
    return EPOCH if before_ns is None else before_ns


def zero(exposure_ns: int, before_ns: int | None) -> int:
    return 0


def dead(exposure_ns: int, before_ns: int | None) -> None:
    return None
