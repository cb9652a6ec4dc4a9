"""Poses that are late, missing or wrong: awaited for a while, then counted by cause."""

from __future__ import annotations

import time

import numpy as np
import pytest
from rig_messages import CAMERAS, PERIOD, START, ego_pose, image_stamps, static_transforms, transform
from tf2_msgs.msg import TFMessage

pytestmark = pytest.mark.ros


def test_a_missing_pose_is_waited_for_then_counted(make_driver):
    driver = make_driver(tf_timeout=0.2).start()
    assert driver.run(0) == "ok"
    start = time.monotonic()
    assert driver.run(1, poses=False) == "tf_extrapolation_future"
    assert time.monotonic() - start >= 0.2
    assert driver.run(2) == "ok"


def test_a_pose_that_comes_a_little_later_than_the_images_is_used(make_driver):
    driver = make_driver(tf_timeout=5.0).start()
    driver.feed(0, poses=False)
    driver.until(lambda: driver.statistics.snapshot().busy_since is not None)  # the worker has the set
    for stamp in image_stamps(0).values():
        driver.transforms(ego_pose(stamp))
    driver.wait(1)
    assert driver.statistics.processed == 1


def test_poses_that_start_later_than_the_images_are_no_poses(driver):
    driver.transforms(ego_pose(START + 10 * PERIOD))
    driver.transforms(ego_pose(START + 11 * PERIOD))
    assert driver.run(0, poses=False) == "tf_extrapolation_past"


def test_no_transforms_at_all_are_counted(make_driver):
    driver = make_driver(tf_timeout=0.05).start(static=False)
    assert driver.run(0, poses=False) == "tf_unknown_frame"


def test_disconnected_trees_are_counted(make_driver):
    driver = make_driver(tf_timeout=0.05).start()
    for stamp in image_stamps(0).values():
        other = transform("map", "somewhere_else", stamp)
        driver.transforms(TFMessage(transforms=[other]))
    assert driver.run(0, poses=False) == "tf_connectivity"
    assert driver.run(1) == "ok"


def test_an_unknown_camera_frame_is_counted(make_driver):
    driver = make_driver(tf_timeout=0.05).start(static=False)
    driver.transforms(static_transforms(CAMERAS[1:]), static=True)
    assert driver.run(0) == "tf_unknown_frame"
    driver.transforms(static_transforms(), static=True)
    assert driver.run(1) == "ok"


def test_a_stale_stranger_wipes_nothing(driver):
    """An arm's publisher that starts anew with old stamps; only the rig's own frames tell that time went back."""
    for joint, stamp in (("joint", START), ("joint", START - 100 * PERIOD)):
        assert driver.run(0 if stamp == START else 1, poses=True) == "ok"
        driver.transforms(TFMessage(transforms=[transform("arm", joint, stamp)]))
    assert not driver.statistics.resets and not driver.statistics.rejected
    driver.transforms(ego_pose(START - 100 * PERIOD))
    assert driver.statistics.resets == {"transforms jumped back in time": 1}


def test_only_the_rig_s_chain_is_kept(driver):
    for k in range(50):
        driver.transforms(TFMessage(transforms=[transform("arm", "joint", START + k)]))
    edges = driver.node.transform_intake._transforms._buffer._edges
    assert len(edges["joint"].stamps) == 1, "enough to name the frame"


def test_a_transform_that_can_not_be_right_is_refused(driver):
    wrong = transform("map", "base_link", START, (np.nan, 0, 0))
    driver.transforms(TFMessage(transforms=[wrong]))
    assert driver.statistics.rejected == {"tf_not_finite": 1}
    assert driver.run(0) == "ok"
