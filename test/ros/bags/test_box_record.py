"""Records keep every digit, and tell where two runs differ."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparse4d_core.types import Detections, Tracks
from sparse4d_ros.bags.box_record import (
    BoxRecordError,
    BoxRecordWriter,
    SetRecord,
    differences,
    from_line,
    read_box_record,
    to_line,
)
from sparse4d_ros.perception.synced_set import Missing, SetStatus

NUMBERS = st.floats(-1e4, 1e4, allow_nan=False)


@st.composite
def rows(draw, kind=Detections):
    count = draw(st.integers(0, 4))
    ids = draw(st.none() | hnp.arrays(np.int64, count, elements=st.integers(0, 2**50)))
    return kind(
        draw(hnp.arrays(np.float64, (count, 10), elements=NUMBERS)),
        draw(hnp.arrays(np.float64, count, elements=st.floats(0, 1))),
        draw(hnp.arrays(np.int64, count, elements=st.integers(0, 9))),
        ids=ids,
    )


@st.composite
def records(draw):
    stamp_ns = draw(st.integers(0, 2**62))
    missing = {"cam_back": Missing("quarantined", draw(st.integers(-(2**62), 2**62))), "cam_left": Missing("late")}
    status = st.just(SetStatus(stamp_ns, {"cam_front": draw(st.integers(0, 2**40))}, missing))
    return SetRecord(
        stamp_ns, "base_link", draw(rows()), draw(rows(Tracks)), draw(st.integers(0, 2**62)), draw(st.none() | status)
    )


@settings(max_examples=60, deadline=None)
@given(record=records())
def test_line_round_trip(record):
    back = from_line(to_line(record))
    assert differences([record], [back]) == []
    assert (back.received_ns, back.status) == (record.received_ns, record.status)


@settings(max_examples=40, deadline=None)
@given(record=records().filter(lambda r: len(r.tracks.scores)))
def test_the_last_digit_counts(record):
    scores = record.tracks.scores.copy()
    scores[0] = np.nextafter(scores[0], 2)
    changed = replace(record, tracks=replace(record.tracks, scores=scores))
    (found,) = differences([record], [changed])
    assert f"set {record.stamp_ns}: tracks.scores differ by up to" in found


def test_own_classes_are_kept_and_compared_by_name():
    boxes, scores = np.zeros((2, 10)), np.zeros(2)
    one = Detections(boxes, scores, np.array([0, 1]), class_names=("car", "tram"))
    other = replace(one, class_names=("car", "robot"))
    first, second = (SetRecord(1, "base_link", found, found) for found in (one, other))
    assert from_line(to_line(first)).detections.names() == ["car", "tram"]
    assert differences([first], [from_line(to_line(first))]) == []
    assert differences([first], [second])[0] == "set 1: detections differ in their classes"


def test_sets_of_other_images_are_told_and_records_without_a_status_are_read():
    empty = Detections(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64))
    status = SetStatus(1, {"cam_front": 0, "cam_back": 5})
    record = SetRecord(1, "base_link", empty, empty, status=status)
    fewer = replace(record, status=SetStatus(1, {"cam_front": 0}, {"cam_back": Missing("late")}))
    (found,) = differences([record], [fewer])
    assert found == "set 1: of other images, {'cam_front': 0, 'cam_back': 5} and {'cam_front': 0}"
    other_reason = replace(fewer, status=replace(fewer.status, missing={"cam_back": Missing("absent")}))
    assert differences([fewer], [other_reason]) == []
    old = json.loads(to_line(record))
    del old["status"]
    assert from_line(json.dumps(old)).status is None
    assert differences([record], [from_line(json.dumps(old))]) == []


def test_missing_sets_and_rows():
    empty = Detections(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64))
    one = Detections(np.zeros((1, 10)), np.zeros(1), np.zeros(1, np.int64))
    first = [SetRecord(1, "base_link", empty, empty), SetRecord(2, "base_link", empty, empty)]
    second = [SetRecord(2, "base_link", one, empty), SetRecord(3, "base_link", empty, empty)]
    found = differences(first, second)
    assert found[:2] == ["set 1: only in the first", "set 3: only in the second"]
    assert found[2] == "set 2: detections.boxes differ: 0 and 1 rows"


def test_file(tmp_path):
    empty = Detections(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64))
    path = tmp_path / "deep" / "record.jsonl"
    with BoxRecordWriter(path) as file:
        for stamp in (5, 6):
            file.write(SetRecord(stamp, "base_link", empty, empty))
    assert [record.stamp_ns for record in read_box_record(path)] == [5, 6]
    whole = path.read_text()
    path.write_text(whole.replace('"status": null', '"status": {"ages_ns": {}, "missing": ["cam_back"]}'))
    with pytest.raises(BoxRecordError, match="line 1: not a record"):
        list(read_box_record(path))
    path.write_text(whole[:-30])
    with pytest.raises(BoxRecordError, match="line 2: not a record"):
        list(read_box_record(path))
