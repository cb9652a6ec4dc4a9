"""A synchronized set ► the frame that the model gets: images decoded, cameras and poses looked up.

Messages are read by their fields, so rclpy's classes and those of a bag reader do alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from sparse4d_core.config import ImageConfig
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
    ):
        self._frames, self._buffer = frames, buffer
        self._tf_timeout, self._to_message = tf_timeout, to_message
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
        """The set's frame, and the milliseconds of decode_images and transforms.

        Raises:
            ConversionError, TransformError: an image, a calibration or a pose cannot be used.
        """
        start = time.perf_counter()
        images, cameras = self._decode(synced)
        decoded = time.perf_counter()
        frame = self._build_frame(synced, images, cameras)
        built = time.perf_counter()
        return frame, {"decode_images": (decoded - start) * 1e3, "transforms": (built - decoded) * 1e3}

    def _decode(self, synced: SyncedSet) -> tuple[dict[str, tuple[int, np.ndarray]], dict[str, CameraModel]]:
        """Camera -> (stamp in nanoseconds, BGR pinhole image), and camera -> the model of that image."""

        def decode(camera: str) -> tuple[np.ndarray, CameraModel]:
            stamp_ns, item = synced.images[camera]
            message = self._to_message(camera, item)
            try:
                _check_header(message, stamp_ns, self._frames.cameras[camera])
            except ConversionError as error:
                raise ConversionError(error.cause, f"camera {camera}: {error}") from error
            return self._readers[camera].read(message, synced.infos.get(camera))

        decoded = dict(zip(synced.images, self._decoders.map(decode, synced.images), strict=True))
        images = {camera: (synced.images[camera][0], image) for camera, (image, _) in decoded.items()}
        return images, {camera: model for camera, (_, model) in decoded.items()}

    def _build_frame(self, synced: SyncedSet, images: dict, cameras: dict[str, CameraModel]) -> Frame:
        """The frame, after waiting a bounded time for poses that may still come."""
        deadline = time.monotonic() + self._tf_timeout
        while True:
            revision = self._buffer.revision
            try:
                return build_frame(images, synced.stamp_ns, cameras, self._frames, self._buffer)
            except TransformError as error:
                if not _may_come(error) or not self._buffer.wait_for_change(revision, deadline - time.monotonic()):
                    raise


def build_frame(
    images: Mapping[str, tuple[int, np.ndarray] | None],
    stamp_ns: int,
    cameras: Mapping[str, CameraModel],
    rig: RigFrames,
    buffer: TransformBuffer,
) -> Frame:
    """One synchronized set ► Frame, every camera posed by the ego motion at its own image's stamp.

    Args:
        images: camera name -> (stamp in nanoseconds, decoded BGR image); None or absent = camera missing.
        stamp_ns: stamp of the set, nanoseconds.
        cameras: camera name -> its model; needed for the cameras that have an image.
        rig: names of the frames.
        buffer: the transforms.

    Raises:
        ConversionError: an image that does not fit its CameraInfo, or has none.
        TransformError: as tf2 would for the same lookup.
    """
    T_base_from_model = np.eye(4) if rig.T_base_from_model is None else rig.T_base_from_model
    source = rig.model_frame if rig.T_base_from_model is None else rig.base_frame
    pixels: list[np.ndarray | None] = []
    intrinsics, T_cam_from_model = [], []
    for name, optical_frame in rig.cameras.items():
        image_ns, image = images.get(name) or (stamp_ns, None)
        model = cameras.get(name)
        if image is not None and model is None:
            raise ConversionError("camera_info", f"camera {name}: image without CameraInfo; publish its calibration")
        pixels.append(None if image is None else model.rectify(image))
        intrinsics.append(np.eye(3) if model is None else model.intrinsics)
        if image is None:  # masked: the pipeline looks at neither its pose nor its intrinsics
            T_cam_from_model.append(np.eye(4))
            continue
        pose = buffer.lookup_full(optical_frame, image_ns, source, stamp_ns, rig.global_frame)
        T_cam_from_model.append(model.T_cam_from_optical @ pose.matrix @ T_base_from_model)
    return Frame(
        images=tuple(pixels),
        intrinsics=np.stack(intrinsics),
        T_cam_from_model=np.stack(T_cam_from_model),
        T_global_from_model=buffer.lookup(rig.global_frame, source, stamp_ns).matrix @ T_base_from_model,
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
