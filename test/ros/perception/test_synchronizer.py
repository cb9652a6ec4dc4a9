"""Grouping of camera images into sets: what comes out, and that everything else is counted."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse4d_ros.perception.synchronizer import CAUSES, SyncedSet, Synchronizer

MS = 10**6
START = 1_700_000_000 * 10**9
STAGGER = {"front_left": 0, "front": 8, "front_right": 17, "back_right": 25, "back": 33, "back_left": 42}  # ms
CAMERAS = tuple(STAGGER)


def synchronizer(cameras=CAMERAS, slop_ms=60, timeout_ms=250, **arguments) -> Synchronizer:
    sync = Synchronizer(cameras, slop_ms * MS, timeout_ms * MS, **arguments)
    for camera in cameras:
        sync.add_info(camera, f"info of {camera}")
    return sync


def stream(count: int, period_ms: float = 1000 / 12) -> list[tuple[str, int]]:
    """Staggered images of all cameras in order of their stamps."""
    return [
        (camera, START + round((k * period_ms + offset) * MS))
        for k in range(count)
        for camera, offset in STAGGER.items()
    ]


def feed(sync: Synchronizer, images, take: bool = True) -> list[SyncedSet]:
    sets = []
    for camera, stamp in images:
        sync.add_image(camera, stamp, (camera, stamp))
        if take and (taken := sync.take_next()) is not None:
            sets.append(taken)
    return sets


def assert_counts_add_up(sync: Synchronizer) -> None:
    assert sync.received == sync.delivered + sum(sync.drops.values()) + sync.pending
    assert set(sync.drops) <= set(CAUSES)


def test_staggered_cameras_at_12_hz_give_every_set():
    sync = synchronizer()
    sets = feed(sync, stream(20))
    assert len(sets) == 20 and not any(sync.drops.values())
    for k, taken in enumerate(sets):
        assert set(taken.images) == set(CAMERAS) and taken.missing == ()
        assert taken.stamp_ns == START + round((k * 1000 / 12 + 42) * MS)
        assert taken.spread_ns == pytest.approx(42 * MS, abs=1000)
        assert taken.infos["front"] == "info of front"


def test_sweeps_that_alternate_between_50_and_100_ms_find_their_phase():
    """Cameras triggered by a 20 Hz lidar; the receiver joins in the middle of a set."""
    starts, time = [], 0
    for gap in [50, 100, 100] * 6:
        starts.append(time)
        time += gap
    images = [(camera, START + (start + offset) * MS) for start in starts for camera, offset in STAGGER.items()]
    sets = feed(synchronizer(), images[4:])
    whole = [taken for taken in sets if taken.spread_ns == 42 * MS]
    assert len(whole) >= 15
    assert sets[-10:] == whole[-10:]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_sets_do_not_depend_on_how_the_cameras_interleave(data):
    cameras = CAMERAS[:3]
    queues = {
        camera: sorted(data.draw(st.sets(st.integers(0, 400), min_size=1, max_size=6), label=camera))
        for camera in cameras
    }
    in_order = sorted((stamp, camera) for camera, stamps in queues.items() for stamp in stamps)
    expected = feed(
        synchronizer(cameras, timeout_ms=10_000), [(camera, START + stamp * MS) for stamp, camera in in_order]
    )
    turns = data.draw(st.permutations([camera for camera, stamps in queues.items() for _ in stamps]), label="arrival")
    positions = dict.fromkeys(cameras, 0)
    arrival = []
    for camera in turns:
        arrival.append((camera, START + queues[camera][positions[camera]] * MS))
        positions[camera] += 1
    sync = synchronizer(cameras, timeout_ms=10_000)
    sets = feed(sync, arrival)
    # Late arrivals may complete several sets at once, then only the newest is handed out.
    assert [taken for taken in expected if taken in sets] == sets
    assert len(sets) + sync.sets["superseded"] == len(expected)
    assert_counts_add_up(sync)


@settings(max_examples=150, deadline=None)
@given(
    images=st.lists(st.tuples(st.sampled_from(CAMERAS[:3]), st.integers(0, 3000)), max_size=60),
    take_every=st.integers(1, 5),
    missing=st.sampled_from(["skip", "mask"]),
    slop=st.integers(0, 80),
    waiting=st.integers(1, 4),
)
def test_no_image_is_used_twice_and_all_are_accounted_for(images, take_every, missing, slop, waiting):
    sync = synchronizer(CAMERAS[:3], slop_ms=slop, missing=missing, waiting_sets=waiting)
    used = set()
    stamps: list[tuple[int, int]] = []
    for k, (camera, ms) in enumerate(images):
        sync.add_image(camera, START + ms * MS, k)
        assert_counts_add_up(sync)
        if k % take_every:
            continue
        if (taken := sync.take_next()) is None:
            continue
        indices = {item for _, item in taken.images.values()}
        assert not indices & used
        used |= indices
        assert taken.spread_ns <= slop * MS
        assert all(images[item] == (camera, (stamp - START) // MS) for camera, (stamp, item) in taken.images.items())
        assert set(taken.images) | set(taken.missing) == set(CAMERAS[:3])
        assert missing == "mask" or not taken.missing
        assert 2 * len(taken.images) >= 3
        stamps.append((taken.epoch, taken.stamp_ns))
    assert all(a[0] < b[0] or a[1] <= b[1] for a, b in pairwise(stamps)), "sets go back in time within an epoch"
    sync.clear()
    assert sync.pending == 0
    assert_counts_add_up(sync)


def test_newest_complete_set_wins():
    sync = synchronizer()
    feed(sync, stream(5), take=False)
    assert sync.take_next().stamp_ns == START + round((4 * 1000 / 12 + 42) * MS)
    assert sync.take_next() is None
    assert sync.drops == {"superseded": 4 * 6} and sync.sets["superseded"] == 4


def test_where_three_may_wait_the_newest_three_come_in_their_order():
    sync = synchronizer(waiting_sets=3)
    feed(sync, stream(5), take=False)
    assert sync.pending == 3 * 6 and sync.drops == {"superseded": 2 * 6} and sync.sets["superseded"] == 2
    taken = [sync.take_next().stamp_ns for _ in range(3)]
    assert taken == [START + round((k * 1000 / 12 + 42) * MS) for k in (2, 3, 4)]
    assert sync.take_next() is None and sync.pending == 0


def test_sets_that_wait_are_forgotten_when_time_jumps():
    sync = synchronizer(waiting_sets=3)
    feed(sync, stream(12), take=False)
    feed(sync, stream(1), take=False)
    assert sync.drops == {"superseded": 9 * 6, "time_jump": 3 * 6}
    assert sync.take_next().epoch == 1 and sync.take_next() is None


def test_a_lost_image_costs_its_set_only_and_names_the_camera():
    images = stream(5)
    images.remove(images[6 + 3])  # back_right of the second set
    sync = synchronizer()
    assert len(feed(sync, images)) == 4
    assert sync.drops["incomplete"] == 5 and sync.sets["incomplete"] == 1
    assert sync.missing_images == {"back_right": 1}
    assert_counts_add_up(sync)


def test_a_silent_camera_skips_sets_after_the_timeout():
    sync = synchronizer()
    images = [(camera, stamp) for camera, stamp in stream(12) if camera != "back"]
    assert feed(sync, images) == []
    assert sync.silent_cameras() == ("back",)
    assert sync.drops["timeout"] >= 5 * 6 and sync.missing_images["back"] >= 6
    assert sync.pending <= 5 * 5, "images of the last 250 ms at most"
    assert_counts_add_up(sync)


def test_a_silent_camera_is_masked_and_not_waited_for():
    sync = synchronizer(missing="mask")
    with_back = stream(24)
    silent_from, back_from = START + 500 * MS, START + 1500 * MS
    images = [(c, stamp) for c, stamp in with_back if c != "back" or not silent_from <= stamp < back_from]
    sets = feed(sync, images)
    masked = [taken for taken in sets if taken.missing]
    assert all(taken.missing == ("back",) and "back" not in taken.images for taken in masked)
    assert len(masked) >= 9 and sets[-1].missing == () and sets[0].missing == ()
    delays = []  # newest image seen when a set came out, once the camera counts as silent
    again = synchronizer(missing="mask")
    for camera, stamp in images:
        again.add_image(camera, stamp, None)
        if (taken := again.take_next()) is not None and taken.missing and stamp > silent_from + 400 * MS:
            delays.append(stamp - taken.stamp_ns)
    assert delays and max(delays) == 0
    assert_counts_add_up(sync)


@pytest.mark.parametrize("missing", ["skip", "mask"])
def test_sets_further_apart_than_the_timeout_are_complete(missing):
    """Key frames at 2 Hz, and what comes after a silence of all cameras: the first image waits for the others."""
    later = [(camera, stamp + 20_000 * MS) for camera, stamp in stream(4, period_ms=500)]
    sync = synchronizer(missing=missing)
    sets = feed(sync, [*stream(4, period_ms=500), *later])
    assert [taken.missing for taken in sets] == [()] * 8
    assert sync.sets["complete"] == 8 and not sync.drops


def test_a_silent_camera_costs_one_set_a_wait_where_sets_are_far_apart():
    sync = synchronizer(missing="mask")
    images = [(c, stamp) for c, stamp in stream(8, period_ms=500) if c != "back" or stamp < START + 900 * MS]
    came_out = []
    for camera, stamp in images:
        sync.add_image(camera, stamp, None)
        if (taken := sync.take_next()) is not None:
            came_out.append((taken.missing, (stamp - taken.stamp_ns) // MS))
    waited = [wait for missing, wait in came_out if missing == ("back",)]
    assert came_out[:2] == [((), 0)] * 2 and waited == [458, 458, 0, 0, 0, 0][: len(waited)] and len(waited) >= 5
    assert_counts_add_up(sync)


def test_an_image_lost_where_sets_are_far_apart_costs_one_set():
    """The camera that fires last is waited for in the next set."""
    sync = synchronizer(missing="mask")
    images = [(c, stamp) for k, (c, stamp) in enumerate(stream(8, period_ms=500)) if k != 6 * 3 - 1]
    sets = feed(sync, images)
    assert [taken.missing for taken in sets] == [()] * 2 + [("back_left",)] + [()] * 5


def test_a_camera_that_has_not_started_yet_is_waited_for():
    sync = synchronizer(missing="mask")
    assert feed(sync, stream(1)[:5]) == []
    assert len(feed(sync, stream(1)[5:])) == 1


def test_less_than_half_of_the_cameras_make_no_masked_set():
    sync = synchronizer(missing="mask")
    images = [(camera, stamp) for camera, stamp in stream(12) if camera in ("front", "back")]
    assert feed(sync, images) == []
    assert sum(sync.drops.values()) > 0
    assert_counts_add_up(sync)


def test_a_camera_that_is_always_late_is_counted_as_late():
    delayed = [(stamp + (600 * MS if camera == "back" else 0), camera, stamp) for camera, stamp in stream(24)]
    end = stream(24)[-1][1]
    sync = synchronizer()
    assert feed(sync, [(camera, stamp) for arrival, camera, stamp in sorted(delayed) if arrival <= end]) == []
    assert sync.drops["late"] > 10 and sync.drops["timeout"] > 50
    assert_counts_add_up(sync)


def test_a_delay_within_the_timeout_costs_nothing():
    delayed = [(stamp + (150 * MS if camera == "back" else 0), camera, stamp) for camera, stamp in stream(12)]
    sync = synchronizer()
    assert len(feed(sync, [(camera, stamp) for _, camera, stamp in sorted(delayed)])) == 12
    assert not any(sync.drops.values())


def test_duplicates_and_images_out_of_order_are_dropped():
    sync = synchronizer(CAMERAS[:2])
    assert sync.add_image("front", START + 100 * MS, 1) is None
    assert sync.add_image("front", START + 100 * MS, 2) == "duplicate_stamp"
    assert sync.add_image("front", START + 10 * MS, 3) == "out_of_order"
    assert sync.add_image("front_left", START + 100 * MS, 4) is None
    assert sync.take_next().images["front"] == (START + 100 * MS, 1)
    assert sync.drops == {"duplicate_stamp": 1, "out_of_order": 1}


def test_a_bag_that_starts_again_clears_everything_once():
    sync = synchronizer()
    first = stream(12)
    feed(sync, first)
    again = stream(12)
    # The loop reaches the cameras one by one: one camera's last image of the old round comes after the new round began.
    sets = feed(sync, [again[0], ("back_left", first[-1][1] + 83 * MS), *again[1:]])
    assert sync.epoch == 1
    assert len(sets) == 12 and {taken.epoch for taken in sets} == {1}
    assert sync.drops["time_jump"] == 1
    assert_counts_add_up(sync)


def test_one_wrong_stamp_in_the_past_does_not_stop_the_stream():
    sync = synchronizer()
    images = stream(24)
    images.insert(60, ("front", START - 3600 * 10**9))
    sets = feed(sync, images)
    assert len(sets) >= 22 and sets[-1].stamp_ns == images[-1][1]
    assert_counts_add_up(sync)


def test_one_wrong_stamp_in_the_future_does_not_stop_the_stream():
    sync = synchronizer()
    images = stream(24)
    images.insert(60, ("front", START + 3600 * 10**9))
    sets = feed(sync, images)
    assert len(sets) >= 21 and sets[-1].stamp_ns == images[-1][1]
    assert_counts_add_up(sync)


def test_sets_wait_for_camera_info():
    sync = Synchronizer(CAMERAS, 60 * MS, 250 * MS)
    assert feed(sync, stream(2)) == []
    for camera in CAMERAS[:-1]:
        sync.add_info(camera, "early")
    assert sync.take_next() is None
    sync.add_info(CAMERAS[-1], "last")
    taken = sync.take_next()
    assert taken.infos["back_left"] == "last" and taken.infos["front"] == "early"
    assert sync.drops == {"no_camera_info": 6}


def test_camera_info_of_the_same_stamp_is_preferred():
    sync = synchronizer(CAMERAS[:1])
    sync.add_info("front_left", "mine", START)
    sync.add_info("front_left", "next", START + 83 * MS)
    sync.add_image("front_left", START, None)
    assert sync.take_next().infos == {"front_left": "mine"}
    sync.add_image("front_left", START + 200 * MS, None)
    assert sync.take_next().infos == {"front_left": "next"}


def test_a_waiting_thread_wakes_when_a_set_is_there():
    sync = synchronizer()
    assert not sync.wait(0.01)
    feeder = threading.Timer(0.05, feed, (sync, stream(1), False))
    feeder.start()
    assert sync.wait(5.0)
    feeder.join()
    assert sync.take_next() is not None


def test_messages_that_complete_no_set_wake_nobody(monkeypatch):
    """Every waking costs the thread that takes messages in a switch."""
    sync, woken = Synchronizer(CAMERAS, 60 * MS, 250 * MS), []
    monkeypatch.setattr(sync._changed, "notify_all", lambda: woken.append("set"))
    for camera in CAMERAS[:-1]:
        sync.add_info(camera, "info")
    feed(sync, stream(1), take=False)
    assert not woken, "the last camera has no CameraInfo"
    sync.add_info(CAMERAS[-1], "info")
    assert woken == ["set"] and sync.take_next() is not None
    feed(sync, stream(2)[6:-1])
    sync.add_info(CAMERAS[0], "newer")
    assert woken == ["set"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cameras": ()}, "cameras"),
        ({"cameras": ("a", "a")}, "different names"),
        ({"slop_ms": 300}, "slop <= timeout"),
        ({"missing": "guess"}, "'skip' or 'mask'"),
        ({"waiting_sets": 0}, "waiting_sets: expected at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        synchronizer(**arguments)
    with pytest.raises(ValueError, match="unknown 'side'"):
        synchronizer().add_image("side", START, None)
