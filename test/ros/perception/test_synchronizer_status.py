"""What is to be known about sets and cameras: who is missing and why, ages, rates, offsets, drops, events."""

from __future__ import annotations

import camera_streams as streams
import pytest
from camera_streams import EPOCH, MS, SECOND, Fault, Image, Rig

from sparse4d_ros.perception.camera_clock import ClockLimits
from sparse4d_ros.perception.synced_set import Missing
from sparse4d_ros.perception.synchronizer import SyncedSet, Synchronizer

RIG = Rig(6, 10.0, jitter=0.0, base=0.0, transport=0.0, spikes=0.0)  # all images 2 ms after their exposure


def synchronizer(missing: str = "mask", **arguments) -> Synchronizer:
    return Synchronizer(RIG.names, RIG.slop_ns, missing=missing, require_info=False, **arguments)


def feed(sync: Synchronizer, images: list[Image]) -> list[SyncedSet]:
    sets = []
    for image in images:
        sync.add_image(image.camera, image.stamp_ns, image, image.arrival_ns)
        if (taken := sync.take_next()) is not None:
            sets.append(taken)
    return sets


def faulty(claim, start: float = 1.0, end: float = 99.0, seconds: float = 3.0, camera: str = "cam_2") -> list[Image]:
    return streams.stream(RIG, seconds, seed=0, fault=Fault(camera, start, end, claim))


def test_a_set_has_the_ages_of_its_images():
    (taken,) = feed(synchronizer(), streams.stream(RIG, 0.1, seed=0))
    assert taken.ages_ns == {f"cam_{k}": (5 - k) * 7 * MS for k in range(6)}
    assert taken.spread_ns == 35 * MS and taken.missing == () and taken.why_missing == {}


def test_a_camera_without_an_image_is_absent():
    sets = feed(synchronizer(), faulty(streams.dead))
    assert sets[-1].missing == ("cam_2",) and sets[-1].why_missing == {"cam_2": Missing("absent")}
    assert str(sets[-1].why_missing["cam_2"]) == "absent"


def test_a_camera_whose_images_come_after_their_sets_is_late():
    images = [
        i._replace(arrival_ns=i.arrival_ns + 600 * MS) if i.camera == "cam_2" else i
        for i in streams.stream(RIG, 2.0, seed=0)
    ]
    sync = synchronizer(limits=ClockLimits(offset_ns=SECOND))
    sets = feed(sync, sorted(images, key=lambda i: i.arrival_ns))
    assert sync.drops["late"] >= 10
    assert [taken.why_missing for taken in sets[10:]] == [{"cam_2": Missing("late")}] * len(sets[10:])


def test_a_camera_in_doubt_and_then_in_quarantine_has_its_offset_in_the_set():
    sets = feed(synchronizer(), faulty(streams.offset(-3600 * SECOND)))
    reasons = [taken.why_missing["cam_2"] for taken in sets if taken.missing]
    assert {reason.reason for reason in reasons} == {"clock", "quarantined"}
    assert [r.reason for r in reasons] == sorted(r.reason for r in reasons), "first in doubt, then quarantined"
    assert all(reason.offset_ns == pytest.approx(-3600 * SECOND, abs=MS) for reason in reasons)
    assert str(reasons[-1]) == "quarantined, clock -3600.000 s"


def test_a_quarantined_camera_that_falls_silent_is_absent():
    images = [i for i in faulty(streams.offset(3600 * SECOND), seconds=4.0) if i.camera != "cam_2" or i.round < 20]
    sync = synchronizer()
    sets = feed(sync, images)
    assert sets[-1].why_missing["cam_2"] == Missing("absent")
    status = sync.camera_status()["cam_2"]
    assert (status.state, status.reason) == ("silent", "no images") and status.since_ns == EPOCH + 1916 * MS


def test_status_of_healthy_cameras():
    sync = synchronizer()
    feed(sync, streams.stream(RIG, 30.0, seed=0))
    for camera, status in sync.camera_status().items():
        assert status.state == "healthy" and status.reason == "", camera
        assert status.since_ns == EPOCH + (2 + 7 * int(camera[-1])) * MS
        assert status.rate_hz == pytest.approx(10.0, abs=0.1)
        assert status.age_ns == 2 * MS and status.offset_ns == 0
        assert status.received == 300 and status.recent_received == pytest.approx(100, abs=1)
        assert not status.drops and not status.missed


def test_status_of_a_quarantined_camera_recovers_and_its_lifetime_counts_stay():
    sync = synchronizer()
    images = faulty(streams.offset(200 * MS), start=2.0, end=4.0, seconds=20.0)
    feed(sync, [i for i in images if i.round < 35])
    status = sync.camera_status()["cam_2"]
    assert status.state == "quarantined" and status.reason == "stamps 0.200 s ahead of the other cameras"
    assert status.since_ns == EPOCH + 2416 * MS and status.offset_ns == 200 * MS and status.age_ns == 2 * MS
    assert status.drops["quarantined"] == status.recent_drops["quarantined"] == 11 + 2, "two of them were waiting"
    assert status.missed == status.recent_missed > 5
    feed(sync, [i for i in images if i.round >= 35])
    status = sync.camera_status()["cam_2"]
    assert status.state == "healthy" and EPOCH + 4.9 * SECOND <= status.since_ns <= EPOCH + 5.1 * SECOND
    assert status.drops["quarantined"] > 20 and status.recent_drops == {} and status.recent_missed == 0
    assert sync.camera_status()["cam_3"].drops == {}, "the others had no part in it"


def test_ages_are_unknown_without_arrival_times():
    sync = synchronizer()
    for image in streams.stream(RIG, 1.0, seed=0):
        sync.add_image(image.camera, image.stamp_ns, image)
    assert sync.camera_status()["cam_0"].age_ns is None and sync.camera_status()["cam_0"].rate_hz > 9


def test_an_age_by_a_better_clock_counts_and_a_zero_stamp_has_none():
    sync = synchronizer()
    for k in range(5):
        sync.add_image("cam_0", EPOCH + k * SECOND, None, k * SECOND, age_ns=30 * MS)
        sync.add_image("cam_1", 0, None, k * SECOND)
    status = sync.camera_status(4 * SECOND + 250 * MS)
    assert status["cam_0"].age_ns == 30 * MS and status["cam_0"].silent_ns == 250 * MS
    assert status["cam_1"].age_ns is None and status["cam_1"].drops["no_stamp"] >= 3


def test_status_before_the_first_image():
    status = synchronizer().camera_status()["cam_0"]
    assert status.received == 0 and status.offset_ns is None and status.rate_hz == 0
    assert status.since_ns is None and status.silent_ns is None


def test_a_silent_camera_is_named_within_a_second_and_when_it_is_back():
    sync = synchronizer("skip")
    feed(sync, faulty(streams.dead, start=1.0, end=2.5))
    silent, again = sync.take_events()
    assert (silent.kind, silent.camera) == ("silent", "cam_2") and silent.arrival_ns < EPOCH + 1.7 * SECOND
    assert silent.text == "camera cam_2: no images for 0.7 s"
    assert (again.kind, again.camera) == ("heard_again", "cam_2")
    assert sync.take_events() == []


def test_a_camera_that_never_came_is_named_within_a_second():
    sync = synchronizer("skip")
    feed(sync, faulty(streams.dead, start=0.0, seconds=1.0))
    (event,) = sync.take_events()
    assert event.text == "camera cam_2: no images yet" and event.arrival_ns < EPOCH + 0.8 * SECOND
    assert sync.camera_status()["cam_2"].reason == "no image yet"


def test_a_slow_camera_is_not_silent_between_its_images():
    rig = Rig(3, 1.25, spikes=0.0)
    sync = Synchronizer(rig.names, rig.slop_ns, 2 * rig.period_ns, require_info=False)
    assert len(feed(sync, streams.stream(rig, 20.0, seed=0))) == 25
    late = [event for event in sync.take_events() if event.arrival_ns > EPOCH + 3 * SECOND]
    assert late == []


def test_poll_notices_that_no_camera_sends():
    sync = synchronizer()
    sync.poll(EPOCH)
    sync.poll(EPOCH + 1 * SECOND)
    assert sync.take_events() == []
    sync.poll(EPOCH + 3 * SECOND)
    assert [event.text for event in sync.take_events()] == [f"camera {camera}: no images yet" for camera in RIG.names]
    feed(sync, [i._replace(arrival_ns=i.arrival_ns + 3 * SECOND) for i in streams.stream(RIG, 1.0, seed=0)])
    assert {event.kind for event in sync.take_events()} == {"heard_again"}
    sync.poll(EPOCH + 5 * SECOND)
    sync.poll(EPOCH + 7 * SECOND)
    assert [event.kind for event in sync.take_events()] == ["silent"] * 6
    status = sync.camera_status(EPOCH + 7 * SECOND)["cam_0"]
    assert status.state == "silent" and status.rate_hz < 3


@pytest.mark.parametrize(("missing", "goes_out"), [("mask", True), ("skip", False)])
def test_what_waits_for_a_lost_image_when_all_cameras_stop_goes_out_while_it_is_news(missing, goes_out):
    """Not with the next image, which may come after minutes; the owner of `skip` sets wants whole ones."""
    sync = Synchronizer(RIG.names, RIG.slop_ns, missing=missing, require_info=False)
    images = streams.stream(RIG, 1.0, seed=0)
    last = max(images, key=lambda image: image.stamp_ns)
    assert len(feed(sync, [image for image in images if image != last])) == RIG.rate - 1
    arrived = sync._watch.now_ns
    sync.poll(arrived + SECOND)
    assert sync.take_next() is None
    sync.poll(arrived + SECOND + 1)
    taken = sync.take_next()
    assert (taken is not None) == goes_out
    assert taken is None or taken.missing == (last.camera,)
    assert sync.received == sync.delivered + sum(sync.drops.values()) + sync.pending


def test_events_that_nobody_takes_do_not_pile_up():
    sync = synchronizer()
    for k in range(2000):
        sync.poll(EPOCH + 10 * k * SECOND)
        sync.add_image("cam_0", EPOCH + 10 * k * SECOND, None, EPOCH + 10 * k * SECOND)
    assert len(sync.take_events()) == 1000
