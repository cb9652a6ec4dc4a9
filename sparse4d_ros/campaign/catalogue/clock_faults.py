"""Faults of clocks: a camera's that is off, drifts, jumps, stands still; and the time of everything at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...messages.stamps import ns_from_stamp, stamp_from_ns
from ...units import NANOSECONDS, nanoseconds
from ..streams import IMAGE, TF, Change
from .alterations import restamped
from .fault import Fault
from .input_faults import altered, changed

YEAR = 365.25 * 86400.0  # s
QUARANTINED = ("images_dropped.quarantined",)
JUMPED = ("images_dropped.time_jump", "resets.time jumped back", "resets.time went back", "resets.time gap")


def offset(seconds: float) -> Callable[[Any], Sequence[Any]]:
    """Stamps that are so far ahead."""
    return partial(restamped, lambda stamp_ns: stamp_ns + nanoseconds(seconds))


def drift(rate: float, now_ns: Callable[[], int] = time.time_ns) -> Callable[[Any], Sequence[Any]]:
    """Stamps that gain so many seconds a second, from now on."""
    start_ns = now_ns()
    return partial(restamped, lambda stamp_ns: stamp_ns + round(rate * (stamp_ns - start_ns)))


class Jumping:
    """Stamps of one camera that jump ahead by 5 s and back, every half second."""

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._start_ns = now_ns()

    def __call__(self, message: Any) -> Sequence[Any]:
        return restamped(self._claim, message)

    def _claim(self, stamp_ns: int) -> int:
        return stamp_ns + 5 * NANOSECONDS * ((stamp_ns - self._start_ns) // (NANOSECONDS // 2) % 2)


class Stuck:
    """Every image has the stamp of the first."""

    def __init__(self) -> None:
        self._first_ns: int | None = None

    def __call__(self, message: Any) -> Sequence[Any]:
        self._first_ns = self._first_ns or ns_from_stamp(message.header.stamp)
        return restamped(lambda _: self._first_ns, message)


def all_offset(seconds: float) -> Change:
    """Everything that is stamped is so far ahead: the time of the vehicle has jumped."""
    shift = offset(seconds)

    def change(kind: str, source: str, message: Any) -> Sequence[Any]:
        if kind != TF:
            return shift(message)
        for each in message.transforms:
            each.header.stamp = stamp_from_ns(ns_from_stamp(each.header.stamp) + nanoseconds(seconds))
        return [message]

    return change


def _one(name: str, description: str, alter: Callable[[], Any], causes: tuple[str, ...] = QUARANTINED) -> Fault:
    return Fault(name, description, altered(IMAGE, alter), causes, seconds=4.0)


CLOCK_FAULTS = (
    _one("clock ahead by 0.1 s", "one camera, half a period", lambda: offset(0.1)),
    _one("clock ahead by 0.3 s", "one camera", lambda: offset(0.3)),
    _one("clock behind by 2 s", "one camera", lambda: offset(-2.0)),
    _one("clock ahead by 2 s", "one camera", lambda: offset(2.0)),
    _one("clock ahead by ten years", "one camera", lambda: offset(10 * YEAR)),
    _one("clock behind by ten years", "one camera", lambda: offset(-10 * YEAR)),
    _one("clock drifting", "one camera gains 0.2 s a second", lambda: drift(0.2)),
    _one("clock jumping", "one camera, 5 s ahead and back", Jumping, ("images_dropped.clock", *QUARANTINED)),
    _one("clock stuck", "one camera repeats its stamp", Stuck, ("images_dropped.duplicate_stamp", *QUARANTINED)),
    _one(
        "clock at zero",
        "one camera, as after a reboot",
        lambda: partial(restamped, lambda _: 0),
        ("messages_rejected.stamp", "images_dropped.no_stamp", *QUARANTINED),
    ),
    Fault(
        "time jumps back",
        "everything is stamped an hour earlier",
        lambda s: changed(s, all_offset(-3600.0)),
        JUMPED,
        seconds=3.0,
    ),
    Fault(
        "time jumps ahead",
        "everything is stamped an hour later",
        lambda s: changed(s, all_offset(3600.0)),
        JUMPED,
        seconds=3.0,
    ),
)
