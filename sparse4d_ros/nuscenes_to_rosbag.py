"""nuScenes (or rendered scenes) ► rosbag2: images, calibration, ego poses, annotations, sample tokens.

    python -m sparse4d_ros.nuscenes_to_rosbag --dataroot data/nuscenes --scenes scene-0061 --out bags/0061

Reads JSON tables and camera images alone: neither lidar files nor maps nor CAN data need be there.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse4d_core.command_line import interrupted
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.nuscenes.tables import DatasetError, Record, SceneTables, load_scenes
from sparse4d_core.evaluation.robustness.recorded_faults import RecordedFault, recordable_row

from .bags import nuscenes_messages as messages
from .bags.bag_io import STORAGE, check_replaceable, create_bag
from .bags.nuscenes_messages import (
    ANNOTATION_TOPIC,
    BASE_FRAME,
    GLOBAL_FRAME,
    LIDAR,
    SAMPLE_TOPIC,
    image_topic,
    info_topic,
    stamp_ns,
)
from .units import NANOSECONDS

# At equal stamps: first what is needed to understand an image, then the image, then the truth about it.
STATIC_TF, TF, INFO, IMAGE, TRUTH = range(5)
STATIC_PERIOD_NS = NANOSECONDS  # /tf_static comes again: a player that starts in the middle would lack it for ever


@dataclass(order=True)
class Event:
    """A message to come: made only when its turn has come, so that images do not pile up in memory."""

    stamp_ns: int
    rank: int
    topic: str
    make: Callable[[], Any] = field(compare=False)


def scene_events(
    tables: SceneTables,
    scene: Record,
    keyframes_only: bool = False,
    annotations: bool = True,
    fault: RecordedFault | None = None,
) -> list[Event]:
    """All messages of one scene in the order of their stamps.

    Args:
        tables: the dataset.
        scene: record of the scene.
        keyframes_only: leave out the sweeps (images between the annotated samples).
        annotations: include the annotations.
        fault: of the recording.

    Raises:
        DatasetError: no camera images, or no lidar calibration (the model's frame).
    """
    events: list[Event] = []
    poses: dict[int, Record] = {}
    calibrations: dict[str, Record] = {}
    for sample in tables.samples[scene["token"]]:
        keyframe_ns = 0
        for data in tables.sample_data[sample["token"]]:
            channel = tables.channel(data)
            camera = channel.startswith("CAM_")
            if (not camera and channel != LIDAR) or not (data["is_key_frame"] or (camera and not keyframes_only)):
                continue
            calibrations.setdefault(channel, tables.calibration(data))
            poses[stamp_ns(data)] = tables.pose(data)
            if camera:
                recorded = data if fault is None else fault.image(channel, data)
                events += _camera_events(tables, channel, data, recorded)
                if recorded is not None and data["is_key_frame"]:
                    keyframe_ns = max(keyframe_ns, stamp_ns(recorded))
        if keyframe_ns:
            events += _truth_events(tables, scene, sample, keyframe_ns, annotations)
    _check_scene(scene, events, calibrations)
    poses = poses if fault is None else fault.poses(poses)
    events += [_pose_event(time_ns, pose) for time_ns, pose in poses.items()]
    events += [_static_event(calibrations, time_ns) for time_ns in range(min(poses), max(poses) + 1, STATIC_PERIOD_NS)]
    return sorted(events)


def _camera_events(tables: SceneTables, channel: str, data: Record, recorded: Record | None) -> list[Event]:
    """CameraInfo and image, which arrive when the image was taken, whatever their stamps are.

    Args:
        recorded: the record with the stamp that the messages get; None: there is no image.
    """
    time_ns, calibration = stamp_ns(data), tables.calibration(data)
    stamped = data if recorded is None else recorded
    events = [Event(time_ns, INFO, info_topic(channel), lambda: messages.camera_info(channel, stamped, calibration))]
    if recorded is not None:
        image = partial(messages.compressed_image, tables, channel, recorded)
        events.append(Event(time_ns, IMAGE, image_topic(channel), image))
    return events


def _truth_events(
    tables: SceneTables, scene: Record, sample: Record, time_ns: int, annotations: bool
) -> Iterator[Event]:
    yield Event(time_ns, TRUTH, SAMPLE_TOPIC, lambda: messages.sample_text(tables, scene, sample, time_ns))
    if annotations:
        boxes = tables.annotations[sample["token"]]
        yield Event(time_ns, TRUTH, ANNOTATION_TOPIC, lambda: messages.annotation_array(tables, boxes, time_ns))


def _pose_event(time_ns: int, pose: Record) -> Event:
    transform = messages.transform(GLOBAL_FRAME, BASE_FRAME, time_ns, pose)
    return Event(time_ns, TF, "/tf", lambda: messages.tf_message([transform]))


def _static_event(calibrations: dict[str, Record], time_ns: int) -> Event:
    transforms = [
        messages.transform(BASE_FRAME, channel.lower(), time_ns, calibration)
        for channel, calibration in sorted(calibrations.items())
    ]
    return Event(time_ns, STATIC_TF, "/tf_static", lambda: messages.tf_message(transforms))


def _check_scene(scene: Record, events: list[Event], calibrations: dict[str, Record]) -> None:
    if not any(event.rank == IMAGE for event in events):
        raise DatasetError(f"{scene['name']}: no camera images in sample_data.json")
    if LIDAR not in calibrations:
        raise DatasetError(
            f"{scene['name']}: no {LIDAR} record in sample_data.json; its calibration is the model's frame"
        )


def write_scenes(
    tables: SceneTables,
    out: str,
    storage: str = "mcap",
    keyframes_only: bool = False,
    annotations: bool = True,
    force: bool = False,
    progress: bool = True,
    faults: Mapping[str, RecordedFault] | None = None,
) -> int:
    """Write every scene of the tables into one bag, in the order of time; returns the number of messages.

    Args:
        faults: of each scene's recording, by its name; None: there is none.

    Raises:
        DatasetError, BagError: nothing is left behind then.
    """
    events = [
        event
        for scene in tables.scenes
        for event in scene_events(tables, scene, keyframes_only, annotations, faults and faults[scene["name"]])
    ]
    with create_bag(out, storage, force) as bag:
        for event in tqdm(sorted(events), desc="messages", unit="msg", disable=None if progress else True):
            bag.write(event.topic, event.stamp_ns, event.make())
        return bag.count


def recorded_faults(name: str, tables: SceneTables, version: str) -> dict[str, RecordedFault]:
    """The fault of that name for each scene of the tables.

    Raises:
        ValueError: no row of the robustness sheet, or one that cannot be recorded.
    """
    scenes = [scene["name"] for scene in tables.scenes]
    data = NuScenesDataset(tables.dataroot, version, scenes=scenes, sweeps=True)
    row = recordable_row(name, data.camera_names)
    return {scene: RecordedFault(row, data, scene) for scene in scenes}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.nuscenes_to_rosbag",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "--dataroot", required=True, help="dataset folder, holding samples/, sweeps/ and the version's folder"
    )
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: %(default)s)")
    parser.add_argument("--scenes", nargs="+", metavar="SCENE", help="scene names or tokens (default: all)")
    parser.add_argument("--out", required=True, help="bag to create (a folder)")
    parser.add_argument("--storage", choices=sorted(STORAGE), default="mcap", help="file format (default: %(default)s)")
    parser.add_argument("--keyframes-only", action="store_true", help="2 Hz samples only; default: all sweeps as well")
    parser.add_argument("--no-annotations", action="store_true", help=f"leave out {ANNOTATION_TOPIC}")
    parser.add_argument(
        "--fault",
        metavar="ROW",
        help="record with a fault: a row of the robustness sheet, such as camera_gone_cam_front\n"
        "or images_lost_20_percent; a wrong name prints all",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bag")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, 1 if writing fails, 130 for Ctrl-C."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated: no bag was written"))  # unwinds, so cleans up
    try:
        check_replaceable(Path(options.out), options.force)  # before minutes of reading
        tables = load_scenes(options.dataroot, options.version, options.scenes)
        count = write_scenes(
            tables,
            options.out,
            options.storage,
            options.keyframes_only,
            not options.no_annotations,
            options.force,
            faults=options.fault and recorded_faults(options.fault, tables, options.version),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; no bag was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted("no bag was written")
    print(f"{options.out}: {len(tables.scenes)} scene(s), {count} messages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
