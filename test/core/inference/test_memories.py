"""Several memories: which one a frame takes up, which are kept, and nothing new where frames come a stride apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from exported_steps import SMALL, small_pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.inference.memories import Memories
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.model_io import tensors_of
from sparse4d_core.network.state import TemporalState

STRIDE = 0.5
SEVERAL = ("two", "interleaved")


@pytest.fixture(scope="module")
def model():
    return small_pipeline().model


def drive(count: int, seconds: float):
    """Frames so far apart, the n-th one of them the same whatever the rate."""
    step = round(seconds * 1e9)
    return [replace(frame, stamp_ns=10**18 + step * number) for number, frame in enumerate(ring_frames(SMALL, count))]


def run(pipeline: Pipeline, frames):
    state, results = None, []
    for frame in frames:
        results.append(pipeline.step(frame, state))
        state = results[-1].state
    return results


def taken_up(memories: str, stamps) -> list[float | None]:
    """For each frame the stamp of the memory that it takes up."""
    kept, taken = Memories(), []
    for seconds in stamps:
        taken.append(kept.nearest(seconds - STRIDE).seconds)
        kept = kept.after(TemporalState(seconds=seconds), STRIDE, memories == "interleaved", kept.shared)
    return taken


@pytest.mark.parametrize("stride", [0.0, STRIDE])
def test_one_memory_follows_a_clock_that_went_back_where_nothing_is_forgotten(stride):
    """Scene resets of the reference: it waited for its own stamp, 95 s later, and nothing was a track until then."""
    model = small_pipeline().model
    model.scene_reset = "reference"
    seconds = [100, 100.5, 3, 3.5, 4, 4.5, 5]
    frames = [
        replace(frame, stamp_ns=round(stamp * 1e9))
        for frame, stamp in zip(drive(len(seconds), 1), seconds, strict=True)
    ]
    results = run(Pipeline(model, temporal_stride=stride), frames)
    assert [result.state.seconds for result in results] == pytest.approx(seconds)
    assert all(result.detections.ids.min() >= 0 for result in results)


@pytest.mark.parametrize("rate", [2.0, 3.0, 5.0, 10.0, 12.0, 15.0, 20.0, 30.0])
def test_two_memories_are_as_near_to_a_stride_apart_as_the_rate_allows(rate):
    stamps = [number / rate for number in range(round(6 * rate))]
    kept, found = Memories(), []
    for seconds in stamps:
        kept = kept.after(TemporalState(seconds=seconds), STRIDE, False, kept.shared)
        found.append(kept.states[-1].seconds)
    apart = np.diff(np.unique(found))
    assert np.abs(apart - STRIDE).max() < 0.5 / rate + 1e-9


def test_the_table_of_the_docstring():
    stamps = [number / 10 for number in range(12)]
    assert taken_up("two", stamps) == [None] + [0.0] * 7 + [0.5] * 4
    assert taken_up("interleaved", stamps) == [None] + [0.0] * 5 + [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


gaps = st.lists(st.integers(5, 1500).map(lambda ms: ms / 1000), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(gaps)
def test_what_is_let_go_would_never_have_been_taken_up(between):
    """Of every frame's memory, the nearest to a stride old, at any rhythm; and never more than come in a stride."""
    stamps = np.cumsum([0.0, *between]).tolist()
    for number, found in enumerate(taken_up("interleaved", stamps)[1:], 1):
        assert abs(stamps[number] - STRIDE - found) == min(abs(stamps[number] - STRIDE - s) for s in stamps[:number])
    kept = Memories()
    for seconds in stamps:
        kept = kept.after(TemporalState(seconds=seconds), STRIDE, True, kept.shared)
        assert sum(seconds - state.seconds >= STRIDE for state in kept.states) <= 1


@settings(max_examples=50, deadline=None)
@given(gaps)
def test_two_memories_are_about_a_stride_apart(between):
    kept = Memories()
    for seconds in np.cumsum([0.0, *between]).tolist():
        kept = kept.after(TemporalState(seconds=seconds), STRIDE, False, kept.shared)
        stamps = [state.seconds for state in kept.states]
        assert len(stamps) <= 3 and seconds - stamps[-1] < STRIDE and (np.diff(stamps) > 0.66 * STRIDE).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.34, 1.9), min_size=1, max_size=20), st.sampled_from(SEVERAL))
def test_frames_about_a_stride_apart_take_up_the_frame_before(between, memories):
    """As key frames do, which the published protocol scores: nothing of it changes."""
    stamps = np.cumsum([0.0, *between]).tolist()
    assert taken_up(memories, stamps) == [None, *stamps[:-1]]


@pytest.mark.parametrize("memories", SEVERAL)
def test_key_frames_give_the_same_in_every_digit(model, memories):
    frames = drive(5, STRIDE)
    plain, several = Pipeline(model), Pipeline(model, temporal_stride=STRIDE, memories=memories)
    for expected, found in zip(run(plain, frames), run(several, frames), strict=True):
        for name in ("boxes", "scores", "labels", "ids"):
            np.testing.assert_array_equal(getattr(found.detections, name), getattr(expected.detections, name))
            np.testing.assert_array_equal(getattr(found.tracks, name), getattr(expected.tracks, name))


@pytest.mark.parametrize("memories", SEVERAL)
def test_frames_in_between_see_the_memory_that_is_a_stride_old(model, memories):
    """The boxes are those of the network on that memory; no id is given twice in a frame."""
    frames, pipeline, plain = drive(9, 0.1), Pipeline(model, temporal_stride=STRIDE, memories=memories), Pipeline(model)
    results = run(pipeline, frames)
    taken = taken_up(memories, [0.1 * number for number in range(9)])
    for number in (6, 8):
        old = results[round(10 * taken[number])].state.states[-1]
        expected = plain.step(frames[number], old)
        np.testing.assert_array_equal(results[number].detections.boxes, expected.detections.boxes)
    for result in results:
        ids = result.detections.ids[result.detections.ids >= 0]
        assert len(np.unique(ids)) == len(ids) and set(result.tracks.ids) <= set(ids)


def test_memories_are_a_value(model):
    frames, pipeline = drive(8, 0.1), Pipeline(model, temporal_stride=STRIDE, memories="interleaved")
    state = run(pipeline, frames[:7])[-1].state
    once, again = pipeline.step(frames[7], state), pipeline.step(frames[7], state)
    np.testing.assert_array_equal(once.detections.boxes, again.detections.boxes)
    np.testing.assert_array_equal(once.detections.ids, again.detections.ids)
    assert {tensor.device.type for tensor in tensors_of(state.to("meta"))} == {"meta"}


@pytest.mark.parametrize("memories", SEVERAL)
def test_a_gap_forgets_all_of_them_and_no_id_comes_again(model, memories):
    frames, pipeline = drive(4, 0.1), Pipeline(model, temporal_stride=STRIDE, memories=memories)
    before = run(pipeline, frames[:3])
    late = replace(frames[3], stamp_ns=frames[3].stamp_ns + 3 * 10**9)
    result = pipeline.step(late, before[-1].state)
    assert result.reset.startswith("time gap of 3.") and len(result.state.states) == 1
    np.testing.assert_array_equal(result.detections.boxes, pipeline.step(late).detections.boxes)
    given_before = {number for one in before for number in one.detections.ids.tolist()}
    assert not given_before & (set(result.detections.ids.tolist()) - {-1})


def test_a_wrong_word_is_named(model):
    with pytest.raises(ValueError, match="memories: expected one of one, two, interleaved, got 'three'"):
        Pipeline(model, memories="three")
