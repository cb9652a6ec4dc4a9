"""A synchronized set ► the frame that the model gets: images decoded, cameras and poses looked up.

Messages are read by their fields, so rclpy's classes and those of a bag reader do alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sparse4d_core.config import ImageConfig
from sparse4d_core.ego_mask import hide
from sparse4d_core.preprocess import decoding_reduction
from sparse4d_core.types import Frame

from .camera_model import CameraModel, DistortionPolicy
from .camera_reader import CameraReader
from .image_decoding import ConversionError
from .lens import MAX_FIELD_OF_VIEW_DEG
from .rig import RigFrames
from .synchronizer import SyncedSet
from .transforms import Disconnected, LookupFailed, TransformBuffer, TransformError


class FrameBuilder:
    """Makes frames of sets.

    Args:
        frames: names of the rig's frames.
        buffer: transforms; may grow while a set waits for its pose.
        distortion: what to do with raw images of a lens.
        tf_timeout: seconds to wait for a pose that is not there yet; 0 for data that are all there.
        decode_threads: images decoded at a time.
        to_message: what the synchronizer's items are ► the image message.
        max_field_of_view: degrees that the pinhole made from a fisheye may show.
        reduced_for: the network's images, if JPEGs are to be decoded at a part of their size as far as these allow.
        hidden: BGR that takes the place of the own vehicle, where the rig has masks.
    """

    def __init__(
        self,
        frames: RigFrames,
        buffer: TransformBuffer,
        distortion: DistortionPolicy = "refuse",
        tf_timeout: float = 0.0,
        decode_threads: int = 2,
        to_message: Callable[[str, Any], Any] = lambda camera, item: item,
        max_field_of_view: float = MAX_FIELD_OF_VIEW_DEG,
        reduced_for: ImageConfig | None = None,
        hidden: tuple[int, int, int] = (128, 128, 128),
    ):
        self._frames, self._buffer = frames, buffer
        self._tf_timeout, self._to_message = tf_timeout, to_message
        self._hidden = hidden
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        reduction = (lambda size_wh: 1) if reduced_for is None else partial(decoding_reduction, reduced_for)
        self._readers = {
            camera: CameraReader(camera, camera in frames.rectified, distortion, max_field_of_view, reduction)
            for camera in frames.cameras
        }

    def close(self) -> None:
        """Ends the threads."""
        self._decoders.shutdown(wait=True)

    def build(self, synced: SyncedSet) -> tuple[Frame, dict[str, float]]:
        """The set's frame, and the milliseconds until its images (decode_images) and its poses (transforms) were there.

        Images are decoded and undistorted while the poses are awaited.

        Raises:
            ConversionError, TransformError: an image, a calibration or a pose cannot be used.
        """
        start = time.perf_counter()
        reading = {camera: self._decoders.submit(self._read, camera, synced) for camera in synced.images}
        try:
            poses = self._await_poses(synced)
            posed = time.perf_counter()
            images = {camera: future.result() for camera, future in reading.items()}
        finally:
            for future in reading.values():
                future.cancel()  # those that have not begun, if something failed
        timings = {"decode_images": (time.perf_counter() - start) * 1e3, "transforms": (posed - start) * 1e3}
        return build_frame(images, poses, synced.stamp_ns, self._frames), timings

    def _read(self, camera: str, synced: SyncedSet) -> tuple[np.ndarray, CameraModel]:
        """BGR pinhole image, and the model of that image."""
        stamp_ns, item = synced.images[camera]
        message = self._to_message(camera, item)
        try:
            _check_header(message, stamp_ns, self._frames.cameras[camera])
        except ConversionError as error:
            raise ConversionError(error.cause, f"camera {camera}: {error}") from error
        image, model = self._readers[camera].read(message, synced.infos.get(camera))
        mask = self._frames.ego_masks.get(camera)
        return (image if mask is None else hide(image, mask, self._hidden)), model

    def _await_poses(self, synced: SyncedSet) -> Poses:
        """The poses, after waiting a bounded time for those that may still come."""
        stamps = {camera: stamp_ns for camera, (stamp_ns, _) in synced.images.items()}
        deadline = time.monotonic() + self._tf_timeout
        while True:
            revision = self._buffer.revision
            try:
                return look_up_poses(stamps, synced.stamp_ns, self._frames, self._buffer)
            except TransformError as error:
                if not _may_come(error) or not self._buffer.wait_for_change(revision, deadline - time.monotonic()):
                    raise


@dataclass(frozen=True)
class Poses:
    """Poses of the model frame at a set's stamp, [4, 4] in metres."""

    T_global_from_model: np.ndarray
    T_optical_from_model: Mapping[str, np.ndarray]  # camera -> its optical frame at its image's stamp, or at the set's


def look_up_poses(image_stamps: Mapping[str, int], stamp_ns: int, rig: RigFrames, buffer: TransformBuffer) -> Poses:
    """The poses of a set, every camera's by the ego motion at its own image's stamp. A camera without an image has that
    of the set's stamp, for pictures: they are laid out by where the cameras look.

    Args:
        image_stamps: camera name -> stamp of its image, nanoseconds; cameras without an image are absent.
        stamp_ns: stamp of the set, nanoseconds.
        rig: names of the frames.
        buffer: the transforms.

    Raises:
        TransformError: as tf2 would for the same lookup; for a camera without an image there is no pose then.
    """
    T_base_from_model = np.eye(4) if rig.T_base_from_model is None else rig.T_base_from_model
    source = rig.model_frame if rig.T_base_from_model is None else rig.base_frame
    T_optical_from_model = {}
    for camera, frame in rig.cameras.items():
        image_ns = image_stamps.get(camera, stamp_ns)
        try:
            pose = buffer.lookup_full(frame, image_ns, source, stamp_ns, rig.global_frame)
        except TransformError:
            if camera in image_stamps:
                raise
            continue
        T_optical_from_model[camera] = pose.matrix @ T_base_from_model
    T_global_from_source = buffer.lookup(rig.global_frame, source, stamp_ns).matrix
    return Poses(T_global_from_source @ T_base_from_model, T_optical_from_model)


def build_frame(
    images: Mapping[str, tuple[np.ndarray, CameraModel]], poses: Poses, stamp_ns: int, rig: RigFrames
) -> Frame:
    """The parts of a set ► Frame, cameras in the rig's order.

    Args:
        images: camera name -> (BGR pinhole image, its model); absent = camera missing.
        poses: of the same cameras, and of others where they are known.
        stamp_ns: stamp of the set, nanoseconds.
        rig: names of the frames.
    """
    pixels: list[np.ndarray | None] = []
    intrinsics, T_cam_from_model = [], []
    for camera in rig.cameras:
        if camera not in images:  # masked: the network looks at neither intrinsics nor pose, pictures at the pose
            pixels.append(None)
            intrinsics.append(np.eye(3))
            T_cam_from_model.append(poses.T_optical_from_model.get(camera, np.eye(4)))
            continue
        image, model = images[camera]
        pixels.append(image)
        intrinsics.append(model.intrinsics)
        T_cam_from_model.append(model.T_cam_from_optical @ poses.T_optical_from_model[camera])
    return Frame(
        images=tuple(pixels),
        intrinsics=np.stack(intrinsics),
        T_cam_from_model=np.stack(T_cam_from_model),
        T_global_from_model=poses.T_global_from_model,
        stamp_ns=stamp_ns,
        camera_names=tuple(rig.cameras),
    )


def _check_header(message: Any, stamp_ns: int, frame_id: str) -> None:
    """Refuses an image without a stamp, or of another frame than the rig has for its camera."""
    if stamp_ns <= 0:
        raise ConversionError("stamp", f"image of {frame_id}: stamp {stamp_ns} ns; expected the time of exposure")
    if message.header.frame_id.lstrip("/") != frame_id:
        raise ConversionError(
            "frame_id", f"image: frame {message.header.frame_id!r}; the rig expects {frame_id!r} on this topic"
        )


def _may_come(error: TransformError) -> bool:
    """Whether transforms that are still on their way could make up for the error."""
    return isinstance(error, (LookupFailed, Disconnected)) or error.kind in (
        "extrapolation_future",
        "extrapolation_one_value",
    )
