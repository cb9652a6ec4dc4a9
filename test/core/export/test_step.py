"""The step that is exported, in PyTorch: equal to the pipeline's, first frame, scene break and interval included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from exported_steps import SMALL, InPyTorch

from sparse4d_core.config import PRESETS
from sparse4d_core.export import interface
from sparse4d_core.export.drive import MOMENTS, drive
from sparse4d_core.export.formats import example_arguments
from sparse4d_core.export.step import RecurrentStep
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState
from sparse4d_core.preprocess import preprocess


@pytest.fixture(scope="module")
def frames():
    return drive(SMALL)


def test_the_drive_has_a_first_frame_a_scene_break_and_another_interval(frames):
    seconds = np.diff([frame.stamp_ns for frame in frames]) / 1e9
    assert len(frames) == len(MOMENTS) == 8
    assert (seconds > SMALL.temporal.max_interval).sum() == 1 and len(set(seconds.round(3))) > 3
    moved = [frame.T_global_from_model[:2, 3] for frame in frames]
    assert all(np.linalg.norm(b - a) > 0.01 for a, b in zip(moved, moved[1:], strict=False))


@pytest.mark.parametrize("options", [{}, {"operator": "native"}, {"images": "uint8"}, {"overlap": 2}], ids=str)
def test_eight_recurrent_frames_equal_the_pipeline(pipeline, frames, options):
    """On its own memory, which the graph itself forgets at the scene break; the pipeline's is forgotten by the host."""
    step, state, own = InPyTorch(pipeline, **options), None, TemporalState()
    for number, frame in enumerate(frames):
        expected = pipeline.step(frame, state)
        found, own = step.step(preprocess(frame, SMALL), own)
        state = expected.state
        assert (expected.reset is not None) == (number == 5)
        np.testing.assert_allclose(found.boxes, expected.detections.boxes, atol=2e-4)
        np.testing.assert_allclose(found.scores, expected.detections.scores, atol=1e-5)
        for name in ("labels", "ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected.detections, name), name)
        torch.testing.assert_close(own.instances.feature, state.instances.feature, rtol=0, atol=1e-4)
        assert own.next_id == state.next_id
    assert step.views_left_out == 0


def test_the_interval_matters(pipeline, frames):
    step = InPyTorch(pipeline)
    _, state = step.step(preprocess(frames[0], SMALL), TemporalState())
    slow, _ = step.step(preprocess(frames[1], SMALL), state)
    fast, _ = step.step(preprocess(replace(frames[1], stamp_ns=frames[0].stamp_ns + 10**8), SMALL), state)
    assert np.abs(slow.boxes[:, 7:9] - fast.boxes[:, 7:9]).max() > 1e-2


def test_its_tensors_are_those_of_the_interface(pipeline):
    specs = interface.inputs(SMALL, 6, "normalized")
    arguments = example_arguments(specs, 6)
    with torch.no_grad():
        results = RecurrentStep(pipeline.model).eval()(*arguments)
    for spec, tensor in zip(interface.outputs(SMALL), results, strict=True):
        assert (tuple(tensor.shape), str(tensor.dtype)) == (spec.shape, f"torch.{spec.dtype}"), spec.name
    assert {spec.dtype for spec in specs} == {"float32", "int64"}


def test_v1_is_refused_with_the_reason():
    with torch.device("meta"):
        model = Sparse4D(PRESETS["v1_r101_t1"])
    with pytest.raises(ValueError, match="v1_r101_t1 keeps whole feature maps.*take a v2 or v3 preset"):
        RecurrentStep(model)
