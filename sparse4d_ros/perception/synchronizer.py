"""Images of several cameras ► complete sets, or the reason why not. No ROS in here, and no clock is read.

    image ─► ClockWatch: does its stamp fit the time that the majority has? ─► SetFormer: which images belong together?

A set has one image of each camera, all within `slop_ns`. `slop_ns` must exceed the stagger of the cameras and stay
below their period: nuScenes staggers its cameras over 42 ms, at 12 Hz (83 ms).

An image whose stamp lies in another time (ahead of the majority, or back before its camera's last one) is held for the
moment: if more than half of the cameras follow, time has jumped, and it is the first of the new time. Otherwise it is
dropped, and its camera quarantined if that goes on (see clock_watch.py).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from ..units import NANOSECONDS
from .camera_clock import ClockLimits
from .camera_statistics import CameraStatus, ImageCounts
from .clock_watch import ClockVerdict, ClockWatch, SyncEvent
from .set_former import Images, SetFormer
from .synced_set import Missing, SyncedSet

SILENCE_NS = NANOSECONDS  # without any image, on the clock of the arrivals: nothing is waited for any longer
INFOS_KEPT = 32  # per camera, to find the one that belongs to an image
IMAGES_HELD = 10  # per camera, until it is clear whether time has jumped: as many as may arrive at once

MissingCameraPolicy = Literal["skip", "mask"]
"""A camera without an image in time: `skip` the whole set, or hand it out with that camera `mask`ed."""

CAUSES = (
    "incomplete",  # images: another camera has none within the slop
    "timeout",  # images: another camera had none within the slop after `timeout_ns`
    "superseded",  # images of complete sets: a newer one was there before the worker was free
    "no_camera_info",  # images of complete sets: superseded while a CameraInfo was still missing
    "duplicate_stamp",  # image: the camera has sent this stamp already
    "out_of_order",  # image: older than the camera's newest
    "late",  # image: its set is gone already
    "no_stamp",  # image: its stamp is zero
    "clock",  # image: its stamp lies in another time than those of the other cameras
    "quarantined",  # image: of a camera whose clock disagrees with the others for long
    "time_jump",  # images: time went back, everything older was forgotten
    "reset",  # images: forgotten on request
)


class Synchronizer:
    """Groups images into sets; the newest complete sets wait to be taken. Every image ends in a set or in `drops`.

    Safe to use from several threads. Invariant: received == delivered + sum(drops.values()) + pending (in images).
    """

    def __init__(
        self,
        cameras: Sequence[str],
        slop_ns: int,
        timeout_ns: int = NANOSECONDS // 4,
        missing: MissingCameraPolicy = "skip",
        max_backward_ns: int = NANOSECONDS // 2,
        require_info: bool = True,
        limits: ClockLimits | None = None,
        epoch: int = 0,
        waiting_sets: int = 1,
    ):
        """
        Args:
            cameras: names, in the order of the model's cameras.
            slop_ns: largest time between two images of a set.
            timeout_ns: how much newer another image may get (by stamp) while an image waits for its partners.
            missing: what becomes of a set that waited in vain.
            max_backward_ns: an image older than its camera's newest by more than this is of another time (a bag that
                starts again, a wrong clock), not a message out of order. Takes the place of `limits.jump_ns`.
            require_info: hand out sets only once each of their cameras has a CameraInfo.
            limits: when a camera's clock counts as wrong.
            epoch: of the first sets: the last one of a synchronizer that went before, if time goes on.
            waiting_sets: so many complete sets wait at most, beyond that the oldest makes way. 1: the newest wins.
        """
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f"cameras: expected one or more different names, got {list(cameras)}")
        if slop_ns < 0 or timeout_ns < slop_ns:
            raise ValueError(f"slop_ns, timeout_ns: expected 0 <= slop <= timeout, got {slop_ns} and {timeout_ns}")
        if missing not in ("skip", "mask"):
            raise ValueError(f"missing: expected 'skip' or 'mask', got {missing!r}")
        if waiting_sets < 1:
            raise ValueError(f"waiting_sets: expected at least 1, got {waiting_sets}")
        self.cameras = tuple(cameras)
        self._limits = replace(limits or ClockLimits(), jump_ns=max_backward_ns)
        self._require_info = require_info
        self._masks = missing == "mask"
        self._counts = ImageCounts(cameras)
        self._watch = ClockWatch(cameras, self._limits)
        self._former = SetFormer(cameras, slop_ns, timeout_ns, self._masks, self._counts, self._is_left_out)
        self._held: dict[str, deque[tuple[int, Any]]] = {camera: deque() for camera in cameras}
        self._infos: dict[str, dict[int, Any]] = {camera: {} for camera in cameras}
        self._ready: deque[SyncedSet] = deque()
        self._waiting_sets = waiting_sets
        self._changed = threading.Condition()
        self._first_epoch = self.epoch = epoch

    # --------------------------------------------------------------------------------------------------------- intake

    def add_image(
        self, camera: str, stamp_ns: int, item: Any, arrival_ns: int | None = None, age_ns: int | None = None
    ) -> str | None:
        """Takes an image in. Returns why it was dropped at once, or None.

        Args:
            stamp_ns: when the image was exposed, by the camera's clock.
            arrival_ns: when it came here, on a clock that does not jump. Near the clock of the stamps it makes ages
                meaningful and, of two cameras that disagree from the start, finds the one that is wrong. Of a bag: the
                receive time. None: unknown; then only differences of more than a second between clocks are noticed.
            age_ns: of the image on arrival, by a clock that is better for that than the one of the arrivals, which is
                not set when the clock of the stamps is. None: arrival minus stamp.
        """
        with self._changed:
            self._check_camera(camera)
            reference_ns = self._watch.reference_ns
            verdict = self._watch.observe(camera, stamp_ns, arrival_ns)
            if age_ns is None and arrival_ns is not None and stamp_ns > 0:
                age_ns = arrival_ns - stamp_ns
            self._counts.arrive(camera, self._watch.now_ns, age_ns)
            self._follow_time(reference_ns)
            cause = self._take_in(camera, stamp_ns, item, verdict)
            self._counts[camera].last_cause = cause
            if cause is not None:
                self._counts.drop(camera, cause)
            for images in self._former.form():
                self._make_ready(images)
            self._tell()
            return cause

    def add_info(self, camera: str, info: Any, stamp_ns: int = 0) -> None:
        """Takes the calibration of a camera in; it holds until a newer one comes."""
        with self._changed:
            self._check_camera(camera)
            infos = self._infos[camera]
            infos.pop(stamp_ns, None)
            infos[stamp_ns] = info
            if len(infos) > INFOS_KEPT:
                del infos[next(iter(infos))]
            self._tell()

    def clear(self, cause: str = "reset") -> None:
        """Forgets all images (counted under `cause`), what time it was and whose clock was wrong; calibrations stay."""
        with self._changed:
            self._clear(cause)
            for camera in self.cameras:
                self._drop_held(camera, cause)
            self._watch.forget()

    # --------------------------------------------------------------------------------------------------------- output

    def take_next(self) -> SyncedSet | None:
        """The first of the sets that wait, or None. Ask after every image and every info."""
        with self._changed:
            if not self._has_set():
                return None
            taken = self._ready.popleft()
            self._counts.delivered += len(taken.images)
            return replace(taken, infos={c: self._info_of(c, stamp) for c, (stamp, _) in taken.images.items()})

    def wait(self, timeout_seconds: float) -> bool:
        """Blocks until `take_next` has something; False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(self._has_set, timeout_seconds)

    def take_events(self) -> list[SyncEvent]:
        """What happened to the clocks since this was asked last. Ask after every image and every `poll`."""
        with self._changed:
            events = list(self._watch.events)
            self._watch.events.clear()
            return events

    def poll(self, now_ns: int) -> None:
        """Notices silence where no image comes at all; to be called about once a second. What waits for a missing
        image then goes out, as long as it is news.

        Args:
            now_ns: on the clock of the arrival times.
        """
        with self._changed:
            last_ns = self._watch.now_ns
            self._watch.poll(now_ns)
            if last_ns is not None and now_ns - last_ns > SILENCE_NS:
                self._expect_nothing()

    def expect_nothing(self) -> None:
        """Images stop here, as at the end of a recording: with `mask`, nothing waits for others any longer."""
        with self._changed:
            self._expect_nothing()

    def drop_waiting(self, but_newest: int = 0) -> None:
        """Lets sets go that wait for a CameraInfo, all but the newest ones. For whoever has taken all others: where
        nobody is late, no set makes way for a newer one."""
        with self._changed:
            while len(self._ready) > but_newest:
                self._drop_oldest("no_camera_info")

    # --------------------------------------------------------------------------------------------------------- status

    @property
    def received(self) -> int:
        """Images."""
        return self._counts.received

    @property
    def delivered(self) -> int:
        """Images in sets that were taken."""
        return self._counts.delivered

    @property
    def drops(self) -> Counter[str]:
        """Cause -> images."""
        return self._counts.drops

    @property
    def sets(self) -> Counter[str]:
        """complete, masked, superseded, no_camera_info, incomplete -> sets."""
        return self._counts.sets

    @property
    def missing_images(self) -> Counter[str]:
        """Camera -> sets that lacked its image."""
        return self._counts.missing_images

    @property
    def pending(self) -> int:
        """Images that wait: for their partners, for a decision about the time, or for the worker."""
        with self._changed:
            held = sum(map(len, self._held.values()))
            return self._former.pending + held + sum(len(ready.images) for ready in self._ready)

    def silent_cameras(self) -> tuple[str, ...]:
        """Cameras without an image for longer than the timeout, by the stamps of the others."""
        with self._changed:
            return tuple(c for c in self.cameras if self._former.is_overdue(c) and not self._watch.is_quarantined(c))

    def quarantined_cameras(self) -> tuple[str, ...]:
        """Cameras whose images are not used, because their clocks disagree with the others."""
        with self._changed:
            return tuple(filter(self._watch.is_quarantined, self.cameras))

    def camera_status(self, now_ns: int | None = None) -> dict[str, CameraStatus]:
        """Each camera's rate, age, offset, drops and state.

        Args:
            now_ns: on the clock of the arrival times; None: the last arrival.
        """
        with self._changed:
            now_ns = (self._watch.now_ns or 0) if now_ns is None else now_ns
            return {
                camera: self._counts[camera].status(now_ns, *self._watch.state(camera), self._watch.offset_ns(camera))
                for camera in self.cameras
            }

    # --------------------------------------------------------------------------------------------------------- inside

    def _expect_nothing(self) -> None:
        if self._masks:
            for images in self._former.form(silent=True):
                self._make_ready(images)
            self._tell()

    def _check_camera(self, camera: str) -> None:
        if camera not in self._held:
            raise ValueError(f"camera: unknown {camera!r}; expected one of {', '.join(self.cameras)}")

    def _take_in(self, camera: str, stamp_ns: int, item: Any, verdict: ClockVerdict) -> str | None:
        """Into the queue, or aside, or not at all: then the cause."""
        if verdict == "quarantined":
            self._former.leave_out(camera, "quarantined")
            self._drop_held(camera, "quarantined")
        if verdict in ("quarantined", "no_stamp"):
            return verdict
        if verdict == "ahead" or self._goes_back(camera, stamp_ns):
            self._hold(camera, stamp_ns, item)
            return None
        self._drop_held(
            camera, "time_jump" if self.epoch > self._first_epoch and camera not in self._former.newest else "clock"
        )
        return self._former.take_in(camera, stamp_ns, item)

    def _is_left_out(self, camera: str) -> bool:
        """Whether the camera's next images are not to be waited for."""
        return bool(self._held[camera]) or self._watch.is_quarantined(camera)

    def _goes_back(self, camera: str, stamp_ns: int) -> bool:
        return stamp_ns < self._former.newest.get(camera, stamp_ns) - self._limits.jump_ns

    def _hold(self, camera: str, stamp_ns: int, item: Any) -> None:
        held = self._held[camera]
        held.append((stamp_ns, item))
        if len(held) > IMAGES_HELD:
            held.popleft()
            self._counts.drop(camera, "clock")

    def _drop_held(self, camera: str, cause: str) -> None:
        self._counts.drop(camera, cause, len(self._held[camera]))
        self._held[camera].clear()

    def _follow_time(self, before_ns: int | None) -> None:
        """After the reference of the clocks has moved: has time jumped, and who was right about it?"""
        horizon_ns, moved_ns = self._former.horizon_ns, self._watch.reference_ns - (before_ns or 0)
        # What a majority leaves behind when it moves is of the old time, also where transports may differ by as much.
        if horizon_ns is not None and (
            self._watch.is_in_future(horizon_ns)
            or min(moved_ns, self._watch.ahead_ns(horizon_ns)) > self._limits.jump_ns
        ):
            self._clear("time_jump")
            self.epoch += 1
            self._watch.say("time_jump", None, -moved_ns, f"time jumped back by {moved_ns * 1e-9:.3f} s")
        elif before_ns is not None and moved_ns > self._limits.jump_ns:  # whoever came first was ahead of all others
            for camera, newest_ns in list(self._former.newest.items()):
                if self._watch.is_in_future(newest_ns):
                    self._former.leave_out(camera, "clock", keep=lambda stamp: not self._watch.is_in_future(stamp))
        elif horizon_ns is not None and moved_ns < -self._limits.jump_ns:
            self._watch.say("time_jump", None, -moved_ns, f"time jumped forward by {-moved_ns * 1e-9:.3f} s")
        self._release_held()

    def _release_held(self) -> None:
        """Images that fit the time by now go on, in the order of their stamps."""
        fitting = []
        for camera, held in self._held.items():
            for _ in range(len(held)):  # once round: those that do not fit end up in the queue again, in order
                stamp_ns, item = held.popleft()
                if self._watch.is_in_future(stamp_ns) or self._goes_back(camera, stamp_ns):
                    held.append((stamp_ns, item))
                else:
                    fitting.append((stamp_ns, camera, item))
        for stamp_ns, camera, item in sorted(fitting, key=lambda entry: entry[0]):
            cause = self._former.take_in(camera, stamp_ns, item)
            if cause is not None:
                self._counts.drop(camera, cause)

    def _clear(self, cause: str) -> None:
        """Forgets the images of the past; those held belong to the time that begins, if to any."""
        self._former.clear(cause)
        for ready in self._ready:
            self._drop_set(ready, cause)
        self._ready.clear()

    def _drop_set(self, ready: SyncedSet, cause: str) -> None:
        for camera in ready.images:
            self._counts.drop(camera, cause)

    def _drop_oldest(self, cause: str) -> None:
        self._drop_set(self._ready.popleft(), cause)
        self._counts.sets[cause] += 1

    def _make_ready(self, images: Images) -> None:
        """These images become the newest set; the oldest that waits makes way for it where too many do."""
        if len(self._ready) == self._waiting_sets:
            self._drop_oldest("superseded" if self._has_set() else "no_camera_info")
        absent = tuple(camera for camera in self.cameras if camera not in images)
        self._counts.miss(absent)
        self._counts.sets["masked" if absent else "complete"] += 1
        stamp_ns = max(stamp for stamp, _ in images.values())
        why = {camera: self._why_missing(camera) for camera in absent}
        self._ready.append(SyncedSet(stamp_ns, images, {}, absent, self.epoch, why))

    def _why_missing(self, camera: str) -> Missing:
        state, _, _ = self._watch.state(camera)
        if state == "quarantined" or (self._held[camera] and state == "healthy"):
            return Missing("quarantined" if state == "quarantined" else "clock", self._watch.offset_ns(camera))
        return Missing("late" if state == "healthy" and self._counts[camera].last_cause == "late" else "absent")

    def _tell(self) -> None:
        """Wakes the thread that waits for a set, if there is one: threads that wake for nothing hold up this one."""
        if self._has_set():
            self._changed.notify_all()

    def _has_set(self) -> bool:
        if not self._ready:
            return False
        return not self._require_info or all(self._infos[camera] for camera in self._ready[0].images)

    def _info_of(self, camera: str, stamp_ns: int) -> Any:
        infos = self._infos[camera]
        if stamp_ns in infos or not infos:
            return infos.get(stamp_ns)
        return next(reversed(infos.values()))
