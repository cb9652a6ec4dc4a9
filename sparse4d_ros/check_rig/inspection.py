"""A rig against a recording: what of TF, calibration, clocks and images does not go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
from .ground_grid import CameraView
from .motion import CameraMotion, check_motion, measure_motion
from .mounting import Mounting, check_directions, check_mounting, mounting

MOST_UNUSABLE = 0.25  # share of the sets; more is a finding

# From the body's axes (x forward, y left, z up) to the optical ones, as the rotation [3, 3] body from optical.
_BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass
class Inspection:
    """What was looked at, and what was found."""

    sets: int = 0  # that could be used
    unusable: Counter[str] = field(default_factory=Counter)  # cause -> sets that could not
    mountings: list[Mounting] = field(default_factory=list)
    motions: list[CameraMotion] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    views: dict[str, CameraView] = field(default_factory=dict)  # camera -> its newest image, for the pictures


def inspect(
    bag: str | Path, rig: Rig, count: int, seconds_apart: float, sync_slop: float = NodeParameters.sync_slop
) -> Inspection:
    """Checks a rig against the first sets of a bag.

    A set that cannot be used (its time is before the first transform, an image is broken) is passed over; it is a
    finding if many are like it.

    Args:
        rig: as read from its file.
        count: sets to look at; as many unusable ones end the search.
        seconds_apart: between two of them.
        sync_slop: seconds between the oldest and newest image of a set, as of the node.

    Raises:
        BagError: the bag cannot be read.
    """
    inspection = Inspection()
    inspection.findings += _missing_topics(bag, rig)
    if inspection.findings:
        return inspection
    reader = BagFrames(bag, rig, NodeParameters(missing_camera="mask", distortion="undistort", sync_slop=sync_slop))
    frames: list[Frame] = []
    errors: dict[str, str] = {}  # cause -> the first one's text
    try:
        with tqdm(desc=Path(bag).name, total=count, unit="set", disable=None) as bar:
            for synced in _spaced(reader, seconds_apart):
                try:
                    frame, _ = reader.builder.build(synced)
                    views = _views(frame, reader)
                except (ConversionError, TransformError) as error:
                    inspection.unusable[error.cause] += 1
                    errors.setdefault(error.cause, str(error))
                else:
                    frames.append(frame)
                    inspection.views |= views
                    bar.update()
                if count in (len(frames), inspection.unusable.total()):
                    break
    finally:
        reader.builder.close()
    inspection.sets = len(frames)
    inspection.findings += _unusable_sets(inspection, errors)
    inspection.findings += _clocks(reader)
    if not frames and not errors:
        inspection.findings.append(
            Finding("no_sets", "rig", f"no complete set in {bag}: images dropped {dict(reader.synchronizer.drops)}")
        )
    if not frames:
        return inspection
    inspection.findings += _cameras_without_image(inspection, rig, sync_slop)
    _look_at_poses(inspection, rig)
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


def _views(frame: Frame, reader: BagFrames) -> dict[str, CameraView]:
    """Of the cameras that have an image in the frame.

    Raises:
        TransformError: TF does not have the base frame, or a camera's pose in it.
    """
    frames = reader.rig.frames
    T_model_from_base = inverse(frames.base_from_model(reader.buffer, frame.stamp_ns))
    return {
        camera: CameraView(
            image,
            intrinsics,
            T_cam_from_model @ T_model_from_base,
            reader.buffer.lookup(frames.base_frame, frames.cameras[camera], frame.stamp_ns).matrix,
        )
        for camera, image, intrinsics, T_cam_from_model in zip(
            frame.camera_names, frame.images, frame.intrinsics, frame.T_cam_from_model, strict=True
        )
        if image is not None
    }


def _unusable_sets(inspection: Inspection, errors: Mapping[str, str]) -> Iterator[Finding]:
    """By cause, if they are many. A few are no matter of the rig: a recording often begins before its first /tf."""
    unusable = inspection.unusable.total()
    if unusable > MOST_UNUSABLE * (inspection.sets + unusable):
        for cause, count in inspection.unusable.items():
            text = f"{count} of {inspection.sets + unusable} sets cannot be used: {errors[cause]}"
            yield Finding(cause, "rig", text)


def _cameras_without_image(inspection: Inspection, rig: Rig, sync_slop: float) -> Iterator[Finding]:
    """What is not seen is not checked. A camera that has a finding already, such as of its clock, needs no second."""
    named = {finding.camera for finding in inspection.findings}
    for camera in rig.frames.cameras:
        if camera not in inspection.views and camera not in named:
            text = (
                f"none of its images is in the {inspection.sets} sets: it is not checked; where the stagger is "
                f"above {sync_slop:g} s, give --sync-slop as the node has it"
            )
            yield Finding("no_image", camera, text)


def _look_at_poses(inspection: Inspection, rig: Rig) -> None:
    for camera in filter(inspection.views.__contains__, rig.frames.cameras):
        view = inspection.views[camera]
        found = mounting(camera, view.T_base_from_optical, view.intrinsics, view.image.shape[1])
        R = view.T_base_from_optical[:3, :3]
        inspection.mountings.append(found)
        inspection.findings += check_mounting(found, (R, R @ _BODY_FROM_OPTICAL.T))
    inspection.findings += check_directions(inspection.mountings)


def _clocks(reader: BagFrames) -> Iterator[Finding]:
    """Cameras whose stamps the synchronizer did not trust."""
    for camera, status in reader.synchronizer.camera_status().items():
        if status.reason:
            offset = "" if status.offset_ns is None else f" (offset {status.offset_ns / NANOSECONDS:+.3f} s)"
            yield Finding("clock", camera, f"its stamps disagree with the others'{offset}: {status.reason}")
        elif not status.received:
            yield Finding("clock", camera, "no image came")
