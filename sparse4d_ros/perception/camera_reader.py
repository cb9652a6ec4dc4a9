"""One camera's messages ► pinhole images and the camera that they are of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .camera_model import CameraModel, DistortionPolicy, camera_model, image_wh
from .image_decoding import ConversionError, compressed_wh, decode_image, jpeg_reduction
from .lens import MAX_FIELD_OF_VIEW_DEG


class CameraReader:
    """Reads the images of one camera. Not for two threads at once; readers of different cameras are independent.

    Args:
        name: of the camera, for messages.
        rectified: whether its images are rectified (`camera_model.is_rectified`).
        distortion: what to do with raw images of a lens.
        max_field_of_view_deg: degrees that the pinhole made from a fisheye may show.
        reduction: (width, height) of the images ► by how much a JPEG is reduced while it is decoded: 1, 2, 4 or 8.
    """

    def __init__(
        self,
        name: str,
        rectified: bool,
        distortion: DistortionPolicy = "refuse",
        max_field_of_view_deg: float = MAX_FIELD_OF_VIEW_DEG,
        reduction: Callable[[tuple[int, int]], int] = lambda size_wh: 1,
    ):
        self._name, self._rectified, self._distortion = name, rectified, distortion
        self._max_field_of_view_deg, self._reduction = max_field_of_view_deg, reduction
        self._known: tuple[tuple, CameraModel] | None = None  # what the last CameraInfo said, and its model

    def read(self, message: Any, info: Any | None) -> tuple[np.ndarray, CameraModel]:
        """The image of a message, [H, W, 3] uint8 BGR, undistorted if it has to be; and its camera, without a lens.

        Args:
            message: sensor_msgs/Image or CompressedImage.
            info: the sensor_msgs/CameraInfo that goes with it.

        Raises:
            ConversionError: an image or a calibration that cannot be used; names the camera.
        """
        if info is None:
            raise ConversionError(
                "camera_info", f"camera {self._name}: image without CameraInfo: publish its calibration"
            )
        size_wh = image_wh(info, self._name)
        self._check_pixels(message, size_wh)
        reduction = jpeg_reduction(message, self._reduction(size_wh))
        try:
            image = decode_image(message, reduction)
        except ConversionError as error:
            raise ConversionError(error.cause, f"camera {self._name}: {error}") from error
        model = self._model(info, reduction)
        return model.rectify(image), replace(model, maps=None)

    def _check_pixels(self, message: Any, size_wh: tuple[int, int]) -> None:
        """Few bytes can unpack to gigabytes: more pixels than the CameraInfo states are refused before that."""
        found = compressed_wh(message)
        if found is not None and found[0] * found[1] > size_wh[0] * size_wh[1]:
            raise ConversionError(
                "image_size",
                f"image of {self._name}: {found[0]}x{found[1]} pixels; its CameraInfo says {size_wh[0]}x{size_wh[1]} "
                "(after region of interest and binning): publish the CameraInfo of this resolution",
            )

    def _model(self, info: Any, reduction: int) -> CameraModel:
        """Made anew only when the calibration changes: undistortion maps take a while."""
        says = (
            tuple(info.k), tuple(info.d), tuple(info.r), tuple(info.p), info.width, info.height, info.binning_x,
            info.binning_y, info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height,
            info.distortion_model, info.header.frame_id, reduction,
        )  # fmt: skip
        if self._known is None or self._known[0] != says:
            model = camera_model(
                info, self._distortion, self._rectified, self._name, self._max_field_of_view_deg, reduction
            )
            self._known = says, model
        return self._known[1]
