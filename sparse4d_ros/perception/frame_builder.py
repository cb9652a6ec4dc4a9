"""A synchronized set ► the frame that the model gets: images decoded, cameras and poses looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from sparse4d_core.config import ImageConfig
from sparse4d_core.preprocess import decoding_reduction
from sparse4d_core.types import Frame

from ..messages.conversions import (
    CameraModel,
    ConversionError,
    DistortionPolicy,
    RigFrames,
    build_frame,
    check_header,
)
from .camera_reader import CameraReader
from .lens import MAX_FIELD_OF_VIEW_DEG
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
        """What the set shows, decoded and with its poses; and the milliseconds of decode_images and transforms.

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
            message = self._to_message(camera, synced.images[camera][1])
            try:
                check_header(message, self._frames.cameras[camera])
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
                may_come = isinstance(error, (LookupFailed, Disconnected)) or error.kind in (
                    "extrapolation_future",
                    "extrapolation_one_value",
                )
                if not may_come or not self._buffer.wait_for_change(revision, deadline - time.monotonic()):
                    raise
