"""A synchronized set ► the frame that the model gets: images decoded, cameras and poses looked up."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from sparse4d_core.types import Frame

from ..messages.outgoing import (
    CameraModel,
    ConversionError,
    DistortionPolicy,
    RigFrames,
    build_frame,
    camera_model,
    check_header,
    decode_image,
)
from .synchronizer import SyncedSet
from .transforms import Disconnected, LookupFailed, TransformBuffer, TransformError


class FrameBuilder:
    """Makes frames of sets.

    Args:
        frames: names of the rig's frames.
        buffer: transforms; may grow while a set waits for its pose.
        distortion: what to do with cameras that are not rectified.
        tf_timeout: seconds to wait for a pose that is not there yet; 0 for data that are all there.
        decode_threads: images decoded at a time.
        to_message: what the synchronizer's items are ► the image message.
    """

    def __init__(
        self,
        frames: RigFrames,
        buffer: TransformBuffer,
        distortion: DistortionPolicy = "refuse",
        tf_timeout: float = 0.0,
        decode_threads: int = 2,
        to_message: Callable[[str, Any], Any] = lambda camera, item: item,
    ):
        self._frames, self._buffer = frames, buffer
        self._distortion, self._tf_timeout, self._to_message = distortion, tf_timeout, to_message
        self._decoders = ThreadPoolExecutor(decode_threads, "decode")
        self._models: dict[str, tuple[tuple, CameraModel]] = {}  # camera -> what its CameraInfo said, its model

    def close(self) -> None:
        """Ends the threads."""
        self._decoders.shutdown(wait=True)

    def build(self, synced: SyncedSet) -> tuple[Frame, dict[str, float]]:
        """What the set shows, decoded and with its poses; and the milliseconds of decode_images and transforms.

        Raises:
            ConversionError, TransformError: an image, a calibration or a pose cannot be used.
        """
        start = time.perf_counter()
        images = self._decode(synced)
        cameras = {camera: self._camera_model(camera, info) for camera, info in synced.infos.items()}
        decoded = time.perf_counter()
        frame = self._build_frame(synced, images, cameras)
        built = time.perf_counter()
        return frame, {"decode_images": (decoded - start) * 1e3, "transforms": (built - decoded) * 1e3}

    def _decode(self, synced: SyncedSet) -> dict[str, tuple[int, np.ndarray]]:
        """Camera -> (stamp in nanoseconds, BGR image)."""

        def decode(entry: tuple[str, tuple[int, Any]]) -> tuple[str, tuple[int, np.ndarray]]:
            camera, (stamp_ns, item) = entry
            message = self._to_message(camera, item)
            try:
                check_header(message, self._frames.cameras[camera])
                return camera, (stamp_ns, decode_image(message))
            except ConversionError as error:
                raise ConversionError(error.cause, f"camera {camera}: {error}") from error

        return dict(self._decoders.map(decode, synced.images.items()))

    def _camera_model(self, camera: str, info: Any) -> CameraModel:
        """Made anew only when the calibration changes: undistortion maps take a while."""
        says = (
            tuple(info.k), tuple(info.d), tuple(info.p), info.width, info.height, info.binning_x, info.binning_y,
            info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height, info.distortion_model,
        )  # fmt: skip
        known = self._models.get(camera)
        if known is None or known[0] != says:
            known = self._models[camera] = (says, camera_model(info, self._distortion))
        return known[1]

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
