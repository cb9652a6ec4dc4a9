"""Nothing is lost in silence: what a user reads in the log when something does not arrive."""

from __future__ import annotations

import pytest
from hand_clock import Time
from rig_messages import CAMERAS, START, camera_info

from sparse4d_ros.online.health import Level
from sparse4d_ros.online.statistics import Statistics

pytestmark = pytest.mark.ros


@pytest.fixture
def time() -> Time:
    return Time(1000.0)


@pytest.fixture
def make_timed(make_driver, time):
    def make(**parameters):
        return make_driver(statistics=Statistics(clock=time), **parameters)

    return make


def levels(driver) -> dict[str, Level]:
    return {component.name: component.level for component in driver.node.health()}


def test_a_missing_camera_info_is_logged_within_three_seconds(make_timed, time, capfd):
    driver = make_timed().start(infos=False)
    for camera in CAMERAS[1:]:
        driver.info(camera, camera_info(camera, START))
    for k in range(30):
        driver.feed(k)
        time.now += 0.1
        if k % 10 == 9:
            driver.node.look_after_losses()
    log = capfd.readouterr().err
    assert "camera cam_front: images, but no CameraInfo on /cam_front/camera_info" in log
    assert "images dropped, no_camera_info: their set was complete, but a camera's CameraInfo had not come yet" in log
    assert "cam_back: images, but" not in log
    assert levels(driver)["synchronization"] == levels(driver)["camera cam_front"] == Level.WARN
    driver.info("cam_front", camera_info("cam_front", START))
    driver.wait(1)


def test_incomplete_sets_are_logged_with_the_camera_that_they_lack(make_timed, time, capfd):
    driver = make_timed().start()
    for k in range(12):
        driver.feed(k, {"cam_back": None})
    time.now += 1.0
    driver.node.look_after_losses()
    log = capfd.readouterr().err
    assert (
        "images dropped, timeout: another camera had no image for them within sync_timeout; sets lacked: cam_back"
        in log
    )


def test_health_recovers_from_a_missed_pose(make_timed, time):
    """One set without its pose at the start does not leave a warning for ever."""
    driver = make_timed(tf_timeout=0.0).start()
    assert driver.run(0, poses=False) != "ok"
    time.now += 1.0
    driver.node.look_after_losses()
    assert levels(driver)["transforms"] == Level.WARN
    for k in range(1, 15):
        assert driver.run(k) == "ok"
        time.now += 1.0
        driver.node.look_after_losses()
    assert set(levels(driver).values()) <= {Level.OK, Level.WARN}
    assert levels(driver)["transforms"] == levels(driver)["synchronization"] == Level.OK
    assert driver.drops != {}, "the lifetime counter stays"
    assert levels(driver)["inference"] == Level.WARN, "untrained, and nothing else"


def test_the_summary_has_the_name_of_the_node_and_its_namespace(make_driver, capfd):
    driver = make_driver(namespace="/robot").start()
    driver.node.trigger_deactivate()
    assert "[robot.sparse4d.summary]: 0 sets processed" in capfd.readouterr().err


def test_the_summary_counts_what_happened_in_its_activation(make_driver, capfd):
    driver = make_driver(tf_timeout=0.0).start()
    outcomes = [driver.run(0), driver.run(1), driver.run(2, poses=False)]
    driver.node.trigger_deactivate()
    assert outcomes[:2] == ["ok", "ok"] and outcomes[2].startswith("tf_")
    assert f"2 sets processed; sets dropped: {outcomes[2]} 1; images" in capfd.readouterr().err
    driver.activate()
    assert [driver.run(k) for k in (10, 11, 12)] == ["ok"] * 3
    driver.node.trigger_deactivate()
    assert "3 sets processed; sets dropped: none; images dropped before: none" in capfd.readouterr().err


def test_a_pause_is_no_error_at_the_next_activation(make_timed, time):
    driver = make_timed().start()
    assert driver.run(0) == "ok"
    driver.node.trigger_deactivate()
    time.now += 3600.0
    driver.node.trigger_activate()
    assert levels(driver)["inference"] == Level.WARN, "untrained, and nothing else"
    assert all(level == Level.OK for name, level in levels(driver).items() if name != "inference")
    time.now += 60.0
    driver.node.look_after_losses()
    assert levels(driver)["synchronization"] == Level.ERROR, "now there are no images"
