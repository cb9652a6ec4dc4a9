"""Which sets reach the model: complete ones, masked ones, the newest."""

from __future__ import annotations

import pytest
from rig_messages import CAMERAS, compressed, image_stamps, set_stamp

pytestmark = pytest.mark.ros
BACK = CAMERAS.index("cam_back")


def test_a_silent_camera_skips_sets_and_is_named(driver):
    watched = driver.watch()
    assert driver.run(0) == "ok"
    for k in range(1, 8):
        driver.feed(k, {"cam_back": None})
    synchronizer = driver.node.synchronizer
    assert synchronizer.silent_cameras() == ("cam_back",)
    assert synchronizer.drops["timeout"] >= 15 and synchronizer.missing_images["cam_back"] >= 3
    assert driver.run(8) == "ok"
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(0), set_stamp(8)]


def test_a_silent_camera_is_masked_on_demand(make_driver):
    driver = make_driver(missing_camera="mask").start()
    watched = driver.watch()
    assert driver.run(0) == "ok"
    for k in range(1, 8):
        driver.feed(k, {"cam_back": None})
    driver.until(lambda: len(watched.results) >= 2)
    driver.feed(8)
    driver.until(lambda: watched.frames[-1].stamp_ns == set_stamp(8))
    assert not driver.drops
    complete, *masked, last = watched.frames
    assert masked, "frames of the sets without the camera"
    for frame in (complete, last):
        assert all(image is not None for image in frame.images)
    for frame in masked:
        assert [k for k, image in enumerate(frame.images) if image is None] == [BACK]
    assert driver.node.synchronizer.sets["masked"] >= len(masked)


def test_a_late_camera_is_counted_and_its_images_are_used_for_nothing(driver):
    watched = driver.watch()
    for k in range(12):
        late = compressed("cam_back", image_stamps(k - 6)["cam_back"]) if k >= 6 else None
        driver.feed(k, {"cam_back": late})
    assert driver.node.synchronizer.drops["late"] >= 5
    assert driver.run(12) == "ok"
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(12)]


def test_the_newest_complete_set_wins_while_the_worker_is_busy(driver):
    watched = driver.busy()
    for k in range(2, 9):
        driver.feed(k)
    driver.until(lambda: driver.waiting_stamp_ns == set_stamp(8))  # prepared, in place of those that waited before
    watched.free.set()
    driver.until(lambda: driver.statistics.processed == 3)
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(0), set_stamp(1), set_stamp(8)]
    prepared = driver.drops.pop("superseded", 0)
    assert driver.node.synchronizer.sets["superseded"] + prepared == 6 and not driver.drops.keys() - {"superseded"}


def test_without_looking_ahead_the_newest_set_is_taken_when_the_network_is_free(make_driver):
    driver = make_driver(look_ahead="never").start()
    watched = driver.busy()
    for k in range(2, 9):
        driver.feed(k)
    watched.free.set()
    driver.wait(3)
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(0), set_stamp(1), set_stamp(8)]
    assert driver.node.synchronizer.sets["superseded"] == 6 and not driver.drops
