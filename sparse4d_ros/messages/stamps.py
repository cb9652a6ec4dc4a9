"""Stamps and headers of messages ◄► int nanoseconds."""

from __future__ import annotations

import struct
from typing import Any

from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from ..units import NANOSECONDS

ENCAPSULATION = 4  # bytes before the data of a serialized message: representation, options (OMG DDS-XTypes 7.4.3.4)


def ns_from_stamp(stamp: Any) -> int:
    """builtin_interfaces/Time ► nanoseconds since the epoch."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def stamp_from_ns(stamp_ns: int) -> Time:
    """Nanoseconds since the epoch ► builtin_interfaces/Time."""
    sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
    return Time(sec=sec, nanosec=nanosec)


def make_header(frame_id: str, stamp_ns: int) -> Header:
    """std_msgs/Header."""
    return Header(frame_id=frame_id, stamp=stamp_from_ns(stamp_ns))


def stamp_of_serialized(data: bytes) -> int:
    """header.stamp in nanoseconds of a serialized message whose first field is a std_msgs/Header.

    Deserializing a raw image copies megabytes; most images of an overloaded node are dropped without being looked at.

    Raises:
        ValueError: too short for a header.
    """
    if len(data) < ENCAPSULATION + 8:
        raise ValueError(f"serialized message: {len(data)} bytes; a header needs {ENCAPSULATION + 8}")
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, ENCAPSULATION)
    return seconds * NANOSECONDS + nanoseconds
