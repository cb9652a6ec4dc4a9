"""Clocks that are wrong, and things that only look like it: one scenario a test, on simulated streams."""

from __future__ import annotations

from collections import Counter
from random import Random

import camera_streams as streams
import pytest
from camera_streams import EPOCH, MS, SECOND, Fault, Image, Rig

from sparse4d_ros.perception.camera_clock import ClockLimits
from sparse4d_ros.perception.synchronizer import SyncedSet, Synchronizer

HOUR = 3600 * SECOND
NUSCENES = Rig(6, 12.0, base=0.015, spikes=0.0)  # cameras that fire in turn, at 12 Hz


def synchronizer(rig: Rig = NUSCENES, missing: str = "mask", **arguments) -> Synchronizer:
    return Synchronizer(rig.names, rig.slop_ns, missing=missing, require_info=False, **arguments)


def feed(sync: Synchronizer, images: list[Image], with_arrivals: bool = True) -> list[SyncedSet]:
    sets = []
    for image in images:
        sync.add_image(image.camera, image.stamp_ns, image, image.arrival_ns if with_arrivals else None)
        assert sync.received == sync.delivered + sum(sync.drops.values()) + sync.pending
        if (taken := sync.take_next()) is not None:
            sets.append(taken)
    return sets


def bad_clock(claim, rig: Rig = NUSCENES, start: float = 2.0, end: float = 99.0, seconds: float = 5.0) -> list[Image]:
    return streams.stream(rig, seconds, seed=1, fault=Fault("cam_1", start, end, claim))


def shifted(
    images: list[Image], from_s: float, stamps_s: float = 0, arrivals_s: float = 0, cameras=None
) -> list[Image]:
    """Stamps or arrivals of what is exposed from then on, moved; of all cameras or of some."""
    return sorted(
        (
            i._replace(
                stamp_ns=i.stamp_ns + round(stamps_s * SECOND), arrival_ns=i.arrival_ns + round(arrivals_s * SECOND)
            )
            if i.exposure_ns >= EPOCH + from_s * SECOND and (cameras is None or i.camera in cameras)
            else i
            for i in images
        ),
        key=lambda i: i.arrival_ns,
    )


def kinds(sync: Synchronizer) -> list[tuple[str, str | None]]:
    return [(event.kind, event.camera) for event in sync.take_events()]


def rounds(sets: list[SyncedSet]) -> list[int]:
    return [next(iter(taken.images.values()))[1].round for taken in sets]


# --- one camera -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-24 * 365 * 50, -1, 1, 24 * 365 * 50])
@pytest.mark.parametrize("start", [0.0, 2.0])
def test_a_far_off_clock_costs_the_others_nothing_from_the_first_image_on(hours, start):
    sync = synchronizer()
    sets = feed(sync, bad_clock(streams.offset(hours * HOUR), start=start))
    assert rounds(sets) == list(range(60))
    assert sync.epoch == 0 and sync.quarantined_cameras() == ("cam_1",)
    assert sets[-1].missing == ("cam_1",) and sets[-1].why_missing["cam_1"].reason == "quarantined"
    (event,) = sync.take_events()
    assert (event.kind, event.camera) == ("quarantined", "cam_1")
    assert event.offset_ns == pytest.approx(hours * HOUR, abs=30 * MS)
    assert event.arrival_ns < EPOCH + (start + 0.6) * SECOND


@pytest.mark.parametrize("direction", [-1, 1])
def test_an_offset_of_one_period_pairs_wrong_images_until_it_is_noticed(direction):
    sync = synchronizer(missing="skip")
    sets = feed(sync, bad_clock(streams.offset(direction * NUSCENES.period_ns)))
    mixed = [taken for taken in sets if len({image.round for _, image in taken.images.values()}) > 1]
    assert 3 <= len(mixed) <= 10, "they agree by their stamps, so it takes the arrival times to find out"
    assert all(image.exposure_ns < EPOCH + 2.8 * SECOND for taken in mixed for _, image in taken.images.values())
    (event,) = [e for e in sync.take_events() if e.kind == "quarantined"]
    assert event.camera == "cam_1" and event.offset_ns == pytest.approx(direction * NUSCENES.period_ns, abs=30 * MS)
    assert "ahead of" in event.text if direction > 0 else "behind" in event.text


@pytest.mark.parametrize(("claim", "reason"), [(streams.stuck, "stand still at"), (streams.zero, "are zero")])
def test_stamps_that_stand_still_or_are_zero_are_called_so(claim, reason):
    sync = synchronizer()
    feed(sync, bad_clock(claim))
    (event,) = sync.take_events()
    assert event.kind == "quarantined" and reason in event.text
    assert reason in sync.camera_status()["cam_1"].reason
    assert sync.drops["no_stamp" if claim is streams.zero else "duplicate_stamp"] >= 3


def test_stamps_that_stand_still_are_noticed_on_every_camera_at_once():
    rig = Rig(3, 10.0)
    images = [i._replace(stamp_ns=min(i.stamp_ns, EPOCH + SECOND)) for i in streams.stream(rig, 3.0, seed=1)]
    sync = synchronizer(rig)
    feed(sync, images)
    assert {camera for kind, camera in kinds(sync) if kind == "quarantined"} == set(rig.names)


def test_a_lone_camera_s_stamps_that_stand_still_are_noticed():
    """It agrees with itself; the stamps alone give it away."""
    rig = Rig(1, 10.0)
    sync = synchronizer(rig)
    feed(sync, [i._replace(stamp_ns=min(i.stamp_ns, EPOCH + SECOND)) for i in streams.stream(rig, 3.0, seed=1)])
    assert kinds(sync) == [("quarantined", "cam_0")]


def test_a_camera_is_taken_back_when_it_agrees_again():
    sync = synchronizer()
    sets = feed(sync, bad_clock(streams.offset(HOUR), end=3.0, seconds=6.0))
    assert kinds(sync) == [("quarantined", "cam_1"), ("taken_back", "cam_1")]
    assert sets[-1].missing == () and rounds(sets) == list(range(72)), "nothing lost on the way out, nor on the way in"
    whole = [taken for taken in sets if not taken.missing and taken.stamp_ns > EPOCH + 3 * SECOND]
    assert whole[0].stamp_ns < EPOCH + 4.3 * SECOND


def test_a_camera_that_is_right_now_and_then_stays_in_quarantine():
    sync = synchronizer()
    feed(sync, bad_clock(streams.jumps([HOUR, 0, -HOUR], dwell=0.5, start=2.0), seconds=12.0))
    assert kinds(sync) == [("quarantined", "cam_1")]


@pytest.mark.parametrize("size", [-50 * 365 * 24 * HOUR, -HOUR, -200 * MS, 200 * MS, HOUR, 50 * 365 * 24 * HOUR])
def test_a_single_wrong_stamp_costs_one_image_and_no_quarantine(size):
    images = streams.stream(NUSCENES, 4.0, seed=1)
    index = next(k for k, image in enumerate(images) if (image.camera, image.round) == ("cam_1", 20))
    images[index] = images[index]._replace(stamp_ns=images[index].stamp_ns + size)
    sync = synchronizer()
    sets = feed(sync, images)
    assert kinds(sync) == [] and sync.epoch == 0
    if abs(size) >= HOUR:
        assert sync.drops["clock"] == 1 and rounds(sets) == list(range(48))
    assert sum(bool(taken.missing) for taken in sets) <= 4 and len(sets) >= 45


def test_of_two_cameras_the_one_that_left_is_wrong():
    rig = Rig(2, 12.0)
    for size in (-HOUR, -110 * MS, 110 * MS, HOUR):
        sync = synchronizer(rig)
        sets = feed(sync, bad_clock(streams.offset(size), rig, seconds=12.0))
        assert kinds(sync) == [("quarantined", "cam_1")]
        assert len(sets) >= 140 and set(sets[-1].images) == {"cam_0"}


def test_of_two_cameras_the_one_that_drifts_is_wrong_also_after_a_stall():
    rig = Rig(2, 12.0)
    for rate in (-0.02, 0.02):
        fault = Fault("cam_1", 0.0, 99.0, streams.drift(rate, 0.0))
        sync = synchronizer(rig)
        feed(sync, streams.stream(rig, 12.0, seed=3, fault=fault, stalls=[(1.0, 0.9), (3.5, 0.6)]))
        assert kinds(sync) == [("quarantined", "cam_1")]


def test_of_two_cameras_that_disagree_from_the_start_the_arrival_times_are_asked():
    rig = Rig(2, 12.0)
    for size in (-HOUR, HOUR):
        sync = synchronizer(rig)
        feed(sync, bad_clock(streams.offset(size), rig, start=0.0))
        assert sync.quarantined_cameras() == ("cam_1",)


def test_a_slow_transport_is_a_matter_of_the_limit():
    images = shifted(streams.stream(NUSCENES, 4.0, seed=1), 0.0, arrivals_s=0.15, cameras=("cam_1",))
    strict, patient = synchronizer(), synchronizer(limits=ClockLimits(offset_ns=200 * MS))
    feed(strict, images)
    assert strict.quarantined_cameras() == ("cam_1",)
    assert len(feed(patient, images)) == 48 and not patient.take_events()


def test_a_fast_transport_within_the_limit_is_as_good_as_a_slow_one():
    """Two USB cameras beside four that come a second late: their images are ahead of the majority, and no others'."""
    rig = Rig(6, 30.0)
    images = shifted(streams.stream(rig, 4.0, seed=1), 0.0, arrivals_s=0.9, cameras=rig.names[:4])
    sync = synchronizer(rig, "skip", timeout_ns=2 * SECOND, limits=ClockLimits(offset_ns=1500 * MS))
    assert rounds(feed(sync, images)) == list(range(120))
    assert not +sync.drops and sync.epoch == 0
    assert {kind for kind, _ in kinds(sync)} == {"silent", "heard_again"}, "of the slow ones, before their first images"


def test_a_lone_camera_has_nobody_to_disagree_with():
    rig = Rig(1, 12.0)
    sync = synchronizer(rig)
    images = shifted(streams.stream(rig, 4.0, seed=1), 2.0, stamps_s=-3600)
    images = [i._replace(camera="cam_0") for i in images]
    assert len(feed(sync, images)) == 48 and sync.epoch == 1
    assert kinds(sync) == [("time_jump", None)]


@pytest.mark.parametrize("behind", [120, 500])
@pytest.mark.parametrize("polled_ns", [EPOCH - 600 * SECOND, 1000 * SECOND], ids=["ten_minutes_before", "before_clock"])
def test_silence_before_the_first_image_excuses_no_clock(polled_ns, behind):
    """The node was active long before the cameras; or looked at the time before it had one from /clock."""
    rig = Rig(3, 10.0)
    sync = synchronizer(rig)
    sync.poll(polled_ns)
    feed(sync, bad_clock(streams.offset(-behind * SECOND), rig, start=0.0))
    (event,) = [event for event in sync.take_events() if event.kind == "quarantined"]
    assert event.camera == "cam_1" and event.arrival_ns < EPOCH + SECOND


@pytest.mark.parametrize("behind", [120, 500])
def test_a_long_pause_excuses_a_clock_for_a_moment_only(behind):
    rig = Rig(3, 10.0)
    images = bad_clock(streams.offset(-behind * SECOND), rig)
    sync = synchronizer(rig)
    feed(sync, shifted(images, 2.0, stamps_s=600.0, arrivals_s=600.0))
    (event,) = [event for event in sync.take_events() if event.kind == "quarantined"]
    assert event.camera == "cam_1" and event.arrival_ns < EPOCH + 604 * SECOND


# --- all cameras ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_arrivals", [True, False])
@pytest.mark.parametrize("cameras", [1, 2, 3, 6, 12])
@pytest.mark.parametrize("seconds", [-50 * 365 * 24 * 3600, -5, 5, 50 * 365 * 24 * 3600])
def test_a_jump_of_all_clocks_is_followed_at_once(cameras, seconds, with_arrivals):
    rig = Rig(cameras, 12.0)
    images = shifted(streams.stream(rig, 5.0, seed=2), 2.5, stamps_s=seconds)
    sync = synchronizer(rig, missing="skip")
    sets = feed(sync, images, with_arrivals)
    assert rounds(sets) == list(range(60)), "the first images after the jump are used"
    assert sync.epoch == (1 if seconds < 0 else 0) and {taken.epoch for taken in sets} == {0, sync.epoch}
    (event,) = sync.take_events()
    assert event.kind == "time_jump" and event.camera is None
    assert event.offset_ns == pytest.approx(seconds * SECOND, abs=rig.period_ns + 50 * MS)


def test_a_jump_by_less_than_transports_may_differ_by_is_followed_too():
    images = shifted(streams.stream(NUSCENES, 5.0, seed=2), 2.5, stamps_s=-1.0)
    sync = synchronizer(missing="skip", timeout_ns=2 * SECOND, limits=ClockLimits(offset_ns=1500 * MS))
    assert rounds(feed(sync, images)) == list(range(60))
    assert kinds(sync) == [("time_jump", None)] and sync.epoch == 1


@pytest.mark.parametrize("cameras", [4, 6, 12])
def test_half_of_the_cameras_cannot_make_time_jump_but_more_can(cameras):
    rig = Rig(cameras, 12.0)
    images = streams.stream(rig, 6.0, seed=2)
    half = shifted(images, 2.0, stamps_s=HOUR / SECOND, cameras=rig.names[: cameras // 2])
    sync = synchronizer(rig)
    sets = feed(sync, half)
    assert set(sync.quarantined_cameras()) == set(rig.names[: cameras // 2])
    assert sets[-1].stamp_ns < EPOCH + 7 * SECOND and len(sets) >= 70
    more = shifted(half, 4.0, stamps_s=HOUR / SECOND, cameras=rig.names[cameras // 2 : cameras // 2 + 1])
    sync = synchronizer(rig)
    sets = feed(sync, more)
    assert ("time_jump", None) in kinds(sync)
    assert sets[-1].stamp_ns > EPOCH + HOUR and set(sync.quarantined_cameras()) == set(rig.names[cameras // 2 + 1 :])


def test_clocks_that_step_one_after_another_end_in_the_new_time():
    """As when a time server comes back: each camera follows when it notices."""
    images = streams.stream(NUSCENES, 12.0, seed=2)
    for k, camera in enumerate(NUSCENES.names):
        images = shifted(images, 2.0 + k, stamps_s=37.0, cameras=(camera,))
    sync = synchronizer()
    sets = feed(sync, images)
    assert sync.quarantined_cameras() == () and sets[-1].missing == ()
    assert sets[-1].stamp_ns > EPOCH + 45 * SECOND and sync.epoch == 0
    assert ("time_jump", None) in kinds(sync)


@pytest.mark.parametrize("with_arrivals", [True, False])
@pytest.mark.parametrize("hours", [-1, 1])
def test_the_first_of_all_images_may_be_the_wrong_one(hours, with_arrivals):
    images = streams.stream(NUSCENES, 3.0, seed=1)
    first = images[0].camera
    images = shifted(images, 0.0, stamps_s=hours * 3600, cameras=(first,))
    sync = synchronizer()
    sets = feed(sync, images, with_arrivals)
    assert len(sets) >= 34 and sync.epoch == 0 and sync.quarantined_cameras() == (first,)


def at_an_uneven_pace(images: list[Image], seed: int) -> list[Image]:
    """Played by a busy machine: 3 ms an image, or up to 120 more, and 80 ms a round, on average."""
    random, now_ns, last, played = Random(seed), EPOCH, 0, []
    for image in images:
        now_ns += round(random.expovariate(1 / 3) * MS) + random.randint(20, 120) * MS * (random.random() < 0.4)
        now_ns += round(random.expovariate(1 / 80) * MS) if image.round > last else 0
        last = image.round
        played.append(image._replace(arrival_ns=now_ns))
    return played


@pytest.mark.parametrize("seconds", [-2.0, 600.0], ids=["back", "forward"])
def test_a_jump_quarantines_no_camera_for_how_its_images_came_before(seconds):
    """Many were off, when a slow moment came between a camera and the others: that says nothing about the new time."""
    images = shifted(streams.stream(NUSCENES, 1.5, seed=1), from_s=1.0, stamps_s=seconds)
    for seed in range(100):
        sync = synchronizer(missing="skip")
        assert rounds(feed(sync, at_an_uneven_pace(images, seed))) == list(range(18)), f"seed {seed}"
        assert "quarantined" not in dict(kinds(sync)), f"seed {seed}"


# --- what only looks like a wrong clock -------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.8, 1.25, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("cameras", [2, 6])
def test_a_bag_at_another_rate_is_no_wrong_clock(rate, cameras):
    rig = Rig(cameras, 12.0, transport=0.0, base=0.001)
    images = [
        i._replace(arrival_ns=EPOCH + round((i.arrival_ns - EPOCH) / rate)) for i in streams.stream(rig, 20.0, seed=1)
    ]
    sync = synchronizer(rig, "skip")
    assert len(feed(sync, images)) == 240 and not sync.take_events() and not +sync.drops


def test_a_pause_of_the_bag_is_no_wrong_clock():
    images = shifted(streams.stream(NUSCENES, 6.0, seed=1), 3.0, arrivals_s=20.0)
    sync = synchronizer(missing="skip")
    assert len(feed(sync, images)) == 72 and not sync.take_events()


def test_everything_fed_at_once_is_no_wrong_clock():
    images = [i._replace(arrival_ns=k * 1000) for k, i in enumerate(streams.stream(NUSCENES, 6.0, seed=1))]
    sync = synchronizer(missing="skip")
    assert len(feed(sync, images)) == 72 and not +sync.drops
    assert not [kind for kind, _ in kinds(sync) if kind != "time_jump"]


@pytest.mark.parametrize("by_camera", [False, True])
@pytest.mark.parametrize("length", [0.3, 1.0, 3.0])
def test_a_stall_of_the_receiver_is_no_wrong_clock(length, by_camera):
    rig = Rig(6, 12.0, burst_by_camera=by_camera)
    sync = synchronizer(rig)
    sets = feed(sync, streams.stream(rig, 8.0, seed=1, stalls=[(2.0, length)]))
    assert not sync.take_events() and sets[-1].missing == ()
    assert by_camera or len(sets) == 96


def test_growing_load_that_delays_all_cameras_alike_is_no_wrong_clock():
    """Half a second more delay each second, for two seconds, and down again."""

    def delay(t: float) -> float:
        return 0.5 * max(0.0, min(t - 2.0, 2.0, 6.0 - t))

    images = [
        i._replace(arrival_ns=i.arrival_ns + round(delay((i.exposure_ns - EPOCH) / SECOND) * SECOND))
        for i in streams.stream(Rig(6, 12.0), 8.0, seed=1)
    ]
    sync = synchronizer(missing="skip")
    assert len(feed(sync, sorted(images, key=lambda i: i.arrival_ns))) == 96 and not sync.take_events()


def test_the_callers_clock_may_be_set_back():
    images = streams.stream(NUSCENES, 6.0, seed=1)
    images = [i._replace(arrival_ns=i.arrival_ns - (HOUR if k > 200 else 0)) for k, i in enumerate(images)]
    sync = synchronizer(missing="skip")
    assert len(feed(sync, images)) == 72 and not sync.take_events() and sync.epoch == 0


def test_arrival_times_may_have_an_origin_of_their_own():
    rig = Rig(3, 12.0)
    for origin in (-EPOCH, 0, 10**19):
        images = [i._replace(arrival_ns=i.arrival_ns + origin) for i in bad_clock(streams.offset(HOUR), rig)]
        sync = synchronizer(rig)
        feed(sync, images)
        assert kinds(sync) == [("quarantined", "cam_1")]


# --- without arrival times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", [streams.offset(-2 * SECOND), streams.offset(2 * SECOND), streams.stuck, streams.zero]
)
def test_without_arrival_times_differences_of_seconds_are_found(claim):
    sync = synchronizer()
    sets = feed(sync, bad_clock(claim), with_arrivals=False)
    assert [(k, c) for k, c in kinds(sync) if k == "quarantined"] == [("quarantined", "cam_1")]
    assert len(sets) >= 55 and sync.epoch == 0 and sets[-1].missing == ("cam_1",)


def test_without_arrival_times_a_gap_of_all_cameras_is_a_jump_that_loses_nothing():
    images = [i for i in streams.stream(NUSCENES, 20.0, seed=1) if not 36 <= i.round < 180]
    sync = synchronizer(missing="skip")
    assert rounds(feed(sync, images, with_arrivals=False)) == [*range(36), *range(180, 240)]
    assert Counter(kinds(sync)) == {("time_jump", None): 1} and sync.epoch == 0


def test_clear_forgets_whose_clock_was_wrong():
    sync = synchronizer()
    feed(sync, bad_clock(streams.offset(HOUR)))
    sync.clear()
    assert sync.quarantined_cameras() == () and sync.pending == 0
    assert len(feed(sync, streams.stream(NUSCENES, 2.0, seed=1))) == 24
