"""The last minute of a drive."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_scenes import objects, picture
from patience import PATIENCE

from sparse4d_ros.live_view.health_sample import HealthSample
from sparse4d_ros.live_view.scene import KEPT_SECONDS, Scene, T_cam_from_base

CAMERAS = ("cam_front", "cam_back")


@pytest.fixture
def scene() -> Scene:
    return Scene(CAMERAS)


def test_a_moment_is_what_was_newest_then(scene):
    for time in range(5):
        scene.add_objects(time, objects(time, (7, "car", 0.9, (10.0 + time, 0.0))))
        scene.add_image(time, "cam_front", picture(time))
        if time == 2:
            scene.add_health(2.5, HealthSample({}))
    moment = scene.moment(3.2)
    assert moment.objects.boxes.boxes[0, 0] == 13.0
    assert moment.images["cam_front"].stamp_ns == moment.objects.stamp_ns
    assert moment.image_ages == {"cam_front": pytest.approx(0.2)}
    assert moment.health is not None and scene.moment(2.4).health is None
    assert scene.moment(-1.0).objects is None
    assert scene.moment().objects.boxes.boxes[0, 0] == 14.0


def test_the_image_beside_a_set_is_the_nearest_by_stamp_however_late_the_set_came(scene):
    for tenth in range(10):
        scene.add_image(tenth / 10, "cam_front", picture(tenth / 10))
    scene.add_objects(0.9, objects(0.42))
    assert scene.moment().images["cam_front"].stamp_ns == picture(0.4).stamp_ns


def test_an_image_of_another_time_is_not_shown_with_a_set(scene):
    scene.add_image(0.0, "cam_front", picture(0.0))
    scene.add_objects(0.9, objects(0.9))
    assert scene.moment().images == {}
    assert scene.moment().image_ages["cam_front"] == pytest.approx(0.9)


def test_a_detector_that_has_fallen_silent_is_told_and_does_not_hold_the_images_back(scene):
    for second in range(9):
        scene.add_image(second, "cam_front", picture(second))
        if second < 3:
            scene.add_objects(second, objects(second))
            scene.add_health(second, HealthSample({}))
    moment = scene.moment(7.0)
    assert moment.silent_for is None and moment.images["cam_front"].stamp_ns == moment.objects.stamp_ns
    moment = scene.moment(8.0)
    assert moment.silent_for == 6.0 and moment.images["cam_front"].stamp_ns == picture(8).stamp_ns
    assert T_cam_from_base(moment.objects, moment.images["cam_front"]) is None, "boxes of another time are not in it"
    assert scene.moment(1.0).silent_for is None, "looking back, it is not"


def test_a_detector_that_is_slow_is_not_taken_for_silent(scene):
    """A model of 20 s a frame; of the first set alone nobody knows how long it takes."""
    for second in range(60):
        scene.add_image(second, "cam_front", picture(second))
        if second % 20 == 0:
            scene.add_objects(second, objects(second))
            scene.add_health(second, HealthSample({}))
        moment = scene.moment()
        assert moment.silent_for is None and moment.images["cam_front"].stamp_ns == moment.objects.stamp_ns


def test_sets_that_came_between_two_ticks_keep_their_times(scene):
    scene.tick(1.0)
    for time in (0.3, 0.5):
        scene.add_objects(time, objects(time))
    assert scene.arrivals() == [0.3, 0.5] and scene.now == 1.0
    assert scene.moment(0.4).objects.stamp_ns == objects(0.3).stamp_ns


def test_a_camera_that_the_rig_does_not_have_is_an_error(scene):
    with pytest.raises(KeyError, match="cam_roof"):
        scene.add_image(0.0, "cam_roof", picture(0.0))


def test_ages_grow_although_nothing_comes(scene):
    scene.add_image(1.0, "cam_front", picture(1.0))
    scene.tick(4.0)
    assert scene.moment().image_ages["cam_front"] == pytest.approx(3.0)


def test_trails_are_in_the_global_frame(scene):
    """The object stands still while the vehicle drives towards it."""
    for step in range(5):
        scene.add_objects(step / 10, objects(step / 10, (7, "car", 0.9, (20.0 - step, 2.0)), ego_x=step))
    (trail,) = scene.trails(scene.now, 4.0).values()
    np.testing.assert_allclose(trail, [[20.0, 2.0, 1.0]] * 5)
    assert len(scene.trails(scene.now, 0.15)[7]) == 2


@pytest.mark.parametrize("stamp", [0.1, 60.0], ids=["time jumps back", "a long pause"])
def test_a_new_drive_has_no_trails_of_the_old_one(scene, stamp):
    scene.add_objects(0.0, objects(1.0, (7, "car", 0.9, (20.0, 0.0))))
    scene.add_objects(0.1, objects(1.1, (7, "car", 0.9, (21.0, 0.0))))
    scene.add_objects(0.2, objects(stamp, (7, "car", 0.9, (50.0, 0.0))))
    assert len(scene.trails(0.2, 4.0)[7]) == 1
    assert len(scene.trails(0.1, 4.0)[7]) == 2, "looking back, the old one is still there"
    assert len(scene.history(7, 0.2)) == 1


def test_history_of_one_track(scene):
    for step in range(3):
        rows = [(7, "car", 0.5 + step / 10, (3.0, 4.0)), (8, "car", 0.9, (9.0, 9.0))]
        scene.add_objects(step, objects(step / 2, *rows))
    history = scene.history(7, 2.0)
    np.testing.assert_allclose(history[:, 0], [-2, -1, 0])
    np.testing.assert_allclose(history[:, 1], [0.5, 0.6, 0.7])
    np.testing.assert_allclose(history[:, 2:4], [[3.0, 5.0]] * 3)
    assert scene.history(99, 2.0).shape == (0, 5)


def test_a_held_scene_does_not_change(scene):
    scene.add_objects(1.0, objects(1.0, (7, "car", 0.9, (1.0, 0.0))))
    scene.add_image(1.0, "cam_front", picture(1.0))
    held = scene.held()
    for time in range(2, 200):
        scene.add_image(time, "cam_front", picture(1.0))
        scene.add_objects(time, objects(time, (8, "car", 0.9, (1.0, 0.0))))
    assert held.moment().objects.boxes.ids.tolist() == [7] and held.now == 1.0
    assert held.moment().image_ages == {"cam_front": 0.0}
    assert scene.moment(1.0).objects is None, "while the live one forgets"


def test_a_reader_is_woken(scene):
    revision = scene.revision
    threading.Timer(0.01, scene.add_health, (1.0, HealthSample({}))).start()
    assert scene.wait_for_change(revision, PATIENCE)
    assert not scene.wait_for_change(scene.revision, 0.0)


@given(times=st.lists(st.floats(0, 500), min_size=1, max_size=40), at=st.floats(0, 500))
def test_nothing_older_than_a_minute_stays_and_nothing_newer_is_lost(times, at):
    """Whatever order a source's clock gives."""
    scene, newest, kept = Scene(CAMERAS), 0.0, []
    for number, time in enumerate(times):
        newest = max(newest, time)
        kept.append((newest, number))
        scene.add_objects(time, objects(number))
    kept = [(time, number) for time, number in kept if time >= newest - KEPT_SECONDS]
    found = scene.set_times(newest) + newest
    np.testing.assert_allclose(found, [time for time, _ in kept], atol=1e-6)
    expected = [number for time, number in kept if time <= at]
    shown = scene.moment(at).objects
    assert (shown is None) == (not expected)
    assert shown is None or shown.stamp_ns == objects(expected[-1]).stamp_ns


def test_a_box_is_seen_from_where_the_camera_was_at_its_own_time():
    """The vehicle drove 2 m between the image and the set."""
    image, found = picture(0.0), objects(0.2, (7, "car", 0.9, (10.0, 0.0)), ego_x=2.0)
    centre = T_cam_from_base(found, image) @ np.array([10.0, 0.0, 1.5, 1.0])
    np.testing.assert_allclose(centre, [0.0, 0.0, 12.0, 1.0], atol=1e-12)
