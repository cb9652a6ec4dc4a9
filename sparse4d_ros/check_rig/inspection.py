"""A rig against a recording: what of TF, calibration, clocks and images does not go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sparse4d_core.boxes import inverse
from sparse4d_core.types import Frame

from ..bags.bag_io import open_bag
from ..bags.sets import BagFrames
from ..parameters import NodeParameters
from ..perception.image_decoding import ConversionError
from ..perception.rig import Rig
from ..perception.synchronizer import SyncedSet
from ..perception.transforms import TransformError
from ..units import NANOSECONDS
from .findings import Finding
from .motion import CameraMotion, check_motion, measure_motion
from .mounting import Mounting, check_directions, check_mounting, mounting

# From the body's axes (x forward, y left, z up) to the optical ones, as the rotation [3, 3] body from optical.
_BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass
class Inspection:
    """What was looked at, and what was found."""

    sets: int = 0
    mountings: list[Mounting] = field(default_factory=list)
    motions: list[CameraMotion] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    frame: Frame | None = None  # the last one, for the pictures
    T_cam_from_base: list[np.ndarray] = field(default_factory=list)


def inspect(bag: str | Path, rig: Rig, count: int, seconds_apart: float) -> Inspection:
    """Checks a rig against the first sets of a bag.

    Args:
        rig: as read from its file.
        count: sets to look at.
        seconds_apart: between two of them.

    Raises:
        BagError: the bag cannot be read.
    """
    inspection = Inspection()
    inspection.findings += _missing_topics(bag, rig)
    if inspection.findings:
        return inspection
    reader = BagFrames(bag, rig, NodeParameters(missing_camera="mask", distortion="undistort"))
    frames = []
    try:
        for synced in tqdm(
            islice(_spaced(reader, seconds_apart), count), desc=Path(bag).name, total=count, unit="set", disable=None
        ):
            inspection.sets += 1
            try:
                frame, _ = reader.builder.build(synced)
                poses = [_pose(reader, rig, name, synced) for name in frame.camera_names]
            except (ConversionError, TransformError) as error:
                inspection.findings.append(Finding(error.cause, "rig", str(error)))
                return inspection
            frames.append(frame)
            inspection.frame, inspection.T_cam_from_base = frame, [inverse(pose) for pose in poses]
    finally:
        reader.builder.close()
    inspection.findings += _clocks(reader)
    if not frames:
        inspection.findings.append(
            Finding("no_sets", "rig", f"no complete set in {bag}: images dropped {dict(reader.synchronizer.drops)}")
        )
        return inspection
    _look_at_poses(inspection, poses)
    inspection.motions = measure_motion(frames)
    inspection.findings += check_motion(inspection.motions)
    return inspection


def _missing_topics(bag: str | Path, rig: Rig) -> Iterator[Finding]:
    with open_bag(bag) as reader:
        there = sorted(reader.topics)
    for camera in rig.cameras:
        for topic, what in ((camera.image_topic, "images"), (camera.info_topic, "CameraInfo")):
            if topic.startswith("/") and topic not in there:
                yield Finding("topic", camera.name, f"no {what} on {topic}; the bag has {', '.join(there)}")
    if "/tf" not in there and "/tf_static" not in there:
        yield Finding("missing_transform", "rig", "the bag has neither /tf nor /tf_static: record both")


def _spaced(reader: BagFrames, seconds: float) -> Iterator[SyncedSet]:
    last_ns = None
    for synced in reader.sets():
        if last_ns is None or synced.stamp_ns - last_ns >= seconds * NANOSECONDS:
            last_ns = synced.stamp_ns
            yield synced


def _pose(reader: BagFrames, rig: Rig, camera: str, synced: SyncedSet) -> np.ndarray:
    """[4, 4] T_base_from_cam."""
    return reader.buffer.lookup(rig.frames.base_frame, rig.frames.cameras[camera], synced.stamp_ns).matrix


def _look_at_poses(inspection: Inspection, poses: list[np.ndarray]) -> None:
    frame = inspection.frame
    for index, (name, pose) in enumerate(zip(frame.camera_names, poses, strict=True)):
        if frame.images[index] is None:
            continue
        found = mounting(name, pose, frame.intrinsics[index], frame.images[index].shape[1])
        inspection.mountings.append(found)
        inspection.findings += check_mounting(found, (pose[:3, :3], pose[:3, :3] @ _BODY_FROM_OPTICAL.T))
    inspection.findings += check_directions(inspection.mountings)


def _clocks(reader: BagFrames) -> Iterator[Finding]:
    """Cameras whose stamps the synchronizer did not trust."""
    for camera, status in reader.synchronizer.camera_status().items():
        if status.reason:
            offset = "" if status.offset_ns is None else f" (offset {status.offset_ns / NANOSECONDS:+.3f} s)"
            yield Finding("clock", camera, f"its stamps disagree with the others'{offset}: {status.reason}")
        elif not status.received:
            yield Finding("clock", camera, "no image came")
