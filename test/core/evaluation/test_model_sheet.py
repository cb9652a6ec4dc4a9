"""The sheet of a model: what it counts in every frame, and the command from data set to tables."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.model_sheet import __main__ as command
from sparse4d_core.evaluation.model_sheet.every_frame import EveryFrame
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


def test_an_id_is_the_same_where_it_stays_with_the_object():
    counts, known = EveryFrame(), {}
    counts.compare(boxes(Detections, (0, 0.9, 1), (9, 0.8, 2)), boxes(Detections, (0.1, 0.9, 1), (9, 0.8, 7)), known)
    assert counts.figures()["bfloat16_same_ids"] == 1  # a new object's number is free
    counts.compare(boxes(Detections, (1, 0.9, 1), (9, 0.8, 2)), boxes(Detections, (1, 0.9, 4), (9, 0.8, 7)), known)
    assert counts.figures()["bfloat16_same_ids"] == 0.75  # it changed
    counts.compare(boxes(Detections, (1, 0.9, 1)), boxes(Detections, (3, 0.9, 1)), known)
    assert counts.figures()["bfloat16_same_ids"] == 0.6  # it is not there
    counts.compare(boxes(Detections, (1, 0.2, 5)), boxes(Detections), known)
    assert counts.compared == 5


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
