"""What leaves the pipeline: no velocity that nobody trained, and where the preset says so no object twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparse4d_core.checkpoint.file import CheckpointFile
from sparse4d_core.config import PRESETS, preset
from sparse4d_core.inference.decode import published
from sparse4d_core.inference.duplicates import duplicate_pairs, on_one_spot, without_duplicates
from sparse4d_core.inference.pipeline import Pipeline, as_trained, grey_frame
from sparse4d_core.types import Detections

CAR, CONE = 0, 9


def found(*rows: tuple[float, float, int, float]) -> Detections:
    """Boxes (x, y, label, score), cars of 4 x 2 m and cones of half a metre."""
    boxes = np.zeros((len(rows), 10), np.float32)
    for box, (x, y, label, _) in zip(boxes, rows, strict=True):
        box[:6] = (x, y, 0, 4, 2, 1.5) if label == CAR else (x, y, 0, 0.5, 0.5, 1)
    boxes[:, 7:] = (1, 2, 3)
    labels, scores = np.array([row[2] for row in rows]), np.array([row[3] for row in rows], np.float32)
    return Detections(boxes, scores, labels, scores.copy(), np.arange(len(rows)))


def test_a_vertical_velocity_that_was_never_learned_is_zero():
    result = found((0, 0, CAR, 0.9), (9, 0, CAR, 0.8))
    assert not preset("v3_r50").vertical_velocity
    shown = published(result, preset("v3_r50"))
    assert (shown.boxes[:, 9] == 0).all() and (shown.boxes[:, 7:9] == (1, 2)).all()
    assert (result.boxes[:, 9] == 3).all()  # the network's own stay as they are
    learned = replace(preset("v3_r50"), vertical_velocity=True)
    assert published(result, learned) is result


def test_the_pipeline_publishes_what_was_learned():
    pipeline = Pipeline.from_preset("demo", allow_untrained=True)
    frame = grey_frame([(352, 128)] * 6, 0)
    configured = pipeline.model.config
    pipeline.model.config = replace(configured, vertical_velocity=True)
    assert (pipeline.step(frame).detections.boxes[:, 9] != 0).any()
    pipeline.model.config = replace(configured, vertical_velocity=False)
    step = pipeline.step(frame)
    assert (step.detections.boxes[:, 9] == 0).all() and (step.tracks.boxes[:, 9] == 0).all()


def test_the_checkpoint_brings_how_it_was_trained(tmp_path):
    config = preset("demo")
    other = replace(config, vertical_velocity=not config.vertical_velocity, min_separation=0.3, temporal=replace(
        config.temporal, rate_invariant=not config.temporal.rate_invariant))  # fmt: skip
    taken = as_trained(CheckpointFile(tmp_path, {}, {}, other, ()), config)
    assert taken.vertical_velocity == other.vertical_velocity
    assert taken.temporal.rate_invariant == other.temporal.rate_invariant
    assert taken.min_separation == config.min_separation  # how it is run is the preset's
    assert as_trained(None, config) == config
    assert as_trained(CheckpointFile(tmp_path, {}, {}, preset("v3_r50"), ()), config) == config


def test_only_models_trained_here_differ_from_the_publication():
    differing = [c.name for c in PRESETS.values() if c.vertical_velocity or (c.temporal and c.temporal.rate_invariant)]
    assert differing == ["demo"]
    assert all(config.min_separation is None for config in PRESETS.values() if config.name != "demo")


def test_two_objects_keep_their_distance():
    boxes = found((0, 0, CAR, 1), (1.9, 0, CAR, 1), (2.1, 0, CAR, 1), (0.3, 0, CONE, 1), (0.9, 0, CONE, 1))
    near = on_one_spot(boxes.boxes, boxes.labels)
    assert np.array_equal(near, near.T)
    assert np.argwhere(np.triu(near)).tolist() == [[0, 1], [1, 2]]  # cars 2 m apart, cones 0.6 m
    assert on_one_spot(boxes.boxes, boxes.labels, 1.3)[3, 4]


def test_pairs_are_counted_among_confident_boxes():
    boxes = found((0, 0, CAR, 0.9), (0.5, 0, CAR, 0.4), (0.6, 0, CAR, 0.2), (0, 0, CONE, 0.9))
    assert duplicate_pairs(boxes, 0.3) == 1
    assert duplicate_pairs(boxes) == 3


@pytest.mark.parametrize("separation", [1.0, 0.5])
def test_of_boxes_on_one_spot_the_best_is_published(separation):
    boxes = found((0, 0, CAR, 0.9), (0, 9, CAR, 0.8), (0.8, 0, CAR, 0.7), (1.7, 0, CAR, 0.6), (0, 0, CONE, 0.5))
    kept = without_duplicates(boxes, separation)
    expected = [0, 1, 4] if separation == 1 else [0, 1, 3, 4]  # only the best one of a spot counts
    assert kept.ids.tolist() == expected and kept.class_scores.tolist() == boxes.scores[expected].tolist()
    assert published(boxes, replace(preset("demo"), min_separation=separation)).ids.tolist() == expected
    assert published(boxes, replace(preset("demo"), min_separation=None)) is boxes
