"""What intake must know of a message before anybody deserializes it."""

from __future__ import annotations

import struct

ENCAPSULATION = 4  # bytes before the data of a serialized message: representation, options (OMG DDS-XTypes 7.4.3.4)


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
    return seconds * 1_000_000_000 + nanoseconds
