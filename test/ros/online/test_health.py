"""Verdicts on two snapshots: true, about the time in between, and over when the fault is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparse4d_ros.online.health import (
    CALIBRATION_AFTER,
    CAMERA_SILENT_AFTER,
    FIRST_STEP,
    SILENT_AFTER,
    ComponentHealth,
    Level,
    Moment,
    SetCounts,
    assess,
    recent,
)
from sparse4d_ros.online.statistics import Snapshot
from sparse4d_ros.perception.camera_statistics import CameraStatus
from sparse4d_ros.perception.synchronizer import Synchronizer

CAMERAS = ("front", "back")
NOW = 1000.0
FACTS = {"model": "demo", "weights": "trained"}


HEALTHY = CameraStatus(
    state="healthy", since_ns=0, reason="", offset_ns=-1_500_000, rate_hz=10.0, silent_ns=50_000_000, age_ns=4_000_000,
    received=500, recent_received=100, drops={}, recent_drops={}, missed=0, recent_missed=0,
)  # fmt: skip
NEVER = replace(HEALTHY, since_ns=None, offset_ns=None, rate_hz=0.0, silent_ns=None, age_ns=None, received=0)


def silent(seconds: float) -> CameraStatus:
    return replace(HEALTHY, silent_ns=round(seconds * 1e9))


def moment(counts: dict | None = None, sets: dict | None = None, **changes) -> Moment:
    """A node that has run for 100 s and is well, but for the changes."""
    snapshot = Snapshot(
        moment=NOW,
        processed=500,
        dropped={},
        rejected={},
        resets={},
        rate_hz=10.0,
        last_processed=NOW - 0.1,
        busy_since=None,
        percentiles={"processing": (80.0, 120.0)},
    )
    numbers = SetCounts(received=3000, delivered=3000, pending=0, drops={}, sets={"complete": 500}, missing={})
    known = {"active_since": NOW - 100, "sets": replace(numbers, **sets or {})}
    known["cameras"] = dict.fromkeys(CAMERAS, HEALTHY)
    return Moment(replace(snapshot, **counts or {}), **known | changes)


def verdict(now: Moment, name: str, before: Moment | None = None, facts: dict = FACTS) -> ComponentHealth:
    (found,) = (c for c in assess(now, before or moment(), CAMERAS, facts) if c.name == name)
    return found


def level_and_message(*arguments, **options) -> tuple[Level, str]:
    found = verdict(*arguments, **options)
    return found.level, found.message


def test_a_node_that_is_well():
    found = {c.name: (c.level, c.message) for c in assess(moment(), moment(), CAMERAS, FACTS)}
    assert found == {
        "inference": (Level.OK, "10.0 sets per second"),
        "synchronization": (Level.OK, "all cameras"),
        "camera front": (Level.OK, "10.0 images per second"),
        "camera back": (Level.OK, "10.0 images per second"),
        "transforms": (Level.OK, "all poses found"),
    }


def test_faults_of_the_past_are_counters_and_no_fault_of_today():
    """One pose missed at the start, a hundred images dropped yesterday."""
    old = {"dropped": {"tf_extrapolation_future": 1, "internal_error": 3}, "rejected": {"tf_not_finite": 2}}
    now = before = moment(old, {"drops": {"timeout": 100}})
    assert {c.level for c in assess(now, before, CAMERAS, FACTS)} == {Level.OK}
    assert verdict(now, "inference", before).values["sets_dropped.internal_error"] == 3
    assert verdict(now, "synchronization", before).values["images_dropped.timeout"] == 100
    assert verdict(now, "transforms", before).values["failed.tf_extrapolation_future"] == 1


@pytest.mark.parametrize(
    ("counts", "component", "level", "message"),
    [
        ({"dropped": {"encoding": 4}}, "inference", Level.WARN, "sets dropped lately: encoding 4"),
        ({"dropped": {"internal_error": 2}}, "inference", Level.ERROR, "2 internal errors lately"),
        ({"dropped": {"tf_unknown_frame": 7}}, "transforms", Level.WARN, "7 sets without their poses lately"),
        ({"rejected": {"tf_not_finite": 3}}, "transforms", Level.WARN, "transforms refused lately: tf_not_finite 3"),
    ],
)
def test_faults_of_now_are_told_with_their_cause(counts, component, level, message):
    found = verdict(moment(counts), component)
    assert found.level == level and message in found.message


def test_dead_cameras_are_not_all_cameras():
    one = moment(cameras={"front": HEALTHY, "back": silent(5.0)})
    assert level_and_message(one, "synchronization") == (Level.WARN, "no images from back")
    assert level_and_message(one, "camera back") == (Level.WARN, "no image for 5 s")
    assert verdict(one, "camera front").level == Level.OK
    every = moment(cameras=dict.fromkeys(CAMERAS, silent(5.0)))
    assert level_and_message(every, "synchronization") == (Level.ERROR, "no images from any camera")
    assert verdict(every, "inference").level == Level.WARN
    never = moment(cameras=dict.fromkeys(CAMERAS, NEVER))
    assert level_and_message(never, "synchronization") == (Level.ERROR, "no images from any camera")


def test_the_time_right_after_an_activation_is_no_fault():
    """Whatever the node did before: an hour of pause is no hour without output."""
    fresh = {"active_since": NOW - 0.5 * CAMERA_SILENT_AFTER}
    for counts in ({"last_processed": NOW - 3600}, {"last_processed": None, "processed": 0}):
        now = moment(counts, uncalibrated=CAMERAS, cameras=dict.fromkeys(CAMERAS, NEVER), **fresh)
        assert {c.level for c in assess(now, now, CAMERAS, FACTS)} == {Level.OK}


def test_a_quarantined_camera_is_named_with_the_reason_and_its_figures():
    reason = "stamps 3600.000 s ahead of the other cameras"
    drops = {"quarantined": 40, "clock": 3}
    bad = replace(HEALTHY, state="quarantined", reason=reason, offset_ns=3600 * 10**9, drops=drops, missed=43)
    now = moment(cameras={"front": HEALTHY, "back": replace(bad, recent_drops={"quarantined": 9})})
    assert level_and_message(now, "synchronization") == (Level.WARN, f"back is quarantined: {reason}")
    assert level_and_message(now, "camera back") == (Level.WARN, f"quarantined: {reason}")
    assert verdict(now, "camera back").values == {
        "images": 500,
        "rate_hz": "10.00",
        "age_s": "0.05",
        "quarantined": f"yes: {reason}",
        "sets_without_it": 43,
        "clock_offset_ms": "3600000.0",
        "stamp_to_arrival_ms": "4.0",
        "dropped.clock": 3,
        "dropped.quarantined": 40,
        "dropped_lately.quarantined": 9,
    }
    front = verdict(now, "camera front")
    assert front.level == Level.OK and front.values["quarantined"] == "no"
    assert front.values["clock_offset_ms"] == "-1.5"


def test_a_camera_without_calibration_is_named():
    due = {"active_since": NOW - 1.1 * CALIBRATION_AFTER, "uncalibrated": ("back",)}
    assert level_and_message(moment(**due), "synchronization") == (Level.WARN, "no CameraInfo of back")
    assert level_and_message(moment(**due), "camera back") == (Level.WARN, "no CameraInfo")


def test_images_without_output_are_an_error_with_the_causes():
    silent = {"last_processed": NOW - 1.1 * SILENT_AFTER, "dropped": {"tf_unknown_frame": 30}}
    level, message = level_and_message(moment(silent), "inference")
    assert level == Level.ERROR
    assert message == "no output for 3 s although images arrive; sets dropped lately: tf_unknown_frame 30"


def test_a_slow_model_is_not_in_error_for_being_slow():
    """A set of v1 takes a minute on two cores."""
    slow = {"percentiles": {"processing": (40e3, 60e3)}, "last_processed": NOW - 90, "busy_since": NOW - 50}
    assert verdict(moment(slow), "inference").level == Level.OK
    stuck = slow | {"last_processed": NOW - 400, "busy_since": NOW - 390}
    found = level_and_message(moment(stuck, active_since=NOW - 1000), "inference")
    assert found == (Level.ERROR, "one set has been in the model for 390 s")


def test_the_first_set_may_take_long():
    """Kernels are compiled then."""
    first = {"processed": 0, "last_processed": None, "percentiles": {}, "busy_since": NOW - 0.8 * FIRST_STEP}
    assert verdict(moment(first), "inference").level == Level.OK
    late = moment(first | {"busy_since": NOW - 1.2 * FIRST_STEP}, active_since=NOW - 1.3 * FIRST_STEP)
    assert verdict(late, "inference").level == Level.ERROR


def test_superseded_images_are_no_fault():
    assert verdict(moment(sets={"drops": {"superseded": 600}}), "synchronization").level == Level.OK
    dropped = moment(sets={"drops": {"superseded": 600, "incomplete": 5}})
    assert level_and_message(dropped, "synchronization") == (Level.WARN, "images dropped lately: incomplete 5")


def test_prepared_sets_that_a_newer_one_or_the_end_overtook_are_no_fault():
    usual = {"superseded": 3, "stopped": 1}
    assert verdict(moment({"dropped": usual}), "inference").level == Level.OK
    dropped = moment({"dropped": usual | {"encoding": 2}})
    assert level_and_message(dropped, "inference")[1].endswith("; sets dropped lately: encoding 2")


def test_untrained_weights_are_told():
    level, message = level_and_message(moment(), "inference", facts={"weights": "untrained"})
    assert level == Level.WARN and "UNTRAINED" in message


def test_a_node_that_is_not_active_has_no_synchronization():
    idle = moment(active_since=None)
    idle = replace(idle, sets=None)
    assert [c.name for c in assess(idle, idle, CAMERAS, FACTS)] == ["inference", "transforms"]
    assert level_and_message(idle, "inference", idle) == (Level.OK, "not active")


def test_recent_is_the_difference_most_frequent_first():
    assert recent({"a": 3, "b": 9, "c": 1}, {"a": 1, "c": 1}) == {"b": 9, "a": 2}
    assert list(recent({"a": 3, "b": 9}, {})) == ["b", "a"]


def test_counts_are_a_copy_of_the_synchronizer_s():
    synchronizer = Synchronizer(CAMERAS, slop_ns=0, require_info=False)
    synchronizer.add_image("front", 5, None)
    counts = SetCounts.of(synchronizer)
    synchronizer.add_image("front", 5, None)
    assert (counts.received, counts.pending, counts.drops) == (1, 1, {})
    assert SetCounts.of(synchronizer).drops == {"duplicate_stamp": 1}
