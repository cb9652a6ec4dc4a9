"""Sets of a bag ► images and tables of a dataset, scene by scene, so that a long drive does not pile up in memory."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from sparse4d_core.boxes import inverse
from sparse4d_core.data.nuscenes.table_writer import TableWriter, token
from sparse4d_core.data.nuscenes.tables import Record

from ..perception.camera_model import DistortionPolicy, camera_model
from ..perception.image_decoding import (
    JPEG_START,
    ConversionError,
    check_complete,
    decode_image,
    format_decides_colours,
)
from ..perception.rig import Rig
from ..perception.synchronizer import SyncedSet, Synchronizer
from ..perception.transforms import ExtrapolationFailed, TransformError
from ..units import MICROSECOND
from .annotation_records import annotation_record, category_of, is_token, pose_of, problem_of
from .bag_io import BagError
from .nuscenes_messages import LIDAR
from .sets import synchronized_sets
from .submission import sets_of_samples
from .truth import Truth

JPEG_QUALITY = 95  # of images that come raw


class DatasetExporter:
    """Writes the images of each set as it comes, and its records once its scene is over."""

    def __init__(self, out: Path, rig: Rig, truth: Truth, name: str, distortion: DistortionPolicy = "refuse"):
        """
        Args:
            out: folder of the dataset.
            rig: its cameras become the dataset's.
            truth: of the bag.
            name: of the scenes that the bag does not name.
            distortion: of raw images with a lens. The cameras become what this makes of them; the images stay raw,
                so that only what looks at no image may have another than `refuse`.
        """
        self._distortion = distortion
        self._out, self._rig, self._truth, self._name = out, rig, truth, name
        self._writer = TableWriter()
        self._sets: list[SyncedSet] = []
        self._scenes: set[str] = set()
        self.samples = self.boxes = 0
        self.skipped: Counter[str] = Counter()  # cause -> images, sets or boxes that were left out

    def export(self, bag: str | Path, synchronizer: Synchronizer, max_gap_ns: int) -> None:
        """Reads the images of the bag, split into scenes where nothing comes for longer than `max_gap_ns`.

        Args:
            synchronizer: new, of the rig's cameras. What it masks is no record in the tables.

        Raises:
            BagError: stamps come twice, or time goes back.
        """
        incoming = self._out / ".incoming"
        incoming.mkdir(parents=True)
        seen: set[int] = set()
        epoch = None
        for synced in tqdm(self._synchronized(bag, incoming, synchronizer), desc="sets", unit="set", disable=None):
            if synced.stamp_ns in seen:
                raise BagError(
                    f"bag: {bag} has images of stamp {synced.stamp_ns} twice, as where a drive is played again "
                    "while it is recorded; cut the bag before that"
                )
            if epoch not in (None, synced.epoch):  # one history of poses cannot hold both times
                raise BagError(
                    f"bag: {bag}: time goes back before the set at {synced.stamp_ns}, as where a vehicle's clock was "
                    "set; cut the bag there"
                )
            seen.add(synced.stamp_ns)
            epoch = synced.epoch
            if self._sets and (synced.stamp_ns - self._sets[-1].stamp_ns > max_gap_ns or self._begins_scene(synced)):
                self._finish_scene()
            self._sets.append(synced)
        self._finish_scene()
        shutil.rmtree(incoming)

    def _synchronized(self, bag: str | Path, incoming: Path, synchronizer: Synchronizer) -> Iterator[SyncedSet]:
        """Sets whose items are image files in `incoming`."""

        def store(camera: str, stamp_ns: int, message: Any) -> Path | None:
            try:
                return store_image(message, incoming / f"{camera}-{stamp_ns}")
            except ConversionError as error:
                self.skipped[f"image: {error.cause}"] += 1
                return None

        yield from synchronized_sets(bag, self._rig, synchronizer, to_item=store)
        self.skipped.update({f"image: {cause}": n for cause, n in synchronizer.drops.items() if n})

    def _begins_scene(self, synced: SyncedSet) -> bool:
        """Whether the bag names another scene for this set than for the set before: drives are cut into scenes."""
        named = [self._truth.samples[s.stamp_ns]["scene"] for s in self._sets if s.stamp_ns in self._truth.samples]
        here = self._truth.samples.get(synced.stamp_ns, {}).get("scene")
        return here is not None and bool(named) and here != named[-1]

    def write_tables(self, version: str) -> None:
        """The last step.

        Raises:
            BagError: no set of images belongs to any annotation.
        """
        if not self.samples:
            raise BagError(
                f"bag: none of the {len(self._truth.annotations)} annotated stamps is that of a set of images; "
                "annotations must carry the stamp of the newest image of their set"
                + (f"; left out: {dict(self.skipped)}" if self.skipped else "")
            )
        self._writer.write(self._out, version)

    def _finish_scene(self) -> None:
        sets, self._sets = self._with_poses(self._with_stamps_of_annotations(self._sets)), []
        keyframes = [s.stamp_ns for s in sets if s.stamp_ns in self._truth.annotations]
        if not keyframes:
            for synced in sets:
                self._leave_out(synced, "set: of a scene without annotations")
            return
        scene = self._truth.samples.get(keyframes[0], {}).get("scene", f"{self._name}-{len(self._scenes):04d}")
        if scene in self._scenes:  # interrupted by a silence
            scene = f"{scene}-{len(self._scenes):04d}"
        self._scenes.add(scene)
        tokens = {stamp: self._sample(scene, stamp) for stamp in keyframes}
        self._writer.add_scene(scene, [tokens[stamp] for stamp in keyframes], vehicle=self._name)
        self._add_cameras(scene, sets, tokens)
        self._add_lidar(scene, sets, tokens)
        self._add_annotations(scene, tokens)
        self.samples += len(keyframes)

    def _with_stamps_of_annotations(self, sets: list[SyncedSet]) -> list[SyncedSet]:
        """A set that lacks its newest image has the stamp of an older one; the scores give it to its sample, too."""
        annotated = {
            synced.stamp_ns: stamp for stamp, synced in sets_of_samples(sets, self._truth.annotations.keys()).items()
        }
        return [replace(synced, stamp_ns=annotated.get(synced.stamp_ns, synced.stamp_ns)) for synced in sets]

    def _with_poses(self, sets: list[SyncedSet]) -> list[SyncedSet]:
        """The sets for which the bag has every transform; before its first and after its last one it has none."""
        kept = []
        for synced in sets:
            try:
                self._look_up_all(synced)
            except ExtrapolationFailed as error:
                self._leave_out(synced, f"set: {error.cause}")
            else:
                kept.append(synced)
        return kept

    def _look_up_all(self, synced: SyncedSet) -> None:
        """
        Raises:
            ExtrapolationFailed: a transform at one of the set's stamps lies outside of those of the bag.
            TransformError: a frame is not there at all.
        """
        frames, lookup, stamp_ns = self._rig.frames, self._truth.buffer.lookup, synced.stamp_ns
        for time_ns, _ in synced.images.values():
            self._ego_pose(time_ns)
        for camera in synced.images:
            lookup(frames.base_frame, frames.cameras[camera], stamp_ns)
        frames.base_from_model(self._truth.buffer, stamp_ns)
        if stamp_ns in self._truth.annotations:
            lookup(frames.global_frame, self._truth.annotations[stamp_ns].header.frame_id, stamp_ns)

    def _leave_out(self, synced: SyncedSet, cause: str) -> None:
        self.skipped[cause] += 1
        for _, path in synced.images.values():
            path.unlink()

    def _sample(self, scene: str, stamp_ns: int) -> tuple[str, int]:
        """(token, timestamp in microseconds)"""
        known = self._truth.samples.get(stamp_ns)
        if known:
            return known["token"], known["timestamp"]
        return token(scene, "sample", stamp_ns), stamp_ns // MICROSECOND

    def _ego_pose(self, time_ns: int) -> tuple[list[float], list[float]]:
        frames = self._rig.frames
        return pose_of(self._truth.buffer.lookup(frames.global_frame, frames.base_frame, time_ns).matrix)

    def _add_cameras(self, scene: str, sets: list[SyncedSet], tokens: dict[int, tuple[str, int]]) -> None:
        stamps = np.array(list(tokens))
        for camera in self._rig.cameras:
            channel = camera.name.upper() if camera.name.upper().startswith("CAM_") else f"CAM_{camera.name.upper()}"
            seen = [synced for synced in sets if camera.name in synced.images]
            if not seen:
                continue
            model = camera_model(seen[0].infos[camera.name], self._distortion, camera.rectified, camera.name)
            T = self._truth.buffer.lookup(self._rig.frames.base_frame, camera.frame, seen[0].stamp_ns).matrix
            T = T @ inverse(model.T_cam_from_optical)
            calibration = self._writer.add_calibration(scene, channel, *pose_of(T), model.intrinsics.tolist())
            records = []
            for synced in seen:
                time_ns, path = synced.images[camera.name]
                key = synced.stamp_ns in tokens
                name = f"{scene}__{channel}__{time_ns // MICROSECOND}"
                records.append(
                    {
                        "sample_token": tokens[_nearest(stamps, synced.stamp_ns)][0],
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

    def _add_lidar(self, scene: str, sets: list[SyncedSet], tokens: dict[int, tuple[str, int]]) -> None:
        """A record without a file for every set, also of sweeps: by it a set has its stamp and its pose.

        The calibration is the model's frame, the time the sample's, or of a sweep the set's.
        """
        frames, records, stamps = self._rig.frames, [], np.array(list(tokens))
        T = frames.base_from_model(self._truth.buffer, next(iter(tokens)))
        calibration = self._writer.add_calibration(scene, LIDAR, *pose_of(T), [])
        for synced in sets:
            stamp_ns = synced.stamp_ns
            sample, timestamp = tokens[_nearest(stamps, stamp_ns)]
            key = stamp_ns in tokens
            if not key:
                timestamp = stamp_ns // MICROSECOND
            try:
                pose = self._ego_pose(timestamp * MICROSECOND)
            except TransformError:  # a sample's own time may lie just behind the last pose
                pose = self._ego_pose(stamp_ns)
            name = f"{'samples' if key else 'sweeps'}/{LIDAR}/{scene}__{LIDAR}__{timestamp}.pcd.bin"
            records.append(
                {"sample_token": sample, "timestamp": timestamp, "is_key_frame": key, "filename": name, "pose": pose}
            )
        self._writer.add_stream(scene, LIDAR, calibration, records, (0, 0))

    def _add_annotations(self, scene: str, tokens: dict[int, tuple[str, int]]) -> None:
        objects: dict[str, list[Record]] = defaultdict(list)
        categories: dict[str, str] = {}
        for stamp_ns, (sample, _) in tokens.items():
            array = self._truth.annotations[stamp_ns]
            extras = self._truth.samples.get(stamp_ns, {}).get("annotations", [{}] * len(array.detections))
            if len(extras) != len(array.detections):
                raise BagError(
                    f"annotations: {len(array.detections)} boxes at {stamp_ns}, of which the bag's sample notes "
                    f"{len(extras)}; give changed annotations a topic of their own, and name it with --annotations"
                )
            T = self._truth.buffer.lookup(self._rig.frames.global_frame, array.header.frame_id, stamp_ns).matrix
            for number, (detection, extra) in enumerate(zip(array.detections, extras, strict=True)):
                category = category_of(detection)
                problem = "box of unknown class" if category is None else problem_of(detection)
                if problem:
                    self.skipped[problem] += 1
                    continue
                identity = detection.id or f"{stamp_ns}-{number}"  # without an id every box is its own object
                # Trackers and label tools may count each class for itself.
                instance = identity if is_token(identity) else token(scene, "instance", category, identity)
                if objects[instance] and objects[instance][-1]["sample_token"] == sample:
                    raise BagError(
                        f"annotations: a second box of id {identity!r} ({category}) at {stamp_ns}; expected an id for "
                        "each object of a class, or an empty one where objects are not followed"
                    )
                categories.setdefault(instance, category)
                objects[instance].append(annotation_record(detection, T, sample, token(instance, sample), extra))
        for instance, rows in objects.items():
            self._writer.add_instance(instance, categories[instance], rows)
            self.boxes += len(rows)


def _nearest(stamps: np.ndarray, stamp_ns: int) -> int:
    """The one of the samples' stamps to which a set belongs."""
    return int(stamps[np.abs(stamps - stamp_ns).argmin()])


def store_image(message: Any, stem: Path) -> Path:
    """Writes an image message to a file: compressed data as they are; raw images as JPEG, and so compressed ones whose
    colours the message's `format` decides, as a file has none.

    Raises:
        ConversionError: truncated or damaged data, or an unknown encoding.
    """
    if hasattr(message, "encoding") or format_decides_colours(message):
        path = stem.with_name(stem.name + ".jpg")
        cv2.imwrite(str(path), decode_image(message), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        return path
    data = bytes(message.data)
    check_complete(memoryview(data))
    path = stem.with_name(stem.name + (".jpg" if data[:2] == JPEG_START else ".png"))
    path.write_bytes(data)
    return path
