"""Transforms that come in. Messages are read by their fields: rclpy's classes and those of a bag reader do alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..perception.transforms import TransformBuffer, TransformError
from .stamps import ns_from_stamp


def insert_transforms(buffer: TransformBuffer, message: Any, static: bool) -> None:
    """Puts every transform of a tf2_msgs/TFMessage into the buffer.

    Raises:
        TransformError: for the first invalid transform, after the valid ones are in.
    """
    failure: TransformError | None = None
    for transform in message.transforms:
        t, q = transform.transform.translation, transform.transform.rotation
        try:
            buffer.insert(
                transform.header.frame_id,
                transform.child_frame_id,
                ns_from_stamp(transform.header.stamp),
                np.array((t.x, t.y, t.z)),
                np.array((q.x, q.y, q.z, q.w)),
                static=static,
            )
        except TransformError as error:
            if failure is None:
                failure = error
    if failure is not None:
        raise failure
