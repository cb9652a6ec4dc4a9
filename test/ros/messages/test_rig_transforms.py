"""Only what a rig hangs together by is kept, and the answers about it are those of the whole of TF."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse4d_ros.messages.rig_transforms import JUMP_NS, KEPT_ASIDE, STRANGERS, RigTransforms, TransformSample
from sparse4d_ros.perception.rig import RigFrames
from sparse4d_ros.perception.transforms import InvalidArgument, TransformBuffer, TransformError

STAMP = 1_700_000_000 * 10**9
MS = 10**6
FRAMES = RigFrames(cameras={"front": "cam_front"}, global_frame="odom", base_frame="base_link", model_frame="lidar")
RIG = ("odom", "base_link", "lidar", "cam_front")
OTHERS = ("platform", "mast", "arm", "joint_1", "joint_2")


def sample(parent: str, child: str, ms: int = 0, x: float = 0.0) -> TransformSample:
    return TransformSample(parent, child, STAMP + ms * MS, (x, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def buffer() -> TransformBuffer:
    return TransformBuffer()


@pytest.fixture
def rig(buffer) -> RigTransforms:
    rig = RigTransforms(FRAMES, buffer)
    rig.take([sample("base_link", "lidar"), sample("mast", "cam_front")], static=True)
    return rig


def answer(buffer: TransformBuffer, target: str, source: str, stamp_ns: int):
    """The matrix, or the kind of the error."""
    try:
        return buffer.lookup(target, source, stamp_ns).matrix.tolist()
    except TransformError as error:
        return error.kind


@st.composite
def streams(draw):
    """Messages about a random forest of the rig's and other frames, static and dynamic mixed, in any order."""
    frames = draw(st.permutations(RIG + OTHERS))
    messages = []
    for k, child in enumerate(frames[1:], 1):
        if draw(st.booleans() | st.just(True)):
            parent, static = draw(st.sampled_from(frames[:k])), draw(st.booleans())
            times = [0] if static else draw(st.lists(st.integers(0, 400), min_size=1, max_size=5, unique=True))
            messages += [(sample(parent, child, ms, draw(st.floats(-5, 5))), static) for ms in times]
    return draw(st.permutations(messages))


@settings(max_examples=200, deadline=None)
@given(messages=streams(), ms=st.integers(0, 400))
def test_lookups_among_the_rig_s_frames_are_those_of_the_whole_tf(messages, ms):
    whole, part = TransformBuffer(), TransformBuffer()
    rig = RigTransforms(FRAMES, part)
    for message, static in messages:
        whole.insert(*message, static=static)
        assert not rig.take([message], static)
    for target in RIG:
        for source in RIG:
            assert answer(part, target, source, STAMP + ms * MS) == answer(whole, target, source, STAMP + ms * MS)


def test_strangers_are_not_kept(rig, buffer, monkeypatch):
    inserted = []
    insert = TransformBuffer.insert
    monkeypatch.setattr(
        TransformBuffer,
        "insert",
        lambda self, *words, **options: inserted.append(words) or insert(self, *words, **options),
    )
    for ms in range(200):
        rig.take([sample("arm", f"joint_{j}", ms) for j in range(20)], static=False)
    assert len(inserted) == 20, "one of each, so that the frames have names"
    rig.take([sample("odom", "base_link", 0)], static=False)
    assert len(inserted) == 21


def test_what_waited_aside_is_there_once_the_rig_hangs_below_it(rig, buffer):
    """map -> odom comes long before odom is known to carry anything; so does the mast's own joint."""
    for ms in range(0, 100, 10):
        rig.take([sample("platform", "mast", ms, x=ms)], static=False)
    rig.take([sample("base_link", "platform", ms) for ms in (0, 90)], static=False)
    assert buffer.lookup("base_link", "cam_front", STAMP + 50 * MS).translation[0] == 50
    assert KEPT_ASIDE >= 10


def test_a_stale_stranger_wipes_nothing(rig, buffer):
    rig.take([sample("odom", "base_link", ms, x=ms) for ms in (0, 100)], static=False)
    rig.take([sample("arm", "joint_1", 5000)], static=False)
    assert not rig.take([sample("arm", "joint_1", -9000)], static=False)
    assert buffer.lookup("odom", "base_link", STAMP + 50 * MS).translation[0] == 50


def test_a_jump_of_the_rig_s_own_frames_forgets_what_was_before(rig, buffer):
    rig.take([sample("odom", "base_link", ms) for ms in (10_000, 10_100)], static=False)
    assert not rig.take([sample("odom", "base_link", 10_100 - JUMP_NS // MS)], static=False), "out of order"
    assert rig.take([sample("odom", "base_link", ms) for ms in (0, 100)], static=False)
    assert answer(buffer, "odom", "base_link", STAMP + 10_050 * MS) == "extrapolation_future"
    assert answer(buffer, "odom", "base_link", STAMP + 50 * MS) == np.eye(4).tolist()
    assert answer(buffer, "mast", "cam_front", STAMP) == np.eye(4).tolist(), "static ones stay"


def test_a_bad_transform_does_not_hide_the_good_ones_and_a_stranger_s_costs_nothing(rig, buffer):
    bad = sample("odom", "base_link")._replace(translation=(float("nan"), 0.0, 0.0))
    with pytest.raises(InvalidArgument):
        rig.take([bad, sample("odom", "base_link", 100)], static=False)
    assert answer(buffer, "odom", "base_link", STAMP + 100 * MS) == np.eye(4).tolist()
    assert not rig.take([bad._replace(child="joint_1")], static=False)


def test_names_with_a_leading_slash_are_the_same_frames(rig, buffer):
    rig.take([sample("/odom", "/base_link", 5)], static=False)
    assert answer(buffer, "odom", "base_link", STAMP + 5 * MS) == np.eye(4).tolist()


def test_a_stale_transform_above_the_whole_rig_wipes_nothing(rig, buffer):
    """map -> odom of a localisation that starts anew: nothing of the rig is looked up through it."""
    rig.take([sample("odom", "base_link", ms, x=ms) for ms in (0, 100)], static=False)
    rig.take([sample("base_link", "mast")], static=True)
    rig.take([sample("map", "odom", 5000)], static=False)
    assert not rig.take([sample("map", "odom", -9000)], static=False)
    assert buffer.lookup("odom", "base_link", STAMP + 50 * MS).translation[0] == 50


def test_a_jump_forgets_nothing_of_its_own_message(rig, buffer):
    """The camera's mast turns; the second transform of the message gives the jump away."""
    rig.take([sample("base_link", "mast", 5000), sample("odom", "base_link", 10_000)], static=False)
    assert rig.take([sample("base_link", "mast", 4990), sample("odom", "base_link", 5000)], static=False)
    assert buffer.newest_ns("mast") == STAMP + 4990 * MS


def test_names_that_never_come_twice_do_not_pile_up(rig, buffer):
    for k in range(STRANGERS + 50):
        rig.take([sample("odom", f"object_{k}")], static=False)
    assert len(rig._aside) == STRANGERS
    late = f"object_{STRANGERS + 49}"
    rig.take([sample(late, "mast", ms) for ms in (0, 100)], static=False)
    rig.take([sample("base_link", late, ms, x=1.0) for ms in (0, 100)], static=False)
    assert buffer.lookup("base_link", "cam_front", STAMP + 50 * MS).translation[0] == 1.0
