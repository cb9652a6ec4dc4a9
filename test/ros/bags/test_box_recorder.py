"""The recorder joins messages to sets, and never those of two playbacks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
import rclpy
from std_msgs.msg import Header

from sparse4d_core.types import Detections
from sparse4d_ros.bags.message_records import RECORDED
from sparse4d_ros.box_recorder import BoxRecorder
from sparse4d_ros.messages.detections import to_detection_array, to_state_cloud
from sparse4d_ros.messages.set_status import to_set_status
from sparse4d_ros.messages.stamps import stamp_from_ns
from sparse4d_ros.perception.synced_set import SetStatus


@pytest.fixture
def recorder(module_domain):
    """A recorder with the list of what it recorded, and what delivers a message to it as a subscription does."""
    records, context = [], rclpy.Context()
    rclpy.init(context=context, domain_id=module_domain)
    node = BoxRecorder("/sparse4d", records.append, context=context)
    takes = {subscription.topic_name.rsplit("/", 1)[1]: subscription.callback for subscription in node.subscriptions}
    yield node, records, lambda messages: [takes[topic](message) for topic, message in messages.items()]
    node.destroy_node()
    rclpy.shutdown(context=context)


def messages_of(stamp_ns: int, rows: int) -> dict:
    """What a detector publishes of a set with so many boxes."""
    header = Header(stamp=stamp_from_ns(stamp_ns), frame_id="base_link")
    boxes = np.full((rows, 10), float(rows))
    found = Detections(boxes, np.ones(rows), np.zeros(rows, np.int64), ids=np.arange(rows))
    array, cloud = to_detection_array(found, boxes, header), to_state_cloud(found, boxes, header)
    status = to_set_status(SetStatus(stamp_ns, {"cam_front": 0}), header)
    return dict(zip(RECORDED, (array, cloud, array, cloud, status), strict=True))


@pytest.mark.ros
@pytest.mark.parametrize("rows", [2, 3])
def test_a_second_playback_is_recorded_with_its_own_messages(recorder, rows):
    """A set of the first one lost a message; the second one has its stamp again, with as many boxes or more."""
    node, records, deliver = recorder
    first = messages_of(1, 2)
    del first["tracks"]
    deliver(first)
    deliver(messages_of(2, 2))
    for number in (1, 2):
        again = messages_of(number, rows)
        deliver({topic: again[topic] for topic in reversed(RECORDED)})
    assert [record.stamp_ns for record in records] == [2, 1, 2] and node.incomplete == 1
    for record in records[1:]:
        assert len(record.detections.scores) == len(record.tracks.scores) == rows


@pytest.mark.ros
def test_messages_that_are_not_of_one_set_end_nothing(recorder):
    node, records, deliver = recorder
    deliver(messages_of(1, 2) | {"track_states": messages_of(1, 3)["track_states"]})
    deliver(messages_of(2, 2))
    assert [record.stamp_ns for record in records] == [2] and node.incomplete == 1
