"""Stamps as nanoseconds and back, also of messages that nobody has deserialized."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from sparse4d_ros.messages.stamps import make_header, ns_from_stamp, stamp_from_ns, stamp_of_serialized

pytestmark = pytest.mark.ros


@given(stamp_ns=st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_round_trip(stamp_ns):
    stamp = stamp_from_ns(stamp_ns)
    assert ns_from_stamp(stamp) == stamp_ns
    assert 0 <= stamp.nanosec < 10**9


@given(
    stamp=st.integers(0, 2**31 * 10**9 - 1), kind=st.sampled_from([Image, CompressedImage]), frame=st.text(max_size=9)
)
def test_the_stamp_is_that_of_the_header(stamp, kind, frame):
    assert stamp_of_serialized(bytes(serialize_message(kind(header=make_header(frame, stamp))))) == stamp


def test_big_endian_messages_are_read():
    assert stamp_of_serialized(b"\x00\x00\x00\x00" + struct.pack(">iI", 12, 34)) == 12_000_000_034


def test_a_message_without_room_for_a_header_is_an_error():
    with pytest.raises(ValueError, match="7 bytes; a header needs 12"):
        stamp_of_serialized(bytes(7))
