"""Queues of images, one a camera ► groups of images whose stamps agree.

Once every queue has a head, the heads that are more than the slop older than the newest head can never find a partner
(the queues are in order), so they are dropped; heads that agree form the next set. The sets therefore do not depend on
how the cameras' messages interleave on their way here, and no image is ever used twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .camera_statistics import ImageCounts

PATIENCE = 2.5  # sets: so long a camera may be silent before it is not waited for

Images = dict[str, tuple[int, Any]]
"""Camera -> (stamp in nanoseconds, item)."""


class SetFormer:
    """Groups images by their stamps alone. Every image that was taken in ends in a set or in `counts`.

    Args:
        slop_ns: largest time between two images of a set.
        timeout_ns: how much newer another image may get while an image waits for its partners.
        mask: hand out sets of at least half of the cameras, rather than complete ones only.
        is_left_out: whether a camera is not to be waited for, because its images are not used.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        slop_ns: int,
        timeout_ns: int,
        mask: bool,
        counts: ImageCounts,
        is_left_out: Callable[[str], bool],
    ):
        self._cameras, self._slop_ns, self._timeout_ns, self._mask = tuple(cameras), slop_ns, timeout_ns, mask
        self._counts, self._is_left_out = counts, is_left_out
        self._queues: dict[str, deque[tuple[int, Any]]] = {camera: deque() for camera in cameras}
        self.newest: dict[str, int] = {}  # newest stamp of each camera
        self._started_ns = 0  # first stamp since time began or jumped
        self._closed_ns: int | None = None  # images up to here have lost their set
        self._formed_ns: int | None = None  # stamp of the last set
        self._interval_ns = 0  # between the last two sets

    @property
    def pending(self) -> int:
        """Images that wait for their partners."""
        return sum(map(len, self._queues.values()))

    @property
    def horizon_ns(self) -> int | None:
        """What is decided already: a set never gets an older stamp than this."""
        return max((stamp for stamp in (self._closed_ns, self._formed_ns) if stamp is not None), default=None)

    def take_in(self, camera: str, stamp_ns: int, item: Any) -> str | None:
        """Puts an image into its queue, or returns the cause to drop it."""
        newest = self.newest.get(camera)
        if newest is not None and stamp_ns <= newest:
            return "duplicate_stamp" if stamp_ns == newest else "out_of_order"
        if not self.newest:
            self._started_ns = stamp_ns
        self.newest[camera] = stamp_ns
        if self._closed_ns is not None and stamp_ns <= self._closed_ns:
            return "late"
        if self._formed_ns is not None and stamp_ns + self._slop_ns < self._formed_ns:
            return "late"  # no set that it could be in is newer than the last one
        self._queues[camera].append((stamp_ns, item))
        return None

    def form(self, silent: bool = False) -> Iterator[Images]:
        """Decides about the oldest images as long as anything can be said about them; yields sets in order.

        Args:
            silent: no image comes any more, so that none is waited for.
        """
        while any(self._queues.values()):
            oldest = min(queue[0][0] for queue in self._queues.values() if queue)
            group = [c for c, queue in self._queues.items() if queue and queue[0][0] <= oldest + self._slop_ns]
            unknown = [camera for camera, queue in self._queues.items() if not queue]
            if len(group) == len(self._cameras):
                yield from self._complete(group)
            elif not unknown:  # every other camera is past this set already
                yield from self._give_up(group, "incomplete")
            elif silent or max(self.newest.values()) - oldest > self._timeout_ns:
                self._closed_ns = max(self._queues[camera][0][0] for camera in group)
                yield from self._give_up(group, "timeout")
            elif self._mask and all(map(self._is_not_awaited, unknown)):  # no use in waiting for them
                yield from self._give_up(group, "incomplete")
            else:
                return

    def is_overdue(self, camera: str) -> bool:
        """Whether the camera had no image for longer than the timeout, by the stamps of the others."""
        return self._silence_ns(camera) > self._timeout_ns

    def leave_out(self, camera: str, cause: str, keep: Callable[[int], bool] = lambda stamp_ns: False) -> None:
        """Drops a camera's waiting images, and what its newest stamp was, except images whose stamp `keep` accepts."""
        kept = [entry for entry in self._queues[camera] if keep(entry[0])]
        self._counts.drop(camera, cause, len(self._queues[camera]) - len(kept))
        self._queues[camera] = deque(kept)
        self.newest.pop(camera, None)
        if kept:
            self.newest[camera] = kept[-1][0]

    def clear(self, cause: str) -> None:
        """Drops all waiting images, and begins anew."""
        for camera, queue in self._queues.items():
            self._counts.drop(camera, cause, len(queue))
            queue.clear()
        self.newest.clear()
        self._closed_ns = self._formed_ns = None
        self._interval_ns = 0

    def _is_not_awaited(self, camera: str) -> bool:
        """Whether nothing is to be expected of a camera for this set.

        One lost image does not mean that it is gone, also where sets are further apart than the timeout. After a
        silence of all, whoever comes first finds the others overdue that were in the last set: they are late.
        """
        if self._is_left_out(camera):
            return True
        was_in_last = self._formed_ns is not None and self.newest.get(camera, -1) + self._slop_ns >= self._formed_ns
        return not was_in_last and self._silence_ns(camera) > max(self._timeout_ns, PATIENCE * self._interval_ns)

    def _silence_ns(self, camera: str) -> int:
        """How much newer another camera's image is than its own."""
        return max(self.newest.values(), default=self._started_ns) - self.newest.get(camera, self._started_ns)

    def _give_up(self, group: list[str], cause: str) -> Iterator[Images]:
        """A set that stays without some cameras: masked where at least half of them are there, else dropped."""
        if self._mask and 2 * len(group) >= len(self._cameras):
            yield from self._complete(group)
            return
        if not self._mask and all(self._queues.values()):  # those too old for the newest head, and no others
            limit_ns = max(queue[0][0] for queue in self._queues.values()) - self._slop_ns
            group = [camera for camera in group if self._queues[camera][0][0] < limit_ns]
        self._counts.sets["incomplete"] += 1
        self._counts.miss(camera for camera in self._cameras if camera not in group)
        for camera in group:
            self._queues[camera].popleft()
            self._counts.drop(camera, cause)

    def _complete(self, group: list[str]) -> Iterator[Images]:
        """The heads of these cameras are a set, unless a newer one came out already (other cameras lagged)."""
        images = {camera: self._queues[camera].popleft() for camera in group}
        stamp_ns = max(stamp for stamp, _ in images.values())
        if self._formed_ns is not None and stamp_ns < self._formed_ns:
            self._counts.sets["incomplete"] += 1
            for camera in group:
                self._counts.drop(camera, "late")
            return
        self._interval_ns = 0 if self._formed_ns is None else stamp_ns - self._formed_ns
        self._formed_ns = stamp_ns
        yield images
