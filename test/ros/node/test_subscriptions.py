"""How the node listens: quality of service, and a barrier between its callbacks and the executor."""

from __future__ import annotations

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
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


def overridden(topic: str, policy: str, value) -> dict:
    return {f"qos_overrides.{topic}.subscription.{policy}": value}


def test_quality_of_service_can_be_overridden_for_each_topic(make_driver):
    """In every activation, and not for the other topics."""
    front, tf = "/cam_front/image_rect/compressed", "/tf"
    wanted = overridden(front, "reliability", "reliable") | overridden(front, "depth", 17) | overridden(tf, "depth", 3)
    node = make_driver(**wanted).start().node
    for _ in range(2):
        found = {s.topic_name: s.qos_profile for s in node.subscriptions}
        assert (found[front].reliability, found[front].depth) == (ReliabilityPolicy.RELIABLE, 17)
        assert found["/tf"].depth == 3
        others = [profile for topic, profile in found.items() if topic.endswith("/compressed") and topic != front]
        assert {(profile.reliability, profile.depth) for profile in others} == {(ReliabilityPolicy.BEST_EFFORT, 5)}
        assert node.trigger_deactivate() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS


def test_a_quality_of_service_that_cannot_be_is_logged_and_the_node_stays_inactive(make_driver, capfd):
    driver = make_driver(**overridden("/cam_back/image_rect/compressed", "reliability", "sometimes"))
    assert driver.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    before = [s.topic_name for s in driver.node.subscriptions]
    assert driver.node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert "activate failed: Unexpected QoS override for policy `reliability`: `sometimes`" in capfd.readouterr().err
    assert [s.topic_name for s in driver.node.subscriptions] == before
    driver = make_driver(**overridden("/tf", "reliability", "sometimes"))
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "configure failed: Unexpected QoS override" in capfd.readouterr().err


def test_topics_without_a_leading_slash_are_below_the_namespace(make_driver, tmp_path):
    path = tmp_path / "rig.yaml"
    path.write_text("cameras:\n- {name: a, image_topic: a/image_rect}\n- {name: b, image_topic: /b/image_rect}\n")
    node = make_driver(namespace="/robot", rig=str(path)).start(infos=False, static=False).node
    expected = {"/robot/a/image_rect", "/robot/a/camera_info", "/b/image_rect", "/b/camera_info"}
    assert expected <= {s.topic_name for s in node.subscriptions}
    assert [camera.image_topic for camera in node._rig.cameras] == ["/robot/a/image_rect", "/b/image_rect"]


def test_a_message_that_cannot_be_read_costs_itself_and_not_the_node(driver, capfd):
    """Seven bytes on an image topic, handed over as the executor does."""
    images = next(s for s in driver.node.subscriptions if s.topic_name == "/cam_front/image_rect/compressed")
    images.callback(bytes(7))
    assert driver.statistics.rejected == {"message": 1}
    assert "7 bytes; a header needs 12" in capfd.readouterr().err
    assert driver.run(0) == "ok"


def test_an_error_in_a_callback_costs_its_message_and_not_the_node(driver, monkeypatch, capfd):
    def fail(*_):
        raise ZeroDivisionError("out of the blue")

    images = next(s for s in driver.node.subscriptions if s.topic_name == "/cam_front/image_rect/compressed")
    with monkeypatch.context() as patch:
        patch.setattr(driver.node.synchronizer, "add_image", fail)
        images.callback(bytes(100))
    assert driver.statistics.rejected == {"internal_error": 1}
    assert "out of the blue" in capfd.readouterr().err
    assert driver.run(0) == "ok"
