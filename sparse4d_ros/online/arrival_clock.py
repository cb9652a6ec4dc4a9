"""The clock that arrival times are taken from: it never jumps, and begins at the time of the stamps.

ROS time may be set (a time server comes back, a bag starts again), stand still, or come in steps of a whole period
(`/clock`). A difference between a stamp and such a time is no measure of a camera's clock; a steady clock is one. It is
set to ROS time once, so that of two cameras that disagree from their first image on, the wrong one can be told. Once it
has been read it is not set back for that: simulated time may begin at zero, long after the machine did.
"""

from __future__ import annotations

from collections.abc import Callable

from ..units import NANOSECONDS


class ArrivalClock:
    """Steady time, set to ROS time as soon as there is one, unless that is behind what was read before.

    Args:
        ros_now_ns: ROS time in nanoseconds; 0 as long as `use_sim_time` is on and no `/clock` has come.
        steady: seconds of a monotonic clock.
    """

    def __init__(self, ros_now_ns: Callable[[], int], steady: Callable[[], float]):
        self._ros_now_ns, self._steady = ros_now_ns, steady
        ros_ns = ros_now_ns()
        self._shift_ns: int | None = ros_ns - self._steady_ns() if ros_ns > 0 else None

    def now_ns(self) -> int:
        """Nanoseconds."""
        steady_ns = self._steady_ns()
        if self._shift_ns is None and (ros_ns := self._ros_now_ns()) > 0:
            self._shift_ns = max(ros_ns - steady_ns, 0)
        return steady_ns + (self._shift_ns or 0)

    def _steady_ns(self) -> int:
        return round(self._steady() * NANOSECONDS)
