"""Transform buffer: a tree of frames over time, with the answers and the errors of tf2.

No ROS in here. Stamps are int nanoseconds and never pass through a float (at today's epoch a double resolves 256 ns).
``T_a_from_b`` maps coordinates of frame b to frame a; an edge (parent, child) holds ``T_parent_from_child``.

Differences from tf2's BufferCore, both deliberate: a frame that changes its parent starts a new history, and rotations
are normalised when they are inserted.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sparse4d_core.boxes import inverse

from ..units import NANOSECONDS, nanoseconds

try:  # ROS carries tf_transformations, a thin layer (quaternions x, y, z, w) over transforms3d
    from tf_transformations import quaternion_from_matrix, quaternion_matrix, quaternion_slerp
except ModuleNotFoundError:  # elsewhere the same three functions come from transforms3d itself (w, x, y, z)
    from transforms3d import quaternions as _quaternions

    def quaternion_matrix(rotation_xyzw: Sequence[float]) -> np.ndarray:
        """Homogeneous matrix [4, 4] of a quaternion x, y, z, w."""
        matrix = np.eye(4)
        matrix[:3, :3] = _quaternions.quat2mat(np.roll(rotation_xyzw, 1))
        return matrix

    def quaternion_from_matrix(matrix: np.ndarray) -> np.ndarray:
        """Quaternion x, y, z, w (w >= 0) of a homogeneous matrix [4, 4]."""
        return np.roll(_quaternions.mat2quat(matrix[:3, :3]), -1)

    def quaternion_slerp(start: np.ndarray, end: np.ndarray, fraction: float) -> np.ndarray:
        """Quaternion x, y, z, w between two others on the shorter arc; fraction 0 is `start`, 1 is `end`."""
        start, end = np.roll(start, 1), np.roll(end, 1)
        turn = _quaternions.qmult(_quaternions.qconjugate(start), end)
        if turn[0] < 0:
            turn = -turn
        length = math.hypot(*turn[1:])
        if length == 0.0:
            return np.roll(start, -1)
        angle = 2.0 * math.atan2(length, turn[0])  # exact for small angles, where acos(w) is not
        step = _quaternions.axangle2quat(turn[1:] / length, fraction * angle, is_normalized=True)
        return np.roll(_quaternions.qmult(start, step), -1)


QUATERNION_TOLERANCE = 10e-3  # tf2 refuses a rotation whose norm is further from 1


class TransformError(Exception):
    """A lookup or an insertion that has no answer. Nothing is ever replaced by the identity.

    Attributes:
        tf2_name: class of the same error in tf2.
        kind: finer cause, one word: extrapolation_past, unknown_frame, ...
    """

    tf2_name = "TransformException"

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind

    @property
    def cause(self) -> str:
        """Name under which sets that were dropped for this error are counted."""
        return f"tf_{self.kind}"


class LookupFailed(TransformError):
    """A frame that the buffer has never heard of."""

    tf2_name = "LookupException"


class Disconnected(TransformError):
    """Both frames are known, but in two trees."""

    tf2_name = "ConnectivityException"


class ExtrapolationFailed(TransformError):
    """An edge of the chain has no data around the requested time."""

    tf2_name = "ExtrapolationException"


class InvalidArgument(TransformError):
    """A frame name or a transform that can not be right."""

    tf2_name = "InvalidArgumentException"


@dataclass(frozen=True)
class StampedTransform:
    matrix: np.ndarray  # [4, 4] float64, T_target_from_source, metres
    stamp_ns: int

    @property
    def translation(self) -> np.ndarray:
        """[3] metres."""
        return self.matrix[:3, 3]

    @property
    def rotation_xyzw(self) -> np.ndarray:
        """[4] unit quaternion, w >= 0."""
        rotation = np.asarray(quaternion_from_matrix(self.matrix))
        return -rotation if rotation[3] < 0 else rotation


@dataclass
class _Edge:
    """History of T_parent_from_child of one child, ordered by stamp; a static edge has one sample of any time."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    samples: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # translation [3], rotation x y z w [4]

    def insert(self, stamp_ns: int, sample: tuple[np.ndarray, np.ndarray], cache_ns: int) -> bool:
        """Keeps the sample unless it is older than the cache or repeats a stamp (the first one stays, as in tf2)."""
        if self.static:
            self.stamps, self.samples = [0], [sample]
            return True
        if self.stamps and stamp_ns < self.stamps[-1] - cache_ns:
            return False
        index = bisect.bisect_left(self.stamps, stamp_ns)
        if index < len(self.stamps) and self.stamps[index] == stamp_ns:
            return False
        self.stamps.insert(index, stamp_ns)
        self.samples.insert(index, sample)
        expired = bisect.bisect_left(self.stamps, self.stamps[-1] - cache_ns)
        del self.stamps[:expired], self.samples[:expired]
        return True

    def at(self, time_ns: int, child: str) -> np.ndarray:
        """T_parent_from_child [4, 4] at the time: translation linear, rotation by slerp, both ends inclusive."""
        if self.static:
            return _matrix(*self.samples[0])
        index = bisect.bisect_left(self.stamps, time_ns)
        if index < len(self.stamps) and self.stamps[index] == time_ns:
            return _matrix(*self.samples[index])
        if index == 0 or index == len(self.stamps):
            raise self._out_of_range(time_ns, child)
        before, after = self.stamps[index - 1], self.stamps[index]
        fraction = (time_ns - before) / (after - before)
        (translation_0, rotation_0), (translation_1, rotation_1) = self.samples[index - 1 : index + 1]
        translation = translation_0 + fraction * (translation_1 - translation_0)
        return _matrix(translation, quaternion_slerp(rotation_0, rotation_1, fraction))

    def _out_of_range(self, time_ns: int, child: str) -> ExtrapolationFailed:
        first, last = self.stamps[0], self.stamps[-1]
        kind, side = ("extrapolation_past", "before") if time_ns < first else ("extrapolation_future", "after")
        distance = _seconds(max(first - time_ns, time_ns - last))
        return ExtrapolationFailed(
            f"transform {self.parent} <- {child} at {_seconds(time_ns)}: {distance} {side} its data, which cover "
            f"{_seconds(first)} to {_seconds(last)} ({len(self.stamps)} samples); "
            "check the publisher of this transform and the clocks",
            "extrapolation_one_value" if len(self.stamps) == 1 else kind,
        )


class TransformBuffer:
    """Transforms between named frames over the last `cache_seconds`; safe to use from several threads."""

    def __init__(self, cache_seconds: float = 10.0):
        if not cache_seconds > 0:
            raise ValueError(f"cache_seconds: expected a positive number of seconds, got {cache_seconds}")
        self._cache_ns = nanoseconds(cache_seconds)
        self._edges: dict[str, _Edge] = {}  # child -> edge to its parent
        self._frames: set[str] = set()
        self._changed = threading.Condition()
        self._revision = 0

    def insert(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        translation: Sequence[float],
        rotation_xyzw: Sequence[float],
        static: bool = False,
    ) -> bool:
        """Stores T_parent_from_child (metres, quaternion x y z w). A static transform holds at any time.

        Returns:
            False if the sample was not kept: older than the cache, or its stamp is there already.

        Raises:
            InvalidArgument: empty or equal frame names, values not finite, rotation not of unit length.
        """
        parent, child = parent.removeprefix("/"), child.removeprefix("/")  # as tf2 does on insertion
        sample = _checked_sample(parent, child, translation, rotation_xyzw)
        with self._changed:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static:
                edge = self._edges[child] = _Edge(parent, static)
            self._frames.update((parent, child))
            kept = edge.insert(int(stamp_ns), sample, self._cache_ns)
            self._revision += kept
            self._changed.notify_all()
        return kept

    def lookup(self, target: str, source: str, time_ns: int) -> StampedTransform:
        """T_target_from_source at one time; time 0 asks for the latest time that all edges of the chain have.

        Raises:
            InvalidArgument, LookupFailed, Disconnected, ExtrapolationFailed: as tf2's lookupTransform.
        """
        with self._changed:
            return self._lookup(target, source, int(time_ns))

    def lookup_full(
        self, target: str, target_time_ns: int, source: str, source_time_ns: int, fixed: str
    ) -> StampedTransform:
        """T_target(at its time)_from_source(at its own time), through a frame that does not move in between.

        Raises:
            InvalidArgument, LookupFailed, Disconnected, ExtrapolationFailed: as tf2's full lookupTransform.
        """
        with self._changed:
            for name, frame in (("target", target), ("source", source), ("fixed", fixed)):
                self._check_frame(name, frame)
            T_fixed_from_source = self._lookup(fixed, source, int(source_time_ns)).matrix
            T_target_from_fixed = self._lookup(target, fixed, int(target_time_ns))
        return StampedTransform(T_target_from_fixed.matrix @ T_fixed_from_source, T_target_from_fixed.stamp_ns)

    def newest_ns(self, child: str) -> int | None:
        """Newest stamp of a frame's own dynamic edge; None if it has none."""
        with self._changed:
            edge = self._edges.get(child)
            return None if edge is None or edge.static else edge.stamps[-1]

    def clear(self) -> None:
        """Forgets every dynamic transform; static ones stay."""
        with self._changed:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    @property
    def revision(self) -> int:
        """Grows with every transform kept; see `wait_for_change`."""
        return self._revision

    def wait_for_change(self, revision: int, timeout_seconds: float) -> bool:
        """Blocks until something newer than `revision` was inserted. Returns False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._revision != revision, max(timeout_seconds, 0.0))

    def _lookup(self, target: str, source: str, time_ns: int) -> StampedTransform:
        if target == source:
            return StampedTransform(np.eye(4), time_ns or self._own_stamp(target))
        self._check_frame("target", target)
        self._check_frame("source", source)
        up, down = self._chain(target, source)
        if time_ns == 0:
            dynamic = [edge.stamps[-1] for _, edge in up + down if not edge.static]
            time_ns = min(dynamic, default=0)
        T_common_from_source, error = _compose(up, time_ns)
        T_common_from_target, later_error = _compose(down, time_ns)
        if later_error or error:  # tf2 reports the target's side where both fail
            raise later_error or error
        return StampedTransform(inverse(T_common_from_target) @ T_common_from_source, time_ns)

    def _own_stamp(self, frame: str) -> int:
        edge = self._edges.get(frame)
        return edge.stamps[-1] if edge else 0

    def _check_frame(self, name: str, frame: str) -> None:
        if not frame:
            raise InvalidArgument(f"{name}: expected a frame name, got an empty one", "invalid_argument")
        if frame.startswith("/"):
            raise InvalidArgument(
                f"{name}: frame {frame!r} must not start with '/'; use {frame.lstrip('/')!r}", "invalid_argument"
            )
        if frame not in self._frames:
            known = ", ".join(sorted(self._frames)) or "none"
            raise LookupFailed(f"{name}: unknown frame {frame!r}; known frames: {known}", "unknown_frame")

    def _chain(self, target: str, source: str) -> tuple[list[tuple[str, _Edge]], list[tuple[str, _Edge]]]:
        """Edges from the source and from the target up to their nearest common ancestor."""
        to_root = {frame: depth for depth, frame in enumerate(self._ancestors(target))}
        up = self._ancestors(source)
        common = next((frame for frame in up if frame in to_root), None)
        if common is None:
            raise Disconnected(
                f"{target} <- {source}: the frames are in two trees, below {list(to_root)[-1]} and {up[-1]}; "
                "a transform between the trees is missing",
                "connectivity",
            )
        down = list(to_root)[: to_root[common]]
        return (
            [(frame, self._edges[frame]) for frame in up[: up.index(common)]],
            [(frame, self._edges[frame]) for frame in down],
        )

    def _ancestors(self, frame: str) -> list[str]:
        """The frame itself, its parent, and so on to the root."""
        line = [frame]
        while (edge := self._edges.get(line[-1])) is not None:
            if edge.parent in line:
                raise LookupFailed(
                    f"frames form a loop: {' <- '.join([*line, edge.parent])}; one of them has two parents", "loop"
                )
            line.append(edge.parent)
        return line


def _compose(edges: list[tuple[str, _Edge]], time_ns: int) -> tuple[np.ndarray, ExtrapolationFailed | None]:
    """T_ancestor_from_frame along edges that lead up from the frame, or the first error met."""
    matrix = np.eye(4)
    for child, edge in edges:
        try:
            matrix = edge.at(time_ns, child) @ matrix
        except ExtrapolationFailed as error:
            return matrix, error
    return matrix, None


def _checked_sample(parent: str, child: str, translation, rotation_xyzw) -> tuple[np.ndarray, np.ndarray]:
    if not parent or not child or parent == child:
        raise InvalidArgument(
            f"transform {parent!r} <- {child!r}: expected two different frame names", "invalid_frames"
        )
    translation = np.array(translation, dtype=np.float64).reshape(3)
    rotation = np.array(rotation_xyzw, dtype=np.float64).reshape(4)
    if not (np.isfinite(translation).all() and np.isfinite(rotation).all()):
        raise InvalidArgument(
            f"transform {parent} <- {child}: expected finite numbers, got {translation} and {rotation}",
            "not_finite",
        )
    norm = float(np.linalg.norm(rotation))
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        raise InvalidArgument(
            f"transform {parent} <- {child}: rotation {rotation} has length {norm:.4f}, expected 1", "not_normalised"
        )
    return translation, rotation / norm


def _matrix(translation: np.ndarray, rotation_xyzw: np.ndarray) -> np.ndarray:
    matrix = quaternion_matrix(rotation_xyzw)
    matrix[:3, 3] = translation
    return matrix


def _seconds(stamp_ns: int) -> str:
    """Seconds with all nine decimals, without a float in between."""
    sign = "-" if stamp_ns < 0 else ""
    return f"{sign}{abs(stamp_ns) // NANOSECONDS}.{abs(stamp_ns) % NANOSECONDS:09d} s"
