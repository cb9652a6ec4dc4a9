"""The sets of a bag: cameras' clocks are judged by the bag's log times, as the node judges them by the arrivals."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
from rig_messages import restamped

from sparse4d_ros.bags.bag_io import create_bag, read_messages
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.parameters import NodeParameters

BAD = "cam_back"


def test_a_wrong_clock_in_a_bag_is_named_and_left_out(tiny_bag, tmp_path, caplog):
    """By one period: without log times wrong images would be paired, and nobody would notice."""
    by_ns, bag = 10**8, tmp_path / "shifted"
    with create_bag(bag) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic.startswith(f"/{BAD}/"):
                restamped(message, ns_from_stamp(message.header.stamp) + by_ns)
            writer.write(topic, log_ns, message)
    frames = BagFrames(bag, parameters=NodeParameters(missing_camera="mask"))
    sets = list(frames.sets())
    assert frames.synchronizer.quarantined_cameras() == (BAD,)
    assert f"camera {BAD}: quarantined, stamps 0.100 s ahead of the other cameras" in caplog.text
    assert len(sets) >= 13 and sets[-1].status.missing[BAD].offset_ns == by_ns
    patient = BagFrames(bag, parameters=NodeParameters(missing_camera="mask", clock_offset=0.2))
    assert all(not taken.missing for taken in list(patient.sets())[2:-2])
    assert patient.synchronizer.quarantined_cameras() == ()
