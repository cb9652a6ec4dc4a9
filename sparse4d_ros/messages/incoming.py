"""Transforms that come in, as deserialized messages or as the bytes of one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from rclpy.serialization import deserialize_message
from tf2_msgs.msg import TFMessage

from ..perception.transforms import TransformBuffer, TransformError
from ..units import NANOSECONDS
from .rig_transforms import TransformSample
from .stamps import ENCAPSULATION, ns_from_stamp

_PLAIN_CDR = {b"\x00\x00": ">", b"\x00\x01": "<"}  # representation -> byte order (OMG DDS-XTypes 7.6.3.1.2)


def transforms_of(message: Any) -> Iterator[TransformSample]:
    """Of a tf2_msgs/TFMessage, read by its fields: rclpy's classes and those of a bag reader do alike."""
    for transform in message.transforms:
        t, q = transform.transform.translation, transform.transform.rotation
        yield TransformSample(
            transform.header.frame_id,
            transform.child_frame_id,
            ns_from_stamp(transform.header.stamp),
            (t.x, t.y, t.z),
            (q.x, q.y, q.z, q.w),
        )


def transforms_of_serialized(data: bytes) -> Iterator[TransformSample]:
    """Of the bytes of a tf2_msgs/TFMessage, without making messages of them.

    Deserializing costs rclpy 50 µs a transform and more: an arm's joints at 100 Hz would keep half a core busy. Only
    plain CDR is read here (what the usual middlewares send); anything else is deserialized.

    Raises:
        ValueError: the data end early, or a name is no UTF-8.
    """
    order = _PLAIN_CDR.get(bytes(data[:2]))
    if order is None:
        yield from transforms_of(deserialize_message(data, TFMessage))
        return
    try:
        yield from _plain_transforms(memoryview(data)[ENCAPSULATION:], order)
    except (struct.error, IndexError) as error:
        raise ValueError(f"serialized transforms: {len(data)} bytes end early: {error}") from error


def _plain_transforms(data: memoryview, order: str) -> Iterator[TransformSample]:
    """Alignment counts from the beginning of the data: 4 bytes for integers, 8 for doubles."""
    count, position = struct.unpack_from(f"{order}I", data)[0], 4
    for _ in range(count):
        seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, position)
        parent, position = _text(data, position + 8, order)
        child, position = _text(data, position, order)
        position += -position % 8
        numbers = struct.unpack_from(f"{order}7d", data, position)
        position += 56
        yield TransformSample(parent, child, seconds * NANOSECONDS + nanoseconds, numbers[:3], numbers[3:])


def _text(data: memoryview, position: int, order: str) -> tuple[str, int]:
    """A string, which ends with a zero byte; and the position of the integer after it."""
    length = struct.unpack_from(f"{order}I", data, position)[0]
    begin, end = position + 4, position + 4 + length
    if length and data[end - 1] != 0:
        raise ValueError(f"serialized transforms: a name of {length} bytes does not end with a zero byte")
    return str(data[begin : max(end - 1, begin)], "utf-8"), end + -end % 4


def insert_transforms(buffer: TransformBuffer, message: Any, static: bool) -> None:
    """Puts every transform of a tf2_msgs/TFMessage into the buffer.

    Raises:
        TransformError: for the first invalid transform, after the valid ones are in.
    """
    failure: TransformError | None = None
    for sample in transforms_of(message):
        try:
            buffer.insert(*sample, static=static)
        except TransformError as error:
            if failure is None:
                failure = error
    if failure is not None:
        raise failure
