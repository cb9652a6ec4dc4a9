"""Where each track was in the last seconds, on the ground: for pictures alone."""

from __future__ import annotations

from collections import deque

import numpy as np

from sparse4d_core.boxes import inverse
from sparse4d_core.types import Detections

from ..units import NANOSECONDS

SECONDS = 4.0  # kept
STEP_NS = NANOSECONDS // 5  # between two positions that are kept: a line needs no more
GAP_NS = 2 * NANOSECONDS  # a longer pause, or a step back, starts anew: the node forgets its tracks as well
SHORTEST = 0.5  # m between the ends of a trail that is worth a line


class Trails:
    """Positions of tracks in the global frame, in which what stands leaves no trail while the vehicle drives.

    Args:
        seconds: how long a position is kept.
    """

    def __init__(self, seconds: float = SECONDS):
        self._kept_ns = round(seconds * NANOSECONDS)
        self._rows: deque[tuple[int, dict[int, np.ndarray]]] = deque()  # stamp, track id -> [3] in the global frame
        self._last_ns: int | None = None

    def follow(
        self, tracks: Detections, boxes: np.ndarray, T_global_from_base: np.ndarray, stamp_ns: int
    ) -> dict[int, np.ndarray]:
        """Takes in one set; returns the trails of its tracks, those that moved.

        Args:
            tracks: with ids; rows without one have no trail.
            boxes: [M, 10] float64 of them in the base frame.
            T_global_from_base: [4, 4] at the set's stamp.
            stamp_ns: of the set.

        Returns:
            Track id -> positions [K, 3] in the base frame at the set's stamp, oldest first.
        """
        if self._last_ns is not None and not 0 < stamp_ns - self._last_ns <= GAP_NS:
            self._rows.clear()
        self._last_ns = stamp_ns
        while self._rows and self._rows[0][0] < stamp_ns - self._kept_ns:
            self._rows.popleft()
        ids = [] if tracks.ids is None else tracks.ids.tolist()
        places = boxes[:, :3] @ T_global_from_base[:3, :3].T + T_global_from_base[:3, 3]
        now = {track: place for track, place in zip(ids, places, strict=False) if track >= 0}
        before = [row for _, row in self._rows]
        if not self._rows or stamp_ns - self._rows[-1][0] >= STEP_NS:
            self._rows.append((stamp_ns, now))
        trails = {track: np.array([row[track] for row in (*before, now) if track in row]) for track in now}
        T_base_from_global = inverse(T_global_from_base)
        return {
            track: places @ T_base_from_global[:3, :3].T + T_base_from_global[:3, 3]
            for track, places in trails.items()
            if np.linalg.norm(places[-1] - places[0]) > SHORTEST
        }
