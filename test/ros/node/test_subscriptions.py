"""How the node listens: quality of service, and a barrier between its callbacks and the executor."""

from __future__ import annotations

import pytest
from rclpy.qos import ReliabilityPolicy
from rig_messages import CAMERAS

pytestmark = pytest.mark.ros


def reliabilities(node, ending: str) -> list[ReliabilityPolicy]:
    return [s.qos_profile.reliability for s in node.subscriptions if s.topic_name.endswith(ending)]


@pytest.mark.parametrize(
    ("images", "infos"), [("best_effort", "best_effort"), ("reliable", "best_effort"), ("best_effort", "reliable")]
)
def test_images_and_camera_info_have_a_reliability_each(make_driver, images, infos):
    node = make_driver(image_reliability=images, camera_info_reliability=infos).start().node
    asked = {"/image_rect/compressed": images, "/camera_info": infos}
    for ending, name in asked.items():
        assert reliabilities(node, ending) == [ReliabilityPolicy[name.upper()]] * len(CAMERAS)


def test_a_message_that_cannot_be_read_costs_itself_and_not_the_node(driver, capfd):
    """Seven bytes on an image topic, handed over as the executor does."""
    images = next(s for s in driver.node.subscriptions if s.topic_name == "/cam_front/image_rect/compressed")
    images.callback(bytes(7))
    assert driver.statistics.rejected == {"internal_error": 1}
    assert "7 bytes; a header needs 12" in capfd.readouterr().err
    assert driver.run(0) == "ok"
