"""The one prepared set that waits for the network, and the moment at which the next one is begun.

    idle network     : prepare at once
    busy network     : prepare so that the set is ready when the network is, and take the newest set at that moment
    overdue network  : a set that has waited for as long as another takes to prepare makes way for a newer one, unless
                       sets are to wait their turn

A set that is begun earlier would be older by the time it waits; one that is begun later would leave the network idle.
How long both take is learnt from the last sets: the shortest time in the network, the longest preparation. A set that
comes while the network is idle meets no other: with time to spare nothing overlaps and nothing waits.

Where the network itself keeps all processors busy, nothing is gained by preparing beside it: both take longer by what
the other one takes, and every result is late by that. There a set is begun when the one before
is published, and not before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from sparse4d_core.inference.process_settings import spare_processors

LookAhead = Literal["auto", "always", "never"]

REMEMBERED = 5  # sets: few enough to follow a change, and one slow set is soon forgotten

Prepared = TypeVar("Prepared")


def looks_ahead(choice: LookAhead, on_gpu: bool, torch_threads: int, decode_threads: int) -> bool:
    """Whether sets are prepared while the network is busy.

    Args:
        choice: auto does where the network leaves enough processors idle to decode on.
        on_gpu: whether the network runs there, and so leaves all of them.
        torch_threads: of the network on the CPU; 0: torch's own choice.
        decode_threads: of the preparation.
    """
    if choice == "auto":
        return on_gpu or spare_processors(torch_threads) >= decode_threads
    return choice == "always"


class Lookahead(Generic[Prepared]):
    """Between the thread that prepares sets and the thread that runs the network.

    Args:
        ahead: prepare while the network is busy; otherwise only while it is idle.
        replace: a set that waits makes way for a newer one.
        clock: monotonic seconds.
    """

    def __init__(self, ahead: bool = True, replace: bool = True, clock: Callable[[], float] = time.monotonic):
        self._ahead, self._replace, self._clock = ahead, replace, clock
        self._changed = threading.Condition()
        self._waiting: Prepared | None = None
        self._ready_at = 0.0  # moment at which the waiting set was ready
        self._busy_since: float | None = None  # moment at which the network got its set
        self._closed = False
        self._network_took: deque[float] = deque(maxlen=REMEMBERED)  # s
        self._preparing_took: deque[float] = deque(maxlen=REMEMBERED)  # s

    # ----------------------------------------------------------------------------------------- the preparing thread

    def wait_until_due(self) -> bool:
        """Returns when it is time to prepare a set: True; or when this is closed: False."""
        with self._changed:
            while not self._closed:
                seconds = self.seconds_left()
                if seconds is not None and seconds <= 0:
                    return True
                self._changed.wait(seconds)
            return False

    def seconds_left(self) -> float | None:
        """Until the next set is due; None: not before the network is done, as nobody can tell how long that takes."""
        with self._changed:
            now = self._clock()
            if not self._ahead:
                return 0.0 if self._waiting is None and self._busy_since is None else None
            if self._waiting is not None:
                if not self._replace:
                    return None
                return self._ready_at + max(self._preparing_took) - now
            if self._busy_since is None:
                return 0.0
            if not self._network_took:
                return None
            return self._busy_since + min(self._network_took) - max(self._preparing_took) - now

    def put(self, prepared: Prepared, seconds: float) -> Prepared | None:
        """The set waits for the network from now on.

        Args:
            seconds: that its preparation took.

        Returns:
            The set that the network will not get: the one that waited before, if nobody took it; `prepared` itself
            after `close`.
        """
        with self._changed:
            if self._closed:
                return prepared
            replaced, self._waiting = self._waiting, prepared
            self._ready_at = self._clock()
            self._preparing_took.append(seconds)
            self._changed.notify_all()
            return replaced

    # ------------------------------------------------------------------------------------------- the network's thread

    def take(self) -> Prepared | None:
        """The network is done with what it took before: waits for the next set. None after `close`."""
        with self._changed:
            if self._busy_since is not None:
                self._network_took.append(self._clock() - self._busy_since)
                self._busy_since = None
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is not None or self._closed)
            taken, self._waiting = self._waiting, None
            if taken is not None:
                self._busy_since = self._clock()
                self._changed.notify_all()
            return taken

    # ---------------------------------------------------------------------------------------------------- any thread

    @property
    def waiting(self) -> Prepared | None:
        """The set that the network gets next, if that is ready."""
        return self._waiting

    def close(self) -> Prepared | None:
        """Nobody waits any more. Returns the set that waited."""
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, None
            self._changed.notify_all()
            return left
