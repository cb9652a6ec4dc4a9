"""The sheet's rows as a recording would have them: a data set's records, changed, to be written as a bag.

So a row can be run through a node, where images that do not come have to be waited for, and stamps and poses are looked
up. What is drawn is what the sheet draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from ...data.nuscenes.dataset import NuScenesDataset
from ...data.nuscenes.tables import Record, rigid
from .frame_faults import CamerasGone, EgoStampsOff, ImagesLost, Instant, StampsOff, Untouched
from .rows import Row, all_rows

_RECORDABLE = (CamerasGone, ImagesLost, StampsOff, EgoStampsOff, Untouched)
_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def recordable_row(name: str, camera_names: tuple[str, ...]) -> Row:
    """The row of that name.

    Raises:
        ValueError: no such row, or one that is not in what is recorded, such as wrong calibration or spoiled pixels.
    """
    rows = {row.name: row for row in all_rows(camera_names)}
    can = [row.name for row in rows.values() if isinstance(row.fault, _RECORDABLE)]
    if name not in can:
        reason = "it is not in images, stamps or poses" if name in rows else "there is no such row"
        raise ValueError(f"fault: {name!r} cannot be recorded: {reason}; expected one of {', '.join(can)}")
    return rows[name]


class RecordedFault:
    """One scene's records as they are recorded under a fault.

    Args:
        row: of `recordable_row`.
        data: the data set, with its sweeps where they are to be recorded.
        scene: its name.
    """

    def __init__(self, row: Row, data: NuScenesDataset, scene: str):
        self._row, self._data, self._scene = row, data, scene
        frames = [int(frame) for frame in data.scene_frames(scene)]
        self._frame_of = {file: frame for frame in frames for file in data.index.files[frame].tolist() if file}
        self._wanted = set(frames if row.rate is None else row.rows(data, scene))
        self._delivered: dict[int, tuple[bool, ...]] = {}

    def image(self, channel: str, record: Record) -> Record | None:
        """The record of an image with the stamp that it is recorded with; None: it does not come.

        Args:
            channel: its camera.
            record: of `sample_data`.
        """
        camera = self._data.camera_names.index(channel)
        frame = self._frame_of.get(record["filename"])
        if frame is None:
            return None if self._row.rate else record
        if frame not in self._wanted or not self._comes(frame)[camera]:
            return None
        return {**record, "timestamp": record["timestamp"] + round(self._stamp_error(camera) * 1e6)}

    def poses(self, poses: Mapping[int, Record]) -> dict[int, Record]:
        """The vehicle's poses by their stamps (ns), as TF has them.

        Where stamps of images lie beyond the first and the last pose, the vehicle went on as it moved there.
        """
        changed = dict(poses)
        fault = self._row.fault
        if isinstance(fault, EgoStampsOff):
            changed = {time: self._moved(pose, time, -fault.seconds) for time, pose in poses.items()}
        if isinstance(fault, StampsOff):
            for time, seconds in ((min(poses), -fault.seconds), (max(poses), fault.seconds)):
                changed[time + round(seconds * 1e6) * 1000] = self._moved(poses[time], time, seconds)
        return changed

    def _comes(self, frame: int) -> tuple[bool, ...]:
        """For each camera whether its image of that frame comes."""
        if frame not in self._delivered:
            empty = self._data.frame(frame, images=False)
            full = replace(empty, images=(_NO_PIXELS,) * len(empty.images))
            images = self._row.fault.apply(full, self._instant(empty.stamp_ns)).images
            self._delivered[frame] = tuple(image is not None for image in images)
        return self._delivered[frame]

    def _stamp_error(self, camera: int) -> float:
        fault = self._row.fault
        return fault.error(camera, self._instant(0)) if isinstance(fault, StampsOff) else 0.0

    def _moved(self, pose: Record, time_ns: int, seconds: float) -> Record:
        """Where the vehicle is so many seconds after a pose."""
        T = self._instant(time_ns).motion(seconds) @ rigid(pose["translation"], pose["rotation"])
        x, y, z, w = Rotation.from_matrix(T[:3, :3]).as_quat().tolist()
        return {**pose, "translation": T[:3, 3].tolist(), "rotation": [w, x, y, z]}

    def _instant(self, stamp_ns: int) -> Instant:
        return Instant(self._data, self._scene, stamp_ns)
