"""The transform buffer against the recorded answers of tf2, and against what must hold for any data."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from golden_data import Golden, golden_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse4d_ros.perception.transforms import (
    Disconnected,
    ExtrapolationFailed,
    InvalidArgument,
    LookupFailed,
    StampedTransform,
    TransformBuffer,
    quaternion_matrix,
    quaternion_slerp,
)

SECOND = 10**9
START = 1_700_000_000 * SECOND
IDENTITY = (0.0, 0.0, 0.0, 1.0)
GROUPS = (
    "exact_stamp", "between_stamps", "between_yaw_wrap", "between_sign_flip", "between_large_gap", "between_1ns",
    "earliest_edge", "latest_edge", "latest_common", "static", "same_frame", "full",
    "fail_extrapolation_past", "fail_extrapolation_future", "fail_extrapolation_no_overlap",
    "fail_connectivity", "fail_lookup", "fail_invalid_argument", "fail_full",
)  # fmt: skip
ANY_EDGE_REPORTED = ("fail_extrapolation_no_overlap", "fail_full")  # several edges fail: tf2 names one of them


def recorded_buffer(data: Golden) -> TransformBuffer:
    buffer = TransformBuffer(cache_seconds=60.0)
    columns = ("parent", "child", "stamp_ns", "translation", "rotation_xyzw", "is_static")
    for parent, child, stamp, translation, rotation, static in zip(
        *(data[f"tf_{name}"] for name in columns), strict=True
    ):
        assert buffer.insert(str(parent), str(child), int(stamp), translation, rotation, bool(static))
    return buffer


def ask(buffer: TransformBuffer, data: Golden, i: int) -> StampedTransform:
    target, source, fixed = (str(data[f"query_{name}_frame"][i]) for name in ("target", "source", "fixed"))
    target_time, source_time = int(data["query_target_time_ns"][i]), int(data["query_source_time_ns"][i])
    if data["query_is_full"][i]:
        return buffer.lookup_full(target, target_time, source, source_time, fixed)
    return buffer.lookup(target, source, target_time)


@pytest.mark.parametrize(("file", "group"), golden_parameters("tf_lookup", GROUPS))
def test_golden(golden, file, group):
    data = Golden(golden, file)
    buffer = recorded_buffer(data)
    queries = [i for i, name in enumerate(data["query_group"]) if str(name) == group]
    assert queries
    answers = []
    for i in queries:
        if data["result_ok"][i]:
            answers.append(ask(buffer, data, i))
            continue
        with pytest.raises(Exception) as raised:
            ask(buffer, data, i)
        assert raised.value.tf2_name == str(data["result_exception"][i])
        if group not in ANY_EDGE_REPORTED:
            assert raised.value.kind == str(data["result_error"][i])
    if answers:
        rotations = np.array([answer.rotation_xyzw for answer in answers])
        cosines = np.abs((rotations * data["result_rotation_xyzw"][queries]).sum(1))
        translations = np.array([answer.translation for answer in answers])
        data.check(f"{group}: translation", translations, 1e-9, expected=data["result_translation"][queries])
        data.check(f"{group}: rotation", 1 - cosines, 1e-12, expected=np.zeros(len(queries)))
        data.check(
            f"{group}: stamp", np.array([a.stamp_ns for a in answers]), 0, expected=data["result_stamp_ns"][queries]
        )


def test_golden_groups_are_all_tested(golden):
    assert {str(group) for group in Golden(golden, "tf_lookup")["query_group"]} <= set(GROUPS)


finite = st.floats(-100, 100)
unit_quaternions = (
    st.tuples(*[st.floats(-1, 1)] * 4)
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: np.array(q) / np.linalg.norm(q))
)
poses = st.tuples(st.tuples(finite, finite, finite), unit_quaternions)


@settings(max_examples=50, deadline=None)
@given(a=poses, b=poses, c=poses, at=st.integers(0, SECOND))
def test_there_and_back_is_the_identity(a, b, c, at):
    buffer = TransformBuffer()
    buffer.insert("map", "car", START, *a)
    buffer.insert("map", "car", START + SECOND, *b)
    buffer.insert("car", "cam", 0, *c, static=True)
    forth = buffer.lookup("map", "cam", START + at).matrix
    back = buffer.lookup("cam", "map", START + at).matrix
    np.testing.assert_allclose(forth @ back, np.eye(4), atol=1e-9)
    through = buffer.lookup("map", "car", START + at).matrix @ buffer.lookup("car", "cam", 0).matrix
    np.testing.assert_allclose(forth, through, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(a=unit_quaternions, b=unit_quaternions, fraction=st.floats(0, 1))
def test_slerp_turns_by_the_fraction_of_the_shorter_arc(a, b, fraction):
    def angle(p, q):
        return 2 * np.arccos(min(1.0, abs(float(np.dot(p, q)))))

    between = quaternion_slerp(a, b, fraction)
    assert angle(a, between) == pytest.approx(fraction * angle(a, b), abs=1e-6)
    assert angle(between, b) == pytest.approx((1 - fraction) * angle(a, b), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(8)))
def test_order_of_insertion_does_not_matter(order):
    buffer = TransformBuffer()
    for k in order:
        buffer.insert("map", "car", START + k * SECOND, (float(k), 0, 0), IDENTITY)
    assert buffer.lookup("map", "car", START + 7 * SECOND // 2).translation[0] == pytest.approx(3.5, abs=1e-12)


def test_quaternion_matrix_turns_x_to_y_for_a_quarter_turn_about_z():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(quaternion_matrix((0, 0, half, half))[:3, 0], (0, 1, 0), atol=1e-15)


def test_cache_forgets_old_samples_and_refuses_older_ones():
    buffer = TransformBuffer(cache_seconds=2.0)
    for second in range(5):
        assert buffer.insert("map", "car", START + second * SECOND, (second, 0, 0), IDENTITY)
    assert not buffer.insert("map", "car", START, (0, 0, 0), IDENTITY)
    with pytest.raises(ExtrapolationFailed, match="before its data"):
        buffer.lookup("map", "car", START + SECOND)
    assert buffer.lookup("map", "car", START + 2 * SECOND).translation[0] == 2


def test_a_repeated_stamp_keeps_the_first_sample():
    buffer = TransformBuffer()
    assert buffer.insert("map", "car", START, (1, 0, 0), IDENTITY)
    assert not buffer.insert("map", "car", START, (2, 0, 0), IDENTITY)
    assert buffer.lookup("map", "car", START).translation[0] == 1


def test_clear_keeps_static_transforms_only():
    buffer = TransformBuffer()
    buffer.insert("map", "car", START, (1, 0, 0), IDENTITY)
    buffer.insert("car", "cam", 0, (1, 0, 0), IDENTITY, static=True)
    buffer.clear()
    assert buffer.newest_ns("car") is None
    assert buffer.lookup("car", "cam", START).translation[0] == 1
    with pytest.raises(Disconnected):
        buffer.lookup("map", "cam", START)


@pytest.mark.parametrize(
    ("parent", "child", "translation", "rotation", "kind"),
    [
        ("map", "map", (0, 0, 0), IDENTITY, "invalid_frames"),
        ("", "car", (0, 0, 0), IDENTITY, "invalid_frames"),
        ("map", "car", (np.nan, 0, 0), IDENTITY, "not_finite"),
        ("map", "car", (0, 0, 0), (0, 0, 0, np.inf), "not_finite"),
        ("map", "car", (0, 0, 0), (0, 0, 0, 0), "not_normalised"),
        ("map", "car", (0, 0, 0), (0, 0, 0, 1.1), "not_normalised"),
    ],
)
def test_a_transform_that_can_not_be_right_is_refused(parent, child, translation, rotation, kind):
    with pytest.raises(InvalidArgument) as raised:
        TransformBuffer().insert(parent, child, START, translation, rotation)
    assert raised.value.kind == kind


def test_a_loop_of_frames_is_an_error():
    buffer = TransformBuffer()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a")):
        buffer.insert(parent, child, START, (0, 0, 0), IDENTITY)
    buffer.insert("x", "y", START, (0, 0, 0), IDENTITY)
    with pytest.raises(LookupFailed, match="loop"):
        buffer.lookup("a", "y", START)


def test_errors_name_the_frames_and_what_is_known():
    buffer = TransformBuffer()
    buffer.insert("map", "car", START, (0, 0, 0), IDENTITY)
    with pytest.raises(LookupFailed, match="unknown frame 'cat'; known frames: car, map"):
        buffer.lookup("map", "cat", START)
    with pytest.raises(InvalidArgument, match="use 'map'"):
        buffer.lookup("/map", "car", START)


def test_waiting_ends_when_the_transform_arrives_and_not_before():
    buffer = TransformBuffer()
    revision = buffer.revision
    assert not buffer.wait_for_change(revision, 0.01)
    timer = threading.Timer(0.05, buffer.insert, ("map", "car", START, (0, 0, 0), IDENTITY))
    timer.start()
    assert buffer.wait_for_change(revision, 5.0)
    assert buffer.lookup("map", "car", START).stamp_ns == START
    timer.join()
