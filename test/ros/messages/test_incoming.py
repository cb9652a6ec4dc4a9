"""Transforms of messages and of their bytes."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
from rclpy.serialization import serialize_message
from rig_messages import transform
from tf2_msgs.msg import TFMessage

from sparse4d_ros.messages.incoming import insert_transforms, transforms_of, transforms_of_serialized
from sparse4d_ros.perception.transforms import InvalidArgument, TransformBuffer

STAMP = 1_532_402_927_612_460_123
NUMBERS = st.floats(allow_nan=False)
messages = st.lists(
    st.builds(
        transform,
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9),
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9),
        st.integers(0, 2**31 * 10**9 - 1),
        st.tuples(NUMBERS, NUMBERS, NUMBERS),
        st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    ),
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(transforms=messages)
def test_the_bytes_hold_what_the_message_holds(transforms):
    """To the last digit, with names of every length, so that every padding occurs."""
    message = TFMessage(transforms=transforms)
    assert list(transforms_of_serialized(bytes(serialize_message(message)))) == list(transforms_of(message))


def test_the_other_byte_order_is_read():
    data = (
        b"\0\0\0\0"
        + struct.pack(">IiI", 1, 12, 34)
        + struct.pack(">I4s", 4, b"map\0")
        + struct.pack(">I6s2x", 6, b"robot\0")
    )
    data += bytes(-(len(data) - 4) % 8) + struct.pack(">7d", *range(7))
    (found,) = transforms_of_serialized(data)
    assert found == ("map", "robot", 12_000_000_034, (0, 1, 2), (3, 4, 5, 6))


@pytest.mark.parametrize("length", [5, 12, 30, 70])
def test_bytes_that_end_early_are_an_error(length):
    data = bytes(serialize_message(TFMessage(transforms=[transform("map", "base_link", STAMP)])))
    assert len(data) > length
    with pytest.raises(ValueError, match="serialized transforms"):
        list(transforms_of_serialized(data[:length]))


def test_bad_transform_does_not_hide_the_good_ones():
    buffer = TransformBuffer()
    bad = transform("map", "base_link", STAMP)
    bad.transform.rotation.w = math.nan
    good = transform("map", "other", STAMP)
    with pytest.raises(InvalidArgument):
        insert_transforms(buffer, TFMessage(transforms=[bad, good]), static=False)
    assert buffer.lookup("map", "other", STAMP).stamp_ns == STAMP
