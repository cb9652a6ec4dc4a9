"""The types that another process sees us publish are the official ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import import_module

import pytest
from patience import PATIENCE

rclpy = pytest.importorskip("rclpy")

from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402

HASHES = {  # message -> RIHS01 hash of the official definition
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "vision_msgs/msg/Detection3D": "ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
    "vision_msgs/msg/LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
    "autoware_perception_msgs/msg/DetectedObjects": "2facd6b15786cbd1f720cdd23d22e6d60d2e7e83b8dff8fd401330e24edb187b",
    "autoware_perception_msgs/msg/TrackedObjects": "3559bd4e62ce8a4d96e32720c02bbe656cc090bb2b3f3f91f52a7c3ab095417a",
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
}

pytestmark = pytest.mark.ros


def message_class(name: str) -> type:
    package, _, message = name.split("/")
    return getattr(import_module(f"{package}.msg"), message)


def topic(name: str) -> str:
    return f"/types/{name.rsplit('/', 1)[1].lower()}"


def publish(domain: int) -> None:
    """What this file does as a program: one publisher of each type until its input ends."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node("type_publisher", context=context)
    for name in HASHES:
        node.create_publisher(message_class(name), topic(name), 1)
    sys.stdin.read()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture(scope="module")
def observer(module_domain):
    """A node in this process that sees the publishers of the other."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # with the tests' helpers
    process = subprocess.Popen([sys.executable, __file__, str(module_domain)], stdin=subprocess.PIPE, env=environment)
    context = Context()
    rclpy.init(context=context, domain_id=module_domain)
    node = Node("type_observer", context=context)
    yield node
    process.communicate(timeout=PATIENCE)
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("name", HASHES)
def test_hash_over_the_wire(observer, name):
    deadline = time.monotonic() + PATIENCE
    while not (endpoints := observer.get_publishers_info_by_topic(topic(name))):
        assert time.monotonic() < deadline, f"no publisher of {topic(name)} was discovered"
        time.sleep(0.05)
    if not hasattr(endpoints[0], "topic_type_hash"):
        pytest.skip("this ROS 2 distribution (Humble) sends no type hashes")
    assert endpoints[0].topic_type == name
    assert str(endpoints[0].topic_type_hash) == f"RIHS01_{HASHES[name]}"


if __name__ == "__main__":
    publish(int(sys.argv[1]))
