"""Transforms of messages in the buffer."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("rclpy")
from rig_messages import transform
from tf2_msgs.msg import TFMessage

from sparse4d_ros.messages.incoming import insert_transforms
from sparse4d_ros.perception.transforms import InvalidArgument, TransformBuffer

STAMP = 1_532_402_927_612_460_123


def test_bad_transform_does_not_hide_the_good_ones():
    buffer = TransformBuffer()
    bad = transform("map", "base_link", STAMP)
    bad.transform.rotation.w = math.nan
    good = transform("map", "other", STAMP)
    with pytest.raises(InvalidArgument):
        insert_transforms(buffer, TFMessage(transforms=[bad, good]), static=False)
    assert buffer.lookup("map", "other", STAMP).stamp_ns == STAMP
