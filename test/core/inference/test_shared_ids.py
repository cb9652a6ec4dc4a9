"""One id for an object over several memories: by place, never twice in a frame, the best box first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse4d_core.inference.shared_ids import SharedIds, share_ids
from sparse4d_core.types import Detections


def frame(*rows: tuple[int, float, int], scores=None, speed: float = 0.0) -> Detections:
    """Boxes (id, x in metres, label), best first, that move along x."""
    boxes = np.zeros((len(rows), 10), np.float32)
    boxes[:, 0], boxes[:, 7], boxes[:, 9] = [x for _, x, _ in rows], speed, -5.0
    scores = np.linspace(0.9, 0.5, len(rows)) if scores is None else np.array(scores)
    return Detections(boxes, scores, np.array([label for _, _, label in rows]), ids=np.array([n for n, _, _ in rows]))


def shared_over(frames, since, chains=True, step=0.1, tracked=None) -> list[list[int]]:
    """Ids of each frame; `since` has the number of the frame whose memory it takes up."""
    known, given_ids = SharedIds(), []
    for number, (found, old) in enumerate(zip(frames, since, strict=True)):
        rows = np.ones(len(found.ids), bool) if tracked is None else tracked[number]
        taken = None if old is None else step * old
        ids, known = share_ids(found, rows, known, step * number, taken, np.eye(4), chains)
        given_ids.append(ids.tolist())
    return given_ids


def test_two_memories_name_an_object_and_it_keeps_one_id():
    """The first chain calls the car 1 and the bicycle 2, the second one 7 and 8, in turns."""
    one, other = frame((1, 0.0, 0), (2, 10.0, 7)), frame((8, 10.3, 7), (7, 0.2, 0))
    found = shared_over([frame((0, 50.0, 0)), one, other, one, other, one], [None, 0, 0, 1, 2, 3])
    assert found[1:] == [[1, 2], [2, 1], [1, 2], [2, 1], [1, 2]]


def test_an_object_that_moves_is_found_where_it_went():
    frames = [frame((number, 1.5 * number, 0), speed=15.0) for number in range(8)]
    assert shared_over(frames, [None, 0, 0, 0, 0, 0, 1, 2])[2:] == [[1]] * 6


@pytest.mark.parametrize("x", [0.4, 2.5])
def test_near_is_the_same_and_far_is_another(x):
    found = shared_over([frame((0, 30.0, 0)), frame((1, 0.0, 0)), frame((2, x, 0))], [None, 0, 0])
    assert found[2] == ([1] if x < 2 else [2])


def test_of_two_boxes_of_one_object_the_best_has_its_id():
    """A memory that shows an object twice does not take its id away, nor does the weaker box change it later."""
    single, double = frame((1, 0.0, 8)), frame((5, 0.2, 8), (6, 0.1, 8))
    found = shared_over([frame((9, 30.0, 8)), single, double, single, double], [None, 0, 0, 1, 2])
    assert [ids[0] for ids in found[1:]] == [1, 1, 1, 1] and found[2][1] == found[4][1] != 1


def test_in_a_single_chain_known_ids_stay_and_place_decides_on_new_boxes():
    rows = [[(1, 0.0, 0)], [(1, 0.0, 0), (4, 9.0, 0)], [(1, 0.0, 0), (5, 9.1, 0)], [(5, 9.1, 0), (1, 8.9, 0)]]
    frames = [frame(*boxes) for boxes in rows]
    assert shared_over(frames, [None, 0, 0, 0], chains=False) == [[1], [1, 4], [1, 4], [4, 1]]


def test_boxes_below_the_threshold_have_an_id_only_if_they_were_tracks():
    frames = [frame((1, 0.0, 0))] * 2 + [frame((1, 0.0, 0), (2, 20.0, 0))] * 2
    tracked = [np.array([True])] * 2 + [np.array([True, False]), np.array([False, False])]
    assert shared_over(frames, [None, 0, 0, 0], tracked=tracked) == [[1], [1], [1, -1], [1, -1]]


def test_with_one_memory_its_own_ids_hold():
    """Also of boxes that are no tracks: nothing else gave an id meanwhile."""
    frames = [frame((1, 0.0, 0), (2, 0.3, 0)), frame((2, 0.0, 0), (1, 0.3, 0)), frame((3, 0.0, 0), (2, 9.0, 0))]
    tracked = [np.array([True, False])] * 3
    assert shared_over(frames, [None, 0, 1], tracked=tracked, step=0.5) == [[1, 2], [2, 1], [3, 2]]


rows = st.tuples(st.integers(0, 12), st.floats(0, 12), st.integers(0, 1))
boxes = st.lists(rows, max_size=8, unique_by=lambda row: row[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=8), st.booleans(), st.integers(1, 4))
def test_no_id_twice_in_a_frame_and_none_for_nothing(scene, chains, lag):
    frames = [frame(*rows) for rows in scene]
    since = [None if number == 0 else max(number - lag, 0) for number in range(len(frames))]
    tracked = [np.arange(len(found.ids)) % 3 < 2 for found in frames]
    for found, ids in zip(frames, shared_over(frames, since, chains, tracked=tracked), strict=True):
        given_ids = [number for number in ids if number >= 0]
        assert len(ids) == len(found.ids) and len(set(given_ids)) == len(given_ids)
