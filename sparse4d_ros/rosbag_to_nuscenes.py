"""A bag with annotations ► a dataset in nuScenes format, for training and scoring on one's own rig.

    python -m sparse4d_ros.rosbag_to_nuscenes bags/campus --rig config/my_rig.yaml --out data/campus

The bag holds the rig's images, CameraInfo and TF, and annotations as vision_msgs/Detection3DArray: one message for each
annotated instant, stamped like the newest image of its set, in any frame that TF knows. Class hypotheses name one of
the ten detection classes or a nuScenes category; the id stays with an object over time. JPEG and PNG data are copied,
raw images are written as JPEG. Sets between annotated ones become sweeps.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from sparse4d_core.data.nuscenes.table_writer import CATEGORY_OF, TableWriter, token
from sparse4d_core.data.nuscenes.tables import DETECTION_NAMES, Record

from .bags.bag_io import BagError, read_messages
from .bags.nuscenes_messages import ANNOTATION_TOPIC, MICROSECOND, SAMPLE_TOPIC
from .messages.conversions import ConversionError, camera_model, decode_image, insert_transforms, ns_from_stamp
from .node import default_rig
from .perception.image_decoding import JPEG_START, check_complete
from .perception.rig import Rig, RigError, load_rig
from .perception.synchronizer import SyncedSet, Synchronizer
from .perception.transforms import TransformBuffer, TransformError, quaternion_from_matrix, quaternion_matrix
from .score_record import ALL_TIME

NANOSECONDS = 1_000_000_000
LIDAR = "LIDAR_TOP"
JPEG_QUALITY = 95  # of images that come raw


@dataclass
class Contents:
    """What the bag says besides its images."""

    buffer: TransformBuffer
    annotations: dict[int, Any] = field(default_factory=dict)  # stamp of the set (ns) -> Detection3DArray
    samples: dict[int, dict] = field(default_factory=dict)  # stamp of the set (ns) -> what nuscenes_to_rosbag noted
    skipped: Counter[str] = field(default_factory=Counter)  # cause -> sets or boxes that were left out


def read_contents(bag: str | Path, topic: str) -> Contents:
    """Transforms, annotations and sample tokens.

    Raises:
        BagError: no annotations on `topic`.
    """
    contents = Contents(TransformBuffer(ALL_TIME))
    for name, _, message in read_messages(bag, ("/tf", "/tf_static", topic, SAMPLE_TOPIC)):
        if name == topic:
            contents.annotations[ns_from_stamp(message.header.stamp)] = message
        elif name == SAMPLE_TOPIC:
            sample = json.loads(message.data)
            contents.samples[sample["stamp_ns"]] = sample
        else:
            insert_transforms(contents.buffer, message, static=name == "/tf_static")
    if not contents.annotations:
        raise BagError(f"bag: {bag} has no annotations on {topic}; name their topic with --annotations")
    return contents


def pose_of(matrix: np.ndarray) -> tuple[list[float], list[float]]:
    """(translation, rotation w x y z) of a rigid transform [4, 4]."""
    x, y, z, w = quaternion_from_matrix(matrix)
    return matrix[:3, 3].tolist(), [float(w), float(x), float(y), float(z)]


class Exporter:
    """Writes the images of each set as it comes, and its records once its scene is over."""

    def __init__(self, out: Path, rig: Rig, contents: Contents, name: str):
        self._out, self._rig, self._contents, self._name = out, rig, contents, name
        self._writer = TableWriter()
        self._sets: list[SyncedSet] = []
        self._scenes: set[str] = set()
        self.samples = self.boxes = 0

    def export(self, bag: str | Path, slop_ns: int, max_gap_ns: int) -> None:
        """Read the images of the bag, split into scenes where nothing comes for longer than `max_gap_ns`."""
        incoming = self._out / ".incoming"
        incoming.mkdir(parents=True)
        for synced in tqdm(self._synchronized(bag, incoming, slop_ns), desc="sets", unit="set"):
            if self._sets and (synced.stamp_ns - self._sets[-1].stamp_ns > max_gap_ns or self._begins_scene(synced)):
                self._finish_scene()
            self._sets.append(synced)
        self._finish_scene()
        shutil.rmtree(incoming)

    def _synchronized(self, bag: str | Path, incoming: Path, slop_ns: int) -> Iterator[SyncedSet]:
        """Sets whose items are image files in `incoming`, so that a long drive does not pile up in memory."""
        images = {camera.image_topic: camera.name for camera in self._rig.cameras}
        infos = {camera.info_topic: camera.name for camera in self._rig.cameras}
        synchronizer = Synchronizer(self._rig.names, slop_ns, timeout_ns=max(slop_ns, NANOSECONDS // 4))
        for topic, _, message in read_messages(bag, [*images, *infos]):
            stamp_ns = ns_from_stamp(message.header.stamp)
            if topic in infos:
                synchronizer.add_info(infos[topic], message, stamp_ns)
                continue
            try:
                path = store_image(message, incoming / f"{images[topic]}-{stamp_ns}")
            except ConversionError as error:
                self._contents.skipped[f"image: {error.cause}"] += 1
                continue
            synchronizer.add_image(images[topic], stamp_ns, path)
            synced = synchronizer.take_newest()
            if synced is not None:
                yield synced
        self._contents.skipped.update({f"image: {cause}": n for cause, n in synchronizer.drops.items() if n})

    def _begins_scene(self, synced: SyncedSet) -> bool:
        """Whether the bag names another scene for this set than for the set before: drives are cut into scenes."""
        named = [
            self._contents.samples[s.stamp_ns]["scene"] for s in self._sets if s.stamp_ns in self._contents.samples
        ]
        here = self._contents.samples.get(synced.stamp_ns, {}).get("scene")
        return here is not None and bool(named) and here != named[-1]

    def write_tables(self, version: str) -> None:
        """The last step.

        Raises:
            BagError: no set of images belongs to any annotation.
        """
        if not self.samples:
            raise BagError(
                f"bag: none of the {len(self._contents.annotations)} annotated stamps is that of a set of images; "
                "annotations must carry the stamp of the newest image of their set"
            )
        self._writer.write(self._out, version)

    def _finish_scene(self) -> None:
        sets, self._sets = self._sets, []
        keyframes = [s.stamp_ns for s in sets if s.stamp_ns in self._contents.annotations]
        if not keyframes:
            self._contents.skipped["sets of a scene without annotations"] += len(sets)
            return
        scene = self._contents.samples.get(keyframes[0], {}).get("scene", f"{self._name}-{len(self._scenes):04d}")
        if scene in self._scenes:  # interrupted by a silence
            scene = f"{scene}-{len(self._scenes):04d}"
        self._scenes.add(scene)
        tokens = {stamp: self._sample(scene, stamp) for stamp in keyframes}
        self._writer.add_scene(scene, [tokens[stamp] for stamp in keyframes], vehicle=self._name)
        self._add_cameras(scene, sets, tokens)
        self._add_lidar(scene, tokens)
        self._add_annotations(scene, tokens)
        self.samples += len(keyframes)

    def _sample(self, scene: str, stamp_ns: int) -> tuple[str, int]:
        """(token, timestamp in microseconds)"""
        known = self._contents.samples.get(stamp_ns)
        if known:
            return known["token"], known["timestamp"]
        return token(scene, "sample", stamp_ns), stamp_ns // MICROSECOND

    def _ego_pose(self, time_ns: int) -> tuple[list[float], list[float]]:
        frames = self._rig.frames
        return pose_of(self._contents.buffer.lookup(frames.global_frame, frames.base_frame, time_ns).matrix)

    def _add_cameras(self, scene: str, sets: list[SyncedSet], tokens: dict[int, tuple[str, int]]) -> None:
        stamps = np.array(list(tokens))
        for camera in self._rig.cameras:
            channel = camera.name.upper() if camera.name.upper().startswith("CAM_") else f"CAM_{camera.name.upper()}"
            model = camera_model(sets[0].infos[camera.name], rectified=camera.rectified, name=camera.name)
            T = self._contents.buffer.lookup(self._rig.frames.base_frame, camera.frame, sets[0].stamp_ns).matrix
            T = T @ np.linalg.inv(model.T_cam_from_optical)
            calibration = self._writer.add_calibration(scene, channel, *pose_of(T), model.intrinsics.tolist())
            records = []
            for synced in sets:
                nearest = int(stamps[np.abs(stamps - synced.stamp_ns).argmin()])
                time_ns, path = synced.images[camera.name]
                key = synced.stamp_ns in tokens
                name = f"{scene}__{channel}__{time_ns // MICROSECOND}"
                records.append(
                    {
                        "sample_token": tokens[nearest][0],
                        "timestamp": time_ns // MICROSECOND,
                        "is_key_frame": key,
                        "filename": self._place_image(f"{'samples' if key else 'sweeps'}/{channel}/{name}", path),
                        "pose": self._ego_pose(time_ns),
                    }
                )
            self._writer.add_stream(scene, channel, calibration, records, model.size_wh)

    def _place_image(self, stem: str, path: Path) -> str:
        filename = stem + path.suffix
        (self._out / filename).parent.mkdir(parents=True, exist_ok=True)
        path.replace(self._out / filename)
        return filename

    def _add_lidar(self, scene: str, tokens: dict[int, tuple[str, int]]) -> None:
        """A record without a file: its calibration is the model's frame, its time the sample's."""
        frames, records = self._rig.frames, []
        T = frames.T_base_from_model
        if T is None:
            T = self._contents.buffer.lookup(frames.base_frame, frames.model_frame, next(iter(tokens))).matrix
        calibration = self._writer.add_calibration(scene, LIDAR, *pose_of(T), [])
        for stamp_ns, (sample, timestamp) in tokens.items():
            try:
                pose = self._ego_pose(timestamp * MICROSECOND)
            except TransformError:  # a sample's own time may lie just behind the last pose
                pose = self._ego_pose(stamp_ns)
            name = f"samples/{LIDAR}/{scene}__{LIDAR}__{timestamp}.pcd.bin"
            records.append(
                {"sample_token": sample, "timestamp": timestamp, "is_key_frame": True, "filename": name, "pose": pose}
            )
        self._writer.add_stream(scene, LIDAR, calibration, records, (0, 0))

    def _add_annotations(self, scene: str, tokens: dict[int, tuple[str, int]]) -> None:
        objects: dict[str, list[Record]] = defaultdict(list)
        categories: dict[str, str] = {}
        for stamp_ns, (sample, _) in tokens.items():
            array = self._contents.annotations[stamp_ns]
            extras = self._contents.samples.get(stamp_ns, {}).get("annotations", [{}] * len(array.detections))
            T = self._contents.buffer.lookup(self._rig.frames.global_frame, array.header.frame_id, stamp_ns).matrix
            for number, (detection, extra) in enumerate(zip(array.detections, extras, strict=True)):
                category = category_of(detection)
                problem = "box of unknown class" if category is None else problem_of(detection)
                if problem:
                    self._contents.skipped[problem] += 1
                    continue
                identity = detection.id or f"{stamp_ns}-{number}"  # without an id every box is its own object
                instance = identity if is_token(identity) else token(scene, "instance", identity)
                categories.setdefault(instance, category)
                objects[instance].append(annotation_record(detection, T, sample, token(instance, sample), extra))
        for instance, rows in objects.items():
            self._writer.add_instance(instance, categories[instance], rows)
            self.boxes += len(rows)


def store_image(message: Any, stem: Path) -> Path:
    """Write an image message to a file: compressed data as they are, raw images as JPEG.

    Raises:
        ConversionError: truncated or damaged data, or an unknown encoding.
    """
    if hasattr(message, "encoding"):
        path = stem.with_name(stem.name + ".jpg")
        cv2.imwrite(str(path), decode_image(message), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        return path
    data = bytes(message.data)
    check_complete(memoryview(data))
    path = stem.with_name(stem.name + (".jpg" if data[:2] == JPEG_START else ".png"))
    path.write_bytes(data)
    return path


def is_token(text: str) -> bool:
    return len(text) == 32 and all(c in "0123456789abcdef" for c in text)


def category_of(detection: Any) -> str | None:
    """nuScenes category of the hypotheses; the last that names one wins, as it is the more exact one."""
    names = [result.hypothesis.class_id for result in detection.results]
    known = [
        CATEGORY_OF.get(name, name) for name in names if name in CATEGORY_OF or "." in name or name in DETECTION_NAMES
    ]
    return known[-1] if known else None


def problem_of(detection: Any) -> str | None:
    """Why a box cannot be learned from, or None."""
    c, q, s = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
    if not all(map(math.isfinite, (c.x, c.y, c.z, q.x, q.y, q.z, q.w, s.x, s.y, s.z))):
        return "box with a number that is not finite"
    if min(s.x, s.y, s.z) <= 0:
        return "box of size zero"
    return None if abs(math.hypot(q.x, q.y, q.z, q.w) - 1) < 1e-3 else "box without orientation"


def annotation_record(detection: Any, T_global_from_box: np.ndarray, sample: str, name: str, extra: dict) -> Record:
    """sample_annotation without links. Unknown lidar points count as one: training drops boxes without any."""
    c, q, s = detection.bbox.center.position, detection.bbox.center.orientation, detection.bbox.size
    if np.array_equal(T_global_from_box, np.eye(4)):
        translation, rotation = [c.x, c.y, c.z], [q.w, q.x, q.y, q.z]  # not a digit changes
    else:
        T = quaternion_matrix((q.x, q.y, q.z, q.w))
        T[:3, 3] = c.x, c.y, c.z
        translation, rotation = pose_of(T_global_from_box @ T)
    return {
        "token": extra.get("token", name),
        "sample_token": sample,
        "visibility_token": extra.get("visibility", "4"),
        "attributes": extra.get("attributes", []),
        "translation": translation,
        "size": [s.y, s.x, s.z],  # width, length, height
        "rotation": rotation,
        "num_lidar_pts": extra.get("num_lidar_pts", 1),
        "num_radar_pts": extra.get("num_radar_pts", 0),
    }


def write_dataset(
    bag: str | Path,
    rig: Rig,
    out: Path,
    version: str,
    topic: str = ANNOTATION_TOPIC,
    slop: float = 0.06,
    max_gap: float = 2.0,
) -> tuple[Exporter, Counter[str]]:
    """Write the dataset; its folder appears when it is complete. Returns the exporter's counts and what was left out.

    Raises:
        BagError: nothing to write, or `out` exists.
        ConversionError: cameras that are not rectified or not calibrated.
        TransformError: a pose is missing.
    """
    if out.exists():
        raise BagError(f"out: {out} exists; choose another name")
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        contents = read_contents(bag, topic)
        exporter = Exporter(scratch / out.name, rig, contents, Path(bag).name)
        exporter.export(bag, round(slop * NANOSECONDS), round(max_gap * NANOSECONDS))
        exporter.write_tables(version)
        (scratch / out.name).replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return exporter, contents.skipped


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.rosbag_to_nuscenes",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("bag", help="bag folder")
    parser.add_argument("--out", required=True, type=Path, help="dataset folder to create")
    parser.add_argument("--version", default="v1.0-mini", help="folder of the tables (default: %(default)s)")
    parser.add_argument("--rig", default="", help="rig file (default: the six cameras of nuScenes)")
    parser.add_argument("--annotations", default=ANNOTATION_TOPIC, help="their topic (default: %(default)s)")
    parser.add_argument(
        "--slop", type=float, default=0.06, help="seconds between the images of a set (default: %(default)s)"
    )
    parser.add_argument(
        "--max-gap", type=float, default=2.0, help="seconds of silence that end a scene (default: %(default)s)"
    )
    a = parser.parse_args(argv)
    try:
        rig = load_rig(a.rig or default_rig())
        exporter, skipped = write_dataset(a.bag, rig, a.out, a.version, a.annotations, a.slop, a.max_gap)
    except (BagError, RigError, ConversionError, TransformError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{a.out}: {exporter.samples} samples, {exporter.boxes} boxes"
        + (f"; left out {dict(skipped)}" if skipped else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
