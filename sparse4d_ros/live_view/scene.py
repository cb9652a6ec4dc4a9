"""The last minute of a drive: objects, camera images and health, by the time at which they came in.

Sources write, pages read; neither waits for the other. No ROS and no viser in here. Stamps of sets, images and
diagnostics may come from different clocks and jump back when a bag starts over, so the order of arrival rules.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np

from sparse4d_core.boxes import inverse
from sparse4d_core.types import Detections

from .health_sample import HealthSample

KEPT_SECONDS = 60.0
TRAIL_GAP_NS = 2_000_000_000  # a longer pause, or a step back, starts a new drive: the node forgets its tracks as well
IMAGE_REACH_NS = 500_000_000  # an image further from the set than this does not show the same scene
SILENT_AFTER, SILENT_INTERVALS = 5.0, 3.0  # s, and times the last interval, without a message: its sender is gone


class NothingToSaveError(ValueError):
    """The scene has no set of boxes."""


@dataclass(frozen=True)
class ObjectSet:
    """What was found in one set of images."""

    stamp_ns: int
    boxes: Detections  # [M, 10] in the base frame
    T_global_from_base: np.ndarray | None = None  # [4, 4] at the stamp; None: the pose is not known
    drive: int = 0  # sets of one drive follow each other; counted by the scene


@dataclass(frozen=True)
class CameraImage:
    """A small picture of one camera, and where it was taken from."""

    stamp_ns: int
    jpeg: bytes
    size_wh: tuple[int, int]  # pixels of the picture
    intrinsics: np.ndarray  # [3, 3] float64, pixels of the picture
    T_base_from_cam: np.ndarray | None = None  # [4, 4]; None: the pose is not known
    T_global_from_cam: np.ndarray | None = None  # [4, 4] at the image's own stamp


@dataclass(frozen=True)
class Moment:
    """Everything that there was at one time."""

    time: float  # s, as the sources count
    objects: ObjectSet | None = None
    images: Mapping[str, CameraImage] = field(default_factory=dict)  # camera -> the image that goes with the objects
    image_ages: Mapping[str, float] = field(default_factory=dict)  # camera -> s since its newest image
    health: HealthSample | None = None
    silent_for: float | None = None  # s since the diagnostics, if the node has fallen silent after them


class _Recent:
    """(time, value) pairs of the last minute, times not decreasing, also where the clock of the source steps back."""

    def __init__(self) -> None:
        self.rows: deque[tuple[float, object]] = deque()

    def add(self, time: float, value: object) -> None:
        newest = self.rows[-1][0] if self.rows else time
        self.rows.append((max(time, newest), value))

    def forget(self, before: float) -> None:
        while self.rows and self.rows[0][0] < before:
            self.rows.popleft()

    def until(self, time: float) -> list[tuple[float, object]]:
        """Newest first."""
        return [row for row in reversed(self.rows) if row[0] <= time]

    def newest(self, time: float) -> tuple[float, object] | None:
        return next((row for row in reversed(self.rows) if row[0] <= time), None)

    def silent_for(self, time: float) -> float | None:
        """Seconds since the newest, if the next one should have come long ago; of one alone that cannot be told."""
        last_two = [arrival for arrival, _ in self.until(time)[:2]]
        if len(last_two) < 2:
            return None
        age, interval = time - last_two[0], last_two[0] - last_two[1]
        return age if age > max(SILENT_AFTER, SILENT_INTERVALS * interval) else None


class Scene:
    """See the module. Thread-safe.

    Args:
        cameras: names, in the order of the rig; an image of another camera is an error.
        seconds: how long anything is kept.
    """

    def __init__(self, cameras: tuple[str, ...], seconds: float = KEPT_SECONDS):
        self.cameras, self.seconds = cameras, seconds
        self._changed = threading.Condition()
        self._now = 0.0
        self._revision = 0
        self._objects, self._health = _Recent(), _Recent()
        self._images = {camera: _Recent() for camera in cameras}

    # ---------------------------------------------------------------------------------------------------------- writing

    def add_objects(self, time: float, objects: ObjectSet) -> None:
        """A set that came in at `time` (s)."""
        with self._changed:
            before = self._objects.rows[-1][1] if self._objects.rows else None
            drive = 0
            if before is not None:
                follows = 0 < objects.stamp_ns - before.stamp_ns <= TRAIL_GAP_NS
                drive = before.drive if follows else before.drive + 1
            self._add(self._objects, time, replace(objects, drive=drive))

    def add_image(self, time: float, camera: str, image: CameraImage) -> None:
        """An image that came in at `time` (s)."""
        with self._changed:
            self._add(self._images[camera], time, image)

    def add_health(self, time: float, sample: HealthSample) -> None:
        """Diagnostics that came in at `time` (s)."""
        with self._changed:
            self._add(self._health, time, sample)

    def _add(self, rows: _Recent, time: float, value: object) -> None:
        self._now = max(self._now, time)
        rows.add(time, value)
        for recent in (self._objects, self._health, *self._images.values()):
            recent.forget(self._now - self.seconds)
        self._revision += 1
        self._changed.notify_all()

    def tick(self, time: float) -> None:
        """It is `time` (s) now, although nothing came in: ages grow."""
        with self._changed:
            self._now = max(self._now, time)

    def held(self) -> Scene:
        """A copy in which nothing changes any more, for a page that is paused."""
        copy = Scene(self.cameras, self.seconds)
        with self._changed:
            copy._now, copy._revision = self._now, self._revision
            copy._objects.rows, copy._health.rows = self._objects.rows.copy(), self._health.rows.copy()
            for camera, recent in self._images.items():
                copy._images[camera].rows = recent.rows.copy()
        return copy

    # ---------------------------------------------------------------------------------------------------------- reading

    @property
    def now(self) -> float:
        """Seconds; the newest time that a source has told."""
        with self._changed:
            return self._now

    @property
    def revision(self) -> int:
        """Grows with everything that comes in; see `wait_for_change`."""
        with self._changed:
            return self._revision

    def wait_for_change(self, revision: int, timeout: float) -> bool:
        """Blocks until something newer than `revision` came in. Returns False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._revision != revision, timeout)

    def moment(self, time: float | None = None) -> Moment:
        """What was the newest at `time` (s); None: now. Once the sets have stopped the images are the newest, no longer
        those beside the last set."""
        with self._changed:
            time = self._now if time is None else time
            objects, health = self._objects.newest(time), self._health.newest(time)
            silent_for = self._health.silent_for(time)
            newest = {camera: rows.newest(time) for camera, rows in self._images.items()}
            found = objects[1] if objects else None
            shown = found if self._objects.silent_for(time) is None else None
            images = {camera: _beside(shown, self._images[camera].until(time)) for camera, row in newest.items() if row}
        return Moment(
            time=time,
            objects=found,
            images={camera: image for camera, image in images.items() if image is not None},
            image_ages={camera: time - row[0] for camera, row in newest.items() if row},
            health=health[1] if health else None,
            silent_for=silent_for,
        )

    def trails(self, time: float, seconds: float) -> dict[int, np.ndarray]:
        """Track id -> its positions [K, 3] in the global frame, oldest first, over the last `seconds` of its drive."""
        found: dict[int, list[np.ndarray]] = {}
        for _, objects in self._drive(time, seconds):
            if objects.T_global_from_base is None or objects.boxes.ids is None:
                continue
            R, t = objects.T_global_from_base[:3, :3], objects.T_global_from_base[:3, 3]
            centres = np.asarray(objects.boxes.boxes, np.float64)[:, :3] @ R.T + t
            for track, centre in zip(objects.boxes.ids.tolist(), centres, strict=True):
                found.setdefault(track, []).append(centre)
        return {track: np.array(points[::-1]) for track, points in found.items()}

    def history(self, track: int, time: float) -> np.ndarray:
        """One track over its drive, [K, 5], oldest first: s before `time` (not above 0), score, speed m/s, distance m
        from the vehicle's origin, yaw rad in the base frame."""
        rows = []
        for moment, objects in self._drive(time, self.seconds):
            if objects.boxes.ids is None:
                continue
            for row in np.flatnonzero(objects.boxes.ids == track)[:1]:
                box = np.asarray(objects.boxes.boxes[row], np.float64)
                score = float(objects.boxes.scores[row])
                rows.append((moment - time, score, np.hypot(*box[7:9]), np.hypot(*box[:2]), box[6]))
        return np.array(rows[::-1]).reshape(-1, 5)

    def health_history(self, time: float) -> list[tuple[float, HealthSample]]:
        """(s before `time`, sample), oldest first."""
        with self._changed:
            return [(moment - time, sample) for moment, sample in reversed(self._health.until(time))]

    def arrivals(self) -> list[float]:
        """When the sets came in (s), oldest first."""
        with self._changed:
            return [moment for moment, _ in self._objects.rows]

    def set_times(self, time: float) -> np.ndarray:
        """When the sets came in, s before `time`, oldest first."""
        return np.array([moment - time for moment in self.arrivals() if moment <= time])

    def _drive(self, time: float, seconds: float) -> list[tuple[float, ObjectSet]]:
        """The sets of the drive that `time` falls in, newest first."""
        with self._changed:
            rows = self._objects.until(time)
        drive = rows[0][1].drive if rows else 0
        return list(takewhile(lambda row: row[1].drive == drive and row[0] >= time - seconds, rows))


def _beside(objects: ObjectSet | None, rows: list[tuple[float, CameraImage]]) -> CameraImage | None:
    """The image nearest to the set in time; without objects the newest. None: none that shows the same scene."""
    if objects is None:
        return rows[0][1]
    nearest = min((image for _, image in rows), key=lambda image: abs(image.stamp_ns - objects.stamp_ns))
    return nearest if abs(nearest.stamp_ns - objects.stamp_ns) <= IMAGE_REACH_NS else None


def T_cam_from_base(objects: ObjectSet, image: CameraImage) -> np.ndarray | None:
    """[4, 4] from the base frame at the set's stamp to the camera at the image's own stamp; None: a pose is missing, or
    the image is of another time."""
    if abs(image.stamp_ns - objects.stamp_ns) > IMAGE_REACH_NS:
        return None
    if image.T_global_from_cam is None or objects.T_global_from_base is None:
        return None
    return inverse(image.T_global_from_cam) @ objects.T_global_from_base
