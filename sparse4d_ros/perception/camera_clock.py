"""The clock of one camera, as its stamps and the arrival of its images show it. No clock is read in here.

An image's delay is its arrival minus its stamp: transport, plus what the camera's clock lags behind. Transport can make
an image late, never early; so the smallest delay of a short window is close to what the clock alone contributes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..units import MILLISECOND
from ..units import NANOSECONDS as SECOND


@dataclass(frozen=True)
class ClockLimits:
    """When a camera's clock counts as wrong. All times in nanoseconds.

    Two cameras whose transports differ by more than `offset_ns` look exactly like two clocks that differ by as much:
    raise it for a rig that mixes such transports. Below it an offset is not noticed. Images of a fast transport are
    ahead of the others by what the two differ by, so that above `jump_ns` it is the limit for that as well.
    """

    offset_ns: int = 50 * MILLISECOND  # largest difference between a camera's delay and the reference
    offset_by_stamps_ns: int = SECOND  # the same where no arrival times are known: those of the stamps are coarse
    steady_ns: int = SECOND  # what the reference did in so much time (active) is taken into account
    jump_ns: int = SECOND // 2  # stamps that differ by more belong to another time: a jump, or a wrong clock
    window_ns: int = SECOND // 2  # the smallest delay is taken of so much time,
    window_images: int = 3  # and of so many images at least
    off_ns: int = 360 * MILLISECOND  # a camera that is off for so long (three images at 5 Hz),
    off_images: int = 3  # and with so many images, is quarantined
    agree_ns: int = SECOND  # a quarantined camera that agrees for so long is taken back
    silent_ns: int = 650 * MILLISECOND  # a camera without an image for so long, while others send, is silent
    all_silent_ns: int = 2 * SECOND  # the same where nobody sends; longer, for this may be the receiver's own stall
    memory_ns: int = 10 * SECOND  # a silent camera's last delay still counts for so long
    pause_ns: int = SECOND // 4  # a longer gap without any image is a stall of the receiver, unless one just was
    anchor_drift: float = 0.002  # seconds a second: how fast the delay of a rig with right clocks may change


class ArrivalTime:
    """A time of arrival that never goes back, given by the caller or, where there is none, made from the stamps."""

    def __init__(self) -> None:
        self._now_ns: int | None = None
        self._shift_ns = 0
        self._stamps: dict[str, int] = {}  # camera -> its last stamp
        self._elapsed: dict[str, int] = {}  # camera -> time that its stamps went through, without jumps

    def at(self, camera: str, stamp_ns: int, arrival_ns: int | None) -> int:
        """The time of an image's arrival."""
        if arrival_ns is None:
            now_ns = self._by_stamps(camera, stamp_ns)
        else:
            now_ns = arrival_ns + self._shift_ns
            if self._now_ns is not None and now_ns < self._now_ns:  # the caller's clock was set back: go on from here
                self._shift_ns += self._now_ns - now_ns
                now_ns = self._now_ns
        self._now_ns = now_ns
        return now_ns

    def _by_stamps(self, camera: str, stamp_ns: int) -> int:
        """Time goes on with the camera that is ahead; a step of more than a second is a jump, and no time passed."""
        now_ns = stamp_ns if self._now_ns is None else self._now_ns
        step_ns = stamp_ns - self._stamps.get(camera, stamp_ns)
        self._stamps[camera] = stamp_ns
        passed_ns = step_ns if 0 < step_ns <= SECOND else 0
        elapsed_ns = max(self._elapsed.get(camera, now_ns) + passed_ns, now_ns - SECOND)
        self._elapsed[camera] = elapsed_ns
        return max(now_ns, elapsed_ns)


class CameraClock:
    """Delays of one camera, and for how long they were off or in agreement. Which of the two is decided elsewhere."""

    def __init__(self, limits: ClockLimits):
        self._limits = limits
        self._delays: deque[tuple[int, int]] = deque()  # (active time, delay)
        self.stamp_ns: int | None = None  # of the last image
        self.heard_ns: int | None = None  # arrival of the last image
        self.active_ns = 0  # the same in active time (see ClockWatch), in which a stall of the receiver hardly counts
        self.minimum_ns: int | None = None  # smallest delay of the window
        self.is_silent = False
        self.quarantined_ns: int | None = None  # since when
        self.healthy_ns: int | None = None  # since when
        self.reason = ""  # of the quarantine
        self.off_images = 0  # in a row
        self._off_since_ns = 0  # active time, as the two below
        self._ahead_ns: int | None = None  # last image with a stamp from the future
        self._agreed_ns = 0

    def measure(self, stamp_ns: int, arrival_ns: int, active_ns: int) -> None:
        """Takes an image's stamp and arrival in; `active_ns` is the arrival in active time."""
        if self.stamp_ns is not None and stamp_ns < self.stamp_ns - self._limits.jump_ns:
            self._delays.clear()  # another time begins; the delays of the old one would hide it
        self.stamp_ns = stamp_ns
        self._delays.append((active_ns, arrival_ns - stamp_ns))
        oldest_ns = active_ns - self._limits.window_ns
        while len(self._delays) > self._limits.window_images and self._delays[0][0] < oldest_ns:
            self._delays.popleft()
        self.minimum_ns = min(delay for _, delay in self._delays)

    def is_silent_at(self, active_ns: int) -> bool:
        """Whether it is time for another image, also for a slow camera."""
        usual_ns = (self._delays[-1][0] - self._delays[0][0]) // max(1, len(self._delays) - 1) if self._delays else 0
        return active_ns - self.active_ns > max(self._limits.silent_ns, 3 * usual_ns)

    def count_off(self, active_ns: int, ahead: bool) -> None:
        """The last image, of this active time, was off. That takes back twice the time of agreement that it lasts."""
        if not self.off_images:
            self._off_since_ns = active_ns
        self.off_images += 1
        if ahead:
            self._ahead_ns = active_ns
        self._agreed_ns = max(0, self._agreed_ns - 2 * self._passed_ns(active_ns))
        self.active_ns = active_ns

    def count_agreement(self, active_ns: int) -> None:
        """The last image agreed. Transport may hide that a clock is ahead, so one such image is no proof of that."""
        self._agreed_ns += self._passed_ns(active_ns)
        if self._ahead_ns is None or active_ns - self._ahead_ns > self._limits.window_ns:
            self.off_images, self._ahead_ns = 0, None
        self.active_ns = active_ns

    def _passed_ns(self, active_ns: int) -> int:
        return min(active_ns - self.active_ns, self._limits.pause_ns)

    def is_off_for_long(self) -> bool:
        """Whether it is time to quarantine the camera."""
        limits = self._limits
        return self.off_images >= limits.off_images and self.active_ns - self._off_since_ns >= limits.off_ns

    def has_agreed_for_long(self) -> bool:
        """Whether it is time to take the camera back."""
        return self._agreed_ns >= self._limits.agree_ns

    def quarantine(self, arrival_ns: int, reason: str) -> None:
        self.quarantined_ns, self.reason, self._agreed_ns = arrival_ns, reason, 0

    def take_back(self, arrival_ns: int) -> None:
        self.quarantined_ns, self.healthy_ns, self.reason = None, arrival_ns, ""
        self.off_images, self._ahead_ns = 0, None
