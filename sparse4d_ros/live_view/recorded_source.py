"""A recorded run for the page, without ROS: the images of a bag and the boxes of a record, at the pace of the drive."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from sparse4d_core.inference.tracking import worth_showing
from sparse4d_core.interrupts import StopRequest

from ..bags.bag_io import BagError
from ..bags.box_record import BoxRecordError, SetRecord, read_box_record
from ..bags.sets import BagFrames
from ..parameters import NodeParameters
from ..perception.image_decoding import ConversionError
from ..perception.rig import Rig
from ..perception.synchronizer import SyncedSet
from ..units import NANOSECONDS
from .scene import ObjectSet, Scene
from .thumbnails import Thumbnails

LONGEST_PAUSE = 2.0  # s; longer silences of the bag are shortened to it
MOST_BEHIND = 0.5  # s that are made up for after a set that took long; the rest is lost time

log = logging.getLogger(__name__)


@dataclass
class RecordedSource:
    """See the module.

    Args:
        bag: its folder.
        record: JSON lines of box_recorder or replay.
        rig: of the bag.
        sync_slop: of the record's sets, s.
    """

    bag: Path
    record: Path
    rig: Rig
    sync_slop: float = NodeParameters.sync_slop

    def __post_init__(self) -> None:
        self._records = {record.stamp_ns: record for record in read_box_record(self.record)}
        self.unreadable = 0  # images
        self.without_boxes = 0  # sets of the bag that the record does not have

    def load(self, scene: Scene, stop: StopRequest | None = None) -> float:
        """The whole run at once, or what there was until asked to end; returns the time of its end (s).

        Raises:
            BagError, BoxRecordError: see `_sets`.
        """
        time = 0.0
        for pause, synced, thumbnails in self._sets():
            if stop is not None and stop.requested:
                break
            time += pause
            self._show(scene, time, synced, thumbnails)
        return time

    def play(self, scene: Scene, stop: StopRequest, rate: float = 1.0, loops: int = 1) -> None:
        """The run in real time, `rate` times as fast; `loops` 0: until asked to end.

        Raises:
            BagError, BoxRecordError: see `_sets`.
        """
        time, due, played = 0.0, monotonic(), 0
        while not stop.requested and (loops == 0 or played < loops):
            for pause, synced, thumbnails in self._sets():
                due = max(due + pause / rate, monotonic() - MOST_BEHIND)
                if stop.wait(due - monotonic()):
                    return
                time += pause / rate
                self._show(scene, time, synced, thumbnails)
            played += 1

    def _sets(self) -> Iterator[tuple[float, SyncedSet, Thumbnails]]:
        """Each set of the bag, the seconds since the one before, and what makes its pictures.

        Raises:
            BagError: the bag cannot be read, or (at its end) there was no set.
            BoxRecordError: at the end: the record has none of the sets.
        """
        frames = BagFrames(self.bag, self.rig, NodeParameters(missing_camera="mask", sync_slop=self.sync_slop))
        thumbnails = Thumbnails(self.rig.frames, frames.buffer)
        before: int | None = None
        sets = with_boxes = 0
        for synced in frames.sets():
            sets += 1
            with_boxes += synced.stamp_ns in self._records
            pause = 0.1 if before is None else (synced.stamp_ns - before) / NANOSECONDS
            yield min(max(pause, 0.0), LONGEST_PAUSE), synced, thumbnails
            before = synced.stamp_ns
        if not sets:
            raise BagError(f"bag: no complete set in {self.bag}: images dropped {dict(frames.synchronizer.drops)}")
        if not with_boxes:
            raise BoxRecordError(
                f"{self.record}: has none of the {sets} sets of {self.bag}: is it of another bag? Or of a node whose "
                f"sync_slop was not {self.sync_slop:g} s: give it by --sync-slop"
            )

    def _show(self, scene: Scene, time: float, synced: SyncedSet, thumbnails: Thumbnails) -> None:
        for camera, (stamp_ns, message) in synced.images.items():
            try:
                scene.add_image(time, camera, thumbnails.picture(camera, stamp_ns, message, synced.infos.get(camera)))
            except ConversionError as error:
                self.unreadable += 1
                log.warning("set %d: %s", synced.stamp_ns, error)
        record = self._records.get(synced.stamp_ns)
        if record is None:
            self.without_boxes += 1
            return
        scene.add_objects(time, self._objects(record, thumbnails))

    def _objects(self, record: SetRecord, thumbnails: Thumbnails) -> ObjectSet:
        frames = self.rig.frames
        pose = thumbnails.pose(frames.global_frame, record.frame_id, record.stamp_ns)
        return ObjectSet(record.stamp_ns, worth_showing(record.detections, record.tracks), pose)
