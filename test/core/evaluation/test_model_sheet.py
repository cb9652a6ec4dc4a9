"""The sheet of a model: what it counts in every frame, and the command from data set to tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.model_sheet import __main__ as command
from sparse4d_core.evaluation.model_sheet.every_frame import EveryFrame, Together
from sparse4d_core.types import Detections, Tracks

parse = command.robustness.parse_arguments

pytestmark = pytest.mark.usefixtures("one_thread")


def boxes(kind, *rows: tuple[float, float, int]):
    """Pedestrians (x, score, id) of half a metre."""
    columns = np.zeros((len(rows), 10), np.float32)
    columns[:, 3:6] = 0.5
    columns[:, 0], columns[:, 9] = [row[0] for row in rows], [0.1 * row[0] for row in rows]
    labels, ids = np.full(len(rows), 8), np.array([row[2] for row in rows])
    return kind(columns, np.array([row[1] for row in rows], np.float32), labels, ids=ids)


def test_pairs_and_vertical_velocities_are_counted():
    counts = EveryFrame()
    counts.count(boxes(Tracks, (0, 0.9, 1), (0.4, 0.4, 2), (0.5, 0.2, 3)))
    counts.count(boxes(Tracks, (4, 0.9, 1), (8, 0.9, 2)))
    figures = counts.figures()
    assert (figures["sets"], figures["duplicates_per_set"], figures["boxes_per_set"]) == (2, 0.5, 2.0)
    assert figures["vertical_velocity_median"] == pytest.approx(0.05)
    assert figures["bfloat16_same_ids"] is None


def same_ids(*frames: tuple[list, list]) -> tuple[float, int]:
    """Of a scene, float32 and bfloat16 side by side: the share of boxes that keep their id, and how many there are."""
    counts, together = EveryFrame(), Together()
    for full, half in frames:
        counts.compare(boxes(Detections, *full), boxes(Detections, *half), together)
    counts.end_scene(together)
    return counts.figures()["bfloat16_same_ids"], counts.compared


def test_an_id_is_the_same_where_it_stays_with_the_object():
    first = [(0, 0.9, 1), (9, 0.8, 2)], [(0.1, 0.9, 1), (9, 0.8, 7)]
    assert same_ids(first) == (1, 2), "a new object's number is free"
    changed = [(1, 0.9, 1), (9, 0.8, 2)], [(1, 0.9, 4), (9, 0.8, 7)]
    assert same_ids(first, changed) == (0.75, 4)
    gone = [(1, 0.9, 1)], [(3, 0.9, 1)]
    assert same_ids(first, changed, gone) == (0.6, 5)
    unsure = [(1, 0.2, 5)], []
    assert same_ids(first, changed, gone, unsure) == (0.6, 5)


def test_a_model_without_ids_has_no_figures_of_tracks():
    """Those of v1 and v2."""
    counts, together = EveryFrame(), Together()
    found = replace(boxes(Detections, (0, 0.9, 1)), ids=None)
    counts.compare(found, found, together)
    counts.end_scene(together)
    figures = counts.figures()
    assert [figures[name] for name in ("bfloat16_same_ids", "boxes_per_set", "duplicates_per_set")] == [None] * 3


def test_two_objects_are_never_one():
    """What has the wrong number for a moment at first has its own later; a number counts for one object alone."""
    swapped = [(0, 0.9, 1), (9, 0.8, 2)], [(0, 0.9, 2), (9, 0.8, 1)]
    usual = [(0, 0.9, 1), (9, 0.8, 2)], [(0, 0.9, 1), (9, 0.8, 2)]
    assert same_ids(swapped, usual, usual) == (4 / 6, 6)
    merged = [(0, 0.9, 1), (9, 0.8, 2)], [(0, 0.9, 1), (9, 0.8, 1)]
    assert same_ids(merged, merged) == (0.5, 4)


def test_the_command_writes_the_sheet(tmp_path, monkeypatch):
    """One scene of three sets at 4 Hz, both precisions."""
    render_dataset(tmp_path / "w", 1, 100_778, duration=0.8, rate=4, rig=NUSCENES_RIG.resized(352, 198))
    out, asked = tmp_path / "sheet", []
    monkeypatch.setattr(command.robustness, "parse_arguments", lambda words: asked.append(words) or parse(words))
    words = ["--model", "demo", "--dataroot", str(tmp_path / "w"), "--out", str(out), "--no-tracking"]
    assert command.main([*words, "--rows", "rate_2_hz"]) == 0
    figures = json.loads((out / "sheet.json").read_text())
    assert set(figures["rows"]) == {"clean", "rate_2_hz"} and figures["sets"] == 3
    assert 0 < figures["bfloat16_nds"] <= 1 and 0 < figures["bfloat16_same_ids"] <= 1
    text = (out / "sheet.md").read_text()
    assert f"| rate_2_hz | {figures['rows']['rate_2_hz']['nds']:.3f} |" in text
    assert f"| NDS in bfloat16 | {figures['bfloat16_nds']:.3f} |" in text
    assert command.main(words) == 2  # the folder contains a sheet
    assert asked[-1][-4:] == ["--rows", "rate_2_hz", "camera_gone_*", "--no-tracking"]  # the rates that the data has
