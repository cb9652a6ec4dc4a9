"""Which sets reach the model: complete ones, masked ones, the newest."""

from __future__ import annotations

import time

import pytest
from rig_messages import compressed, image_stamps

pytestmark = pytest.mark.ros


def test_a_silent_camera_skips_sets_and_is_named(driver):
    assert driver.run(0) == "ok"
    for k in range(1, 8):
        driver.feed(k, {"cam_back": None})
    synchronizer = driver.node.synchronizer
    assert synchronizer.silent_cameras() == ("cam_back",)
    assert synchronizer.drops["timeout"] >= 15 and synchronizer.missing_images["cam_back"] >= 3
    assert driver.run(8) == "ok"


def test_a_silent_camera_is_masked_on_demand(make_driver):
    driver = make_driver(missing_camera="mask").start()
    assert driver.run(0) == "ok"
    for k in range(1, 8):
        driver.feed(k, {"cam_back": None})
    driver.wait(2)
    assert driver.statistics.processed >= 2 and not driver.drops
    assert driver.node.synchronizer.sets["masked"] >= 4


def test_a_late_camera_is_counted(driver):
    for k in range(12):
        driver.feed(k, {"cam_back": None if k < 6 else compressed("cam_back", image_stamps(k - 6)["cam_back"])})
    assert driver.node.synchronizer.drops["late"] >= 5
    assert driver.statistics.processed == 0


def test_the_newest_complete_set_wins_while_the_worker_is_busy(driver):
    driver.run(0)
    for k in range(1, 9):
        driver.feed(k)
    driver.wait(2)
    time.sleep(0.5)
    superseded = driver.node.synchronizer.sets["superseded"]
    assert superseded >= 1
    assert driver.statistics.processed + superseded == 9
    assert not driver.drops
