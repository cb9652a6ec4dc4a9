"""Autoware's messages and the list of classes, as another participant of the domain receives them."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("autoware_perception_msgs", reason="autoware_perception_msgs is not installed")
import rclpy
from autoware_perception_msgs.msg import DetectedObjects, TrackedObjects
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile
from vision_msgs.msg import Detection3DArray, LabelInfo

from sparse4d_core.types import CLASS_NAMES
from sparse4d_ros import messages

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPICS = {
    "autoware/detected_objects": (DetectedObjects, 10),
    "autoware/tracked_objects": (TrackedObjects, 10),
    "detections": (Detection3DArray, 10),
    "label_info": (LabelInfo, LATCHED),
}


@pytest.fixture
def peer(module_context):
    """A node that listens, and what it received by topic."""
    node = rclpy.create_node("peer", context=module_context)
    received = {topic: [] for topic in TOPICS}
    for topic, (kind, quality) in TOPICS.items():
        node.create_subscription(kind, f"/sparse4d/{topic}", received[topic].append, quality)
    executor = SingleThreadedExecutor(context=module_context)
    executor.add_node(node)
    yield executor, received
    executor.shutdown()
    node.destroy_node()


def test_both_messages_and_the_classes_arrive(make_driver, peer):
    executor, received = peer
    driver = make_driver(autoware=True, velocity_deviation=0.5).start()
    publishers = driver.node.outputs._publishers
    driver.until(lambda: all(publishers[topic].get_subscription_count() for topic in TOPICS if topic in publishers))
    assert driver.run(0) == driver.run(1) == "ok"

    def arrived() -> bool:
        executor.spin_once(timeout_sec=0.05)
        return all(len(messages) >= (1 if topic == "label_info" else 2) for topic, messages in received.items())

    driver.until(arrived)
    plain, detected = received["detections"][0], received["autoware/detected_objects"][0]
    assert detected.header == plain.header and len(detected.objects) == len(plain.detections) > 0
    assert detected.objects[0].kinematics.pose_with_covariance.pose == plain.detections[0].bbox.center
    assert detected.objects[0].kinematics.twist_with_covariance.covariance[0] == 0.25
    assert received["autoware/tracked_objects"][0].header == plain.header
    (labels,) = received["label_info"]
    assert [entry.class_name for entry in labels.class_map] == list(CLASS_NAMES)
    assert [entry.class_id for entry in labels.class_map] == list(range(len(CLASS_NAMES)))


def test_without_being_asked_for_there_is_no_such_topic(make_driver):
    driver = make_driver().start()
    assert not [topic for topic in driver.node.outputs._publishers if topic.startswith("autoware")]


def test_without_the_packages_the_node_stays_unconfigured_and_says_what_to_do(make_driver, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "autoware_perception_msgs", None)
    monkeypatch.setitem(sys.modules, "autoware_perception_msgs.msg", None)
    monkeypatch.delitem(sys.modules, "sparse4d_ros.messages.autoware", raising=False)
    monkeypatch.delattr(messages, "autoware", raising=False)
    driver = make_driver(autoware=True)
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "autoware: true, but autoware_perception_msgs" in capfd.readouterr().err
