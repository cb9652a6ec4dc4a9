"""The clock that arrival times are taken from: it never jumps, and begins at the time of the stamps.

ROS time may be set (a time server comes back, a bag starts again), stand still, or come in steps of a whole period
(`/clock`). A difference between a stamp and such a time is no measure of a camera's clock; a steady clock is one. It is
set to ROS time once, so that of two cameras that disagree from their first image on, the wrong one can be told.
"""

from __future__ import annotations

from collections.abc import Callable

from ..units import NANOSECONDS


class ArrivalClock:
    """Steady time, set to ROS time as soon as there is one.

    Args:
        ros_now_ns: ROS time in nanoseconds; 0 as long as `use_sim_time` is on and no `/clock` has come.
        steady: seconds of a monotonic clock.
    """

    def __init__(self, ros_now_ns: Callable[[], int], steady: Callable[[], float]):
        self._ros_now_ns, self._steady = ros_now_ns, steady
        self._shift_ns: int | None = None
        self.now_ns()

    def now_ns(self) -> int:
        """Nanoseconds."""
        steady_ns = round(self._steady() * NANOSECONDS)
        if self._shift_ns is None and (ros_ns := self._ros_now_ns()) > 0:
            self._shift_ns = ros_ns - steady_ns
        return steady_ns + (self._shift_ns or 0)
