"""Images of several cameras ► complete sets, or the reason why not. No ROS in here.

A set has one image of each camera, all within `slop_ns`. Each camera's images wait in a queue. Once every queue has a
head, the heads that are more than the slop older than the newest head can never find a partner (the queues are in
order), so they are dropped; heads that agree form the next set. The sets therefore do not depend on how the cameras'
messages interleave on their way here, and no image is ever used twice.

`slop_ns` must exceed the stagger of the cameras and stay below their period: nuScenes staggers its cameras over
42 ms, at 12 Hz (83 ms).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..units import NANOSECONDS

INFOS_KEPT = 32  # per camera, to find the one that belongs to an image

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
    "time_jump",  # images: time went back, everything older was forgotten
    "reset",  # images: forgotten on request
)


@dataclass(frozen=True)
class SyncedSet:
    """One image of each camera that belong together."""

    stamp_ns: int  # newest image of the set
    images: Mapping[str, tuple[int, Any]]  # camera -> (stamp in nanoseconds, item); a masked camera is absent
    infos: Mapping[str, Any]  # camera -> its CameraInfo: of the same stamp where there is one, else the newest
    missing: tuple[str, ...] = ()  # masked cameras
    epoch: int = 0  # grows whenever time jumps back

    @property
    def spread_ns(self) -> int:
        """Time between the oldest and the newest image."""
        return self.stamp_ns - min(stamp for stamp, _ in self.images.values())


class Synchronizer:
    """Groups images into sets; the newest complete set wins. Every image ends in a set or in `drops`.

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
    ):
        """
        Args:
            cameras: names, in the order of the model's cameras.
            slop_ns: largest time between two images of a set.
            timeout_ns: how much newer another image may get (by stamp) while an image waits for its partners.
            missing: what becomes of a set that waited in vain.
            max_backward_ns: an image older than its camera's newest by more than this is a jump of time (a bag that
                starts again), not a message out of order.
            require_info: hand out sets only once each of their cameras has a CameraInfo.
        """
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f"cameras: expected one or more different names, got {list(cameras)}")
        if slop_ns < 0 or timeout_ns < slop_ns:
            raise ValueError(f"slop_ns, timeout_ns: expected 0 <= slop <= timeout, got {slop_ns} and {timeout_ns}")
        if missing not in ("skip", "mask"):
            raise ValueError(f"missing: expected 'skip' or 'mask', got {missing!r}")
        self.cameras = tuple(cameras)
        self._slop_ns, self._timeout_ns, self._max_backward_ns = slop_ns, timeout_ns, max_backward_ns
        self._mask, self._require_info = missing == "mask", require_info
        self._queues: dict[str, deque[tuple[int, Any]]] = {camera: deque() for camera in cameras}
        self._infos: dict[str, dict[int, Any]] = {camera: {} for camera in cameras}
        self._newest: dict[str, int] = {}  # newest stamp of each camera
        self._before_jump: dict[str, int] = {}  # the same, for cameras that have not followed a jump back yet
        self._started_ns = 0  # first stamp since time began or jumped
        self._closed_ns: int | None = None  # images up to here have lost their set
        self._ready: SyncedSet | None = None
        self._changed = threading.Condition()
        self.epoch = 0
        self.received = 0  # images
        self.delivered = 0  # images
        self.drops: Counter[str] = Counter()  # cause -> images
        self.sets: Counter[str] = Counter()  # complete, masked, superseded, no_camera_info, incomplete -> sets
        self.missing_images: Counter[str] = Counter()  # camera -> sets that lacked its image

    def add_image(self, camera: str, stamp_ns: int, item: Any) -> str | None:
        """Takes an image in. Returns why it was dropped at once, or None."""
        with self._changed:
            self._check_camera(camera)
            self.received += 1
            cause = self._reject(camera, stamp_ns)
            if cause is not None:
                self.drops[cause] += 1
                return cause
            if not self._newest:
                self._started_ns = stamp_ns
            self._newest[camera] = stamp_ns
            self._queues[camera].append((stamp_ns, item))
            self._form_sets()
            if self._ready is not None:
                self._changed.notify_all()
            return None

    def add_info(self, camera: str, info: Any, stamp_ns: int = 0) -> None:
        """Takes the calibration of a camera in; it holds until a newer one comes."""
        with self._changed:
            self._check_camera(camera)
            infos = self._infos[camera]
            infos.pop(stamp_ns, None)
            infos[stamp_ns] = info
            if len(infos) > INFOS_KEPT:
                del infos[next(iter(infos))]
            self._changed.notify_all()

    def take_newest(self) -> SyncedSet | None:
        """The newest complete set that was not taken yet, or None. Ask after every image and every info."""
        with self._changed:
            if not self._has_set():
                return None
            taken, self._ready = self._ready, None
            self.delivered += len(taken.images)
            infos = {camera: self._info_of(camera, stamp) for camera, (stamp, _) in taken.images.items()}
            return SyncedSet(taken.stamp_ns, taken.images, infos, taken.missing, taken.epoch)

    def wait(self, timeout_seconds: float) -> bool:
        """Blocks until `take_newest` has something; False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(self._has_set, timeout_seconds)

    def clear(self, cause: str = "reset") -> None:
        """Forgets all images (counted under `cause`) and what time it was; calibrations stay."""
        with self._changed:
            self._clear(cause)
            self._before_jump.clear()

    @property
    def pending(self) -> int:
        """Images that wait for their partners or for the worker."""
        with self._changed:
            return sum(map(len, self._queues.values())) + (len(self._ready.images) if self._ready else 0)

    def silent_cameras(self) -> tuple[str, ...]:
        """Cameras without an image for longer than the timeout, by the stamps of the others."""
        with self._changed:
            return tuple(camera for camera in self.cameras if self._is_silent(camera))

    def _check_camera(self, camera: str) -> None:
        if camera not in self._queues:
            raise ValueError(f"camera: unknown {camera!r}; expected one of {', '.join(self.cameras)}")

    def _reject(self, camera: str, stamp_ns: int) -> str | None:
        """Cause to drop an image on arrival; notices when time jumps back."""
        if camera in self._before_jump and self._is_left_over(camera, stamp_ns):
            return "time_jump"
        newest = self._newest.get(camera)
        if newest is not None and stamp_ns < newest - self._max_backward_ns:
            before = {other: stamp for other, stamp in self._newest.items() if other != camera}
            self._clear("time_jump")
            self._before_jump = before
            self.epoch += 1
        elif newest is not None and stamp_ns == newest:
            return "duplicate_stamp"
        elif newest is not None and stamp_ns < newest:
            return "out_of_order"
        if self._closed_ns is not None and stamp_ns <= self._closed_ns:
            self._newest[camera] = stamp_ns
            return "late"
        return None

    def _is_left_over(self, camera: str, stamp_ns: int) -> bool:
        """After a jump back, whether the image still belongs to the time before it."""
        now = max(self._newest.values(), default=stamp_ns)
        if stamp_ns >= self._before_jump[camera] and stamp_ns - now > self._max_backward_ns:
            return True
        del self._before_jump[camera]
        return False

    def _clear(self, cause: str) -> None:
        self.drops[cause] += sum(map(len, self._queues.values())) + (len(self._ready.images) if self._ready else 0)
        for queue in self._queues.values():
            queue.clear()
        self._newest.clear()
        self._closed_ns = self._ready = None

    def _form_sets(self) -> None:
        """Decides about the oldest images as long as anything can be said about them."""
        while any(self._queues.values()):
            oldest = min(queue[0][0] for queue in self._queues.values() if queue)
            group = [c for c, queue in self._queues.items() if queue and queue[0][0] <= oldest + self._slop_ns]
            unknown = [camera for camera, queue in self._queues.items() if not queue]
            if len(group) == len(self.cameras):
                self._emit(group)
            elif not unknown:  # every other camera is past this set already
                self._give_up(group, "incomplete")
            elif max(self._newest.values()) - oldest > self._timeout_ns:
                self._closed_ns = max(self._queues[camera][0][0] for camera in group)
                self._give_up(group, "timeout")
            elif self._mask and all(self._is_silent(camera) for camera in unknown):  # no use in waiting for them
                self._give_up(group, "incomplete")
            else:
                return

    def _give_up(self, group: list[str], cause: str) -> None:
        """A set that stays without some cameras: masked where at least half of them are there, else dropped."""
        if self._mask and 2 * len(group) >= len(self.cameras):
            self._emit(group)
            return
        if not self._mask and all(self._queues.values()):  # those too old for the newest head, and no others
            limit_ns = max(queue[0][0] for queue in self._queues.values()) - self._slop_ns
            group = [camera for camera in group if self._queues[camera][0][0] < limit_ns]
        self.sets["incomplete"] += 1
        self.missing_images.update(camera for camera in self.cameras if camera not in group)
        for camera in group:
            self._queues[camera].popleft()
            self.drops[cause] += 1

    def _is_silent(self, camera: str) -> bool:
        newest = max(self._newest.values(), default=self._started_ns)
        return newest - self._newest.get(camera, self._started_ns) > self._timeout_ns

    def _emit(self, cameras: list[str]) -> None:
        """The heads of these cameras become the newest set."""
        if self._ready is not None:
            cause = "superseded" if self._has_set() else "no_camera_info"
            self.drops[cause] += len(self._ready.images)
            self.sets[cause] += 1
        images = {camera: self._queues[camera].popleft() for camera in cameras}
        absent = tuple(camera for camera in self.cameras if camera not in images)
        self.missing_images.update(absent)
        self.sets["masked" if absent else "complete"] += 1
        stamp = max(stamp for stamp, _ in images.values())
        self._ready = SyncedSet(stamp, images, {}, absent, self.epoch)

    def _has_set(self) -> bool:
        if self._ready is None:
            return False
        return not self._require_info or all(self._infos[camera] for camera in self._ready.images)

    def _info_of(self, camera: str, stamp_ns: int) -> Any:
        infos = self._infos[camera]
        if stamp_ns in infos or not infos:
            return infos.get(stamp_ns)
        return next(reversed(infos.values()))
