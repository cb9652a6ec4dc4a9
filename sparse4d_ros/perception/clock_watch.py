"""The clocks of all cameras against each other: what time the majority has, and who disagrees.

The reference is the delay (arrival minus stamp) of the middle camera. An image is *off* if its delay differs from the
reference by more than the limit. Three things make delays differ without any clock being wrong; none quarantines:

- transport: the limit is above what transports differ by, and one image in time disproves that its clock is behind;
- a stall of the receiver, or a bag at another rate: the reference moves as well, and the limit widens by as much;
- a pause of everything: then more than half of the cameras are off, which is nobody's own fault.

A camera that is off with all its images for `off_ns` is quarantined, until it has agreed for `agree_ns`. A jump of time
is a reference that moves by more than `jump_ns`: as the middle camera, it moves only with more than half of them. Where
a tie would leave it open (two cameras), those who stayed where the rig has been are right; before there is a past,
those whose stamps are near the time of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .camera_clock import ArrivalTime, CameraClock, ClockLimits

EVENTS_KEPT = 1000

EventKind = Literal["quarantined", "taken_back", "silent", "heard_again", "time_jump"]
CameraState = Literal["healthy", "silent", "quarantined"]
ClockVerdict = Literal["fits", "ahead", "no_stamp", "quarantined"]
"""Of an image's stamp: of the present (or the past: that is a matter of queues, not of clocks); too far in the future;
zero; from a camera whose clock is not trusted."""


@dataclass(frozen=True)
class SyncEvent:
    """Something that the log should have."""

    kind: EventKind
    camera: str | None  # None: all
    arrival_ns: int  # when it was noticed, on the clock of the arrival times
    offset_ns: int | None  # of the camera's clock against the others, positive ahead; of a jump: its size
    text: str  # for people


class ClockWatch:
    """Judges the stamps of all cameras. Not thread-safe."""

    def __init__(self, cameras: Sequence[str], limits: ClockLimits):
        self._cameras, self._limits = tuple(cameras), limits
        self._ahead_ns = max(limits.jump_ns, limits.offset_ns)  # stamps further ahead of the majority's time do not fit
        self.events: deque[SyncEvent] = deque(maxlen=EVENTS_KEPT)
        self.forget()

    def forget(self) -> None:
        """Begins anew; events that nobody took stay."""
        self._clocks = {camera: CameraClock(self._limits) for camera in self._cameras}
        self._arrivals = ArrivalTime()
        self._given = True  # whether the caller gives arrival times
        self.now_ns: int | None = None  # last arrival
        self._gap_ns: int | None = None  # when the last gap ended
        self._stall: tuple[int, int] | None = None  # the last stall, from and to
        self._active_ns = 0  # time in which images came: gaps without any count for `pause_ns` at most
        self.reference_ns: int | None = None
        self._references: deque[tuple[int, int]] = deque()  # (active time, reference) of the last second
        self._anchor_ns: int | None = None  # where the reference has been; decides ties
        self._anchored_ns = self._away_ns = 0  # active time of the last look at it, and that the reference was far away

    def observe(self, camera: str, stamp_ns: int, arrival_ns: int | None) -> ClockVerdict:
        """Takes the stamp of an image in and judges it.

        Args:
            arrival_ns: None: unknown; the stamps stand in, and only differences of more than a second are noticed.
        """
        clock = self._clocks[camera]
        self._given = arrival_ns is not None
        now_ns = self._arrivals.at(camera, stamp_ns, arrival_ns)
        self._advance(now_ns)
        useless = _useless(stamp_ns, clock.stamp_ns)
        if not useless and self._leaps(camera, now_ns - stamp_ns):
            clock.off_images = 0  # late by their transport: they say nothing about the time that begins
        clock.measure(stamp_ns, now_ns, self._active_ns)
        self._move_reference()
        difference_ns = now_ns - stamp_ns - self.reference_ns
        tolerance_ns = self._tolerance_ns(difference_ns)
        if self._is_excused(stamp_ns):
            clock.active_ns = self._active_ns
        elif useless or abs(difference_ns) > tolerance_ns:
            clock.count_off(self._active_ns, ahead=difference_ns < -tolerance_ns)
        else:
            clock.count_agreement(self._active_ns)
        self._hear(camera, now_ns)
        self._decide(camera, now_ns, useless)
        if clock.quarantined_ns is not None:
            return "quarantined"
        if stamp_ns <= 0:
            return "no_stamp"
        return "ahead" if difference_ns < -self._ahead_ns else "fits"

    def poll(self, now_ns: int) -> None:
        """Notices silence where no images come at all. `now_ns`: on the clock of the arrival times."""
        if self.now_ns is None:
            self.now_ns = now_ns
        if now_ns - self.now_ns > self._limits.all_silent_ns:
            for camera, clock in self._clocks.items():
                self._fall_silent(camera, clock, now_ns)

    def is_in_future(self, stamp_ns: int) -> bool:
        """Whether no right clock can have come to this stamp yet."""
        return self.ahead_ns(stamp_ns) > self._ahead_ns

    def ahead_ns(self, stamp_ns: int) -> int:
        """By how much a stamp is ahead of the time that the majority has."""
        return stamp_ns - (self.now_ns - self.reference_ns)

    def is_quarantined(self, camera: str) -> bool:
        return self._clocks[camera].quarantined_ns is not None

    def offset_ns(self, camera: str) -> int | None:
        """The camera's clock against the others, positive ahead; None before its first image."""
        minimum_ns = self._clocks[camera].minimum_ns
        return None if minimum_ns is None or self.reference_ns is None else self.reference_ns - minimum_ns

    def state(self, camera: str) -> tuple[CameraState, int | None, str]:
        """State, since when (arrival time; None: since the beginning), and why."""
        clock = self._clocks[camera]
        if clock.is_silent:
            return "silent", clock.heard_ns, "no images" if clock.heard_ns is not None else "no image yet"
        if clock.quarantined_ns is not None:
            return "quarantined", clock.quarantined_ns, clock.reason
        return "healthy", clock.healthy_ns, ""

    def say(self, kind: EventKind, camera: str | None, offset_ns: int | None, text: str) -> None:
        """Keeps an event for whoever writes the log."""
        self.events.append(SyncEvent(kind, camera, self.now_ns, offset_ns, text))

    def _leaps(self, camera: str, delay_ns: int) -> bool:
        """Whether a clock that was right is far off with its next image: with time, for all that is known yet."""
        offset_ns = self.offset_ns(camera)
        if offset_ns is None or abs(offset_ns) > self._tolerance_ns(offset_ns):
            return False
        return abs(delay_ns - self._clocks[camera].minimum_ns) > self._limits.jump_ns

    # ------------------------------------------------------------------------------------------------------- reference

    def _move_reference(self) -> None:
        """The delay of the middle camera, among those heard lately."""
        delays = sorted(
            clock.minimum_ns
            for clock in self._clocks.values()
            if clock.minimum_ns is not None and self._active_ns - clock.active_ns <= self._limits.memory_ns
        )
        lower_ns, upper_ns = delays[(len(delays) - 1) // 2], delays[len(delays) // 2]
        anchor_ns = self._anchor_ns or 0
        self.reference_ns = upper_ns if abs(upper_ns - anchor_ns) < abs(lower_ns - anchor_ns) else lower_ns
        if len(delays) < min(3, sum(not clock.is_silent for clock in self._clocks.values())):
            return  # the first of several cameras are no past to go by
        self._references.append((self._active_ns, self.reference_ns))
        enough = (self._limits.window_images + 1) * len(self._clocks)  # slow cameras: as far back as their delays
        while len(self._references) > enough and self._references[0][0] < self._active_ns - self._limits.steady_ns:
            self._references.popleft()
        self._move_anchor()

    def _move_anchor(self) -> None:
        """After the reference, but slowly: else a camera that drifts would take it along, where there are only two."""
        if self._anchor_ns is None:
            self._anchor_ns = self.reference_ns
        difference_ns = self.reference_ns - self._anchor_ns
        passed_ns, self._anchored_ns = self._active_ns - self._anchored_ns, self._active_ns
        if abs(difference_ns) <= self._limits.jump_ns:
            most_ns = round(passed_ns * self._limits.anchor_drift)
            self._anchor_ns += min(max(difference_ns, -most_ns), most_ns)
            self._away_ns = 0
            return
        self._away_ns += passed_ns
        if self._away_ns >= self._limits.steady_ns:  # it is somewhere else, and stays there
            self._anchor_ns = self.reference_ns

    def _tolerance_ns(self, difference_ns: int) -> int:
        limit_ns = self._limits.offset_ns if self._given else self._limits.offset_by_stamps_ns
        if abs(difference_ns) <= limit_ns or not self._references:
            return limit_ns
        moved = [reference for _, reference in self._references]
        moved_ns = max(moved) - min(moved)
        return limit_ns + (moved_ns if moved_ns > limit_ns else 0)

    # ---------------------------------------------------------------------------------------------------------- states

    def _advance(self, now_ns: int) -> None:
        gap_ns = 0 if self.now_ns is None else now_ns - self.now_ns
        self._active_ns += min(gap_ns, self._limits.pause_ns)
        if gap_ns > self._limits.pause_ns:
            first = self._gap_ns is None or self.now_ns - self._gap_ns > self._limits.steady_ns
            # One gap after another: the cameras are just slow. Before the first image: nothing was to come.
            self._stall = (self.now_ns, now_ns) if first and self.reference_ns is not None else None
            self._gap_ns = now_ns
        self.now_ns = now_ns
        for camera, clock in self._clocks.items():
            if clock.is_silent_at(self._active_ns):
                self._fall_silent(camera, clock, now_ns)

    def _is_excused(self, stamp_ns: int) -> bool:
        """Whether the image is late because the receiver stalled when it was to come, and catches up now."""
        if self._stall is None:
            return False
        begin_ns, end_ns = self._stall
        if self.now_ns - end_ns > self._limits.steady_ns:
            return False  # what waited has come; else a clock that is behind would be excused for as long as it is
        return begin_ns - self._limits.offset_ns < stamp_ns + self.reference_ns < end_ns - self._limits.offset_ns

    def _fall_silent(self, camera: str, clock: CameraClock, now_ns: int) -> None:
        if clock.is_silent:
            return
        clock.is_silent = True
        since = "yet" if clock.heard_ns is None else f"for {(now_ns - clock.heard_ns) * 1e-9:.1f} s"
        self.say("silent", camera, None, f"camera {camera}: no images {since}")

    def _hear(self, camera: str, now_ns: int) -> None:
        clock = self._clocks[camera]
        clock.heard_ns = now_ns
        if clock.healthy_ns is None:
            clock.healthy_ns = now_ns
        if clock.is_silent:
            clock.is_silent, clock.healthy_ns = False, now_ns
            self.say("heard_again", camera, None, f"camera {camera}: images again")

    def _decide(self, camera: str, now_ns: int, useless: str) -> None:
        clock = self._clocks[camera]
        offset_ns = self.reference_ns - clock.minimum_ns
        if clock.quarantined_ns is not None:
            if clock.has_agreed_for_long():
                clock.take_back(now_ns)
                self.say("taken_back", camera, offset_ns, f"camera {camera}: its clock agrees again, taken back")
        elif clock.is_off_for_long() and (useless or self._is_off_alone(offset_ns)):
            direction = "ahead of" if offset_ns > 0 else "behind"
            reason = useless or f"stamps {abs(offset_ns) * 1e-9:.3f} s {direction} the other cameras"
            clock.quarantine(now_ns, reason)
            self.say("quarantined", camera, offset_ns, f"camera {camera}: quarantined, {reason}")

    def _is_off_alone(self, offset_ns: int) -> bool:
        """Whether a camera's smallest delay is off as well, and most of the others are not off with it."""
        trusted = [c for c in self._clocks.values() if c.quarantined_ns is None and c.heard_ns is not None]
        most_are_off = 2 * sum(clock.off_images > 0 for clock in trusted) > len(trusted)
        return abs(offset_ns) > self._tolerance_ns(offset_ns) and not most_are_off


def _useless(stamp_ns: int, before_ns: int | None) -> str:
    """What is wrong with a stamp by itself."""
    if stamp_ns <= 0:
        return "its stamps are zero"
    return f"its stamps stand still at {stamp_ns} ns" if stamp_ns == before_ns else ""
