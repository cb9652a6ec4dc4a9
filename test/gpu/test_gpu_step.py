"""Frames on the device: as on the CPU, and captured as one graph as without."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.inference.device.cuda_graph import StepGraph, cuda_capture
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.model_io import map_tensors, tensors_of

pytestmark = pytest.mark.gpu

SECOND = 10**9


def run_again(run, device):
    """Stands in for the capture where there is none: a replay calls the function again."""
    result = map_tensors(run(), torch.Tensor.clone)

    def replay() -> None:
        for fixed, value in zip(tensors_of(result), tensors_of(run()), strict=True):
            fixed.copy_(value)

    return replay, result


def drive(count: int):
    """Frames of two scenes, a minute between them."""
    frames = ring_frames(Pipeline.from_preset("demo").config, count)
    half = count // 2
    return [*frames[:half], *(replace(frame, stamp_ns=frame.stamp_ns + 60 * SECOND) for frame in frames[half:])]


def results(pipeline: Pipeline, frames) -> list:
    state, found = None, []
    for frame in frames:
        found.append(pipeline.step(frame, state))
        state = found[-1].state
    return found


def test_captured_step_equals_eager_over_a_sequence(device):
    frames = drive(12 if device.startswith("cuda") else 4)
    eager, captured = (Pipeline.from_preset("demo", device=device) for _ in range(2))
    capture = cuda_capture if device.startswith("cuda") else run_again
    captured._graph = StepGraph(captured._network, captured._settled, capture)
    for expected, actual in zip(results(eager, frames), results(captured, frames), strict=True):
        np.testing.assert_allclose(actual.detections.scores, expected.detections.scores, atol=1e-4)
        confident = expected.detections.scores > 0.3
        for name in ("labels", "ids"):
            ours, theirs = (getattr(result.detections, name)[confident] for result in (actual, expected))
            np.testing.assert_array_equal(ours, theirs)
    assert captured._graph._signature is not None, "nothing was captured; the log says why"


def test_step_equals_the_cpu(device):
    frames = drive(4 if device.startswith("cuda") else 2)
    on_cpu, on_device = (results(Pipeline.from_preset("demo", device=name), frames) for name in ("cpu", device))
    for expected, actual in zip(on_cpu, on_device, strict=True):
        np.testing.assert_allclose(actual.detections.scores, expected.detections.scores, atol=2e-3)
        assert set(actual.timings_ms) == set(expected.timings_ms) and min(actual.timings_ms.values()) >= 0


@pytest.mark.parametrize("captured", [False, True])
def test_frames_prepared_by_another_thread_give_the_same_results(device, captured):
    """As in the node: a frame goes up while the network has the one before."""
    frames = drive(12 if device.startswith("cuda") else 4)
    pipeline = Pipeline.from_preset("demo", device=device)
    if captured:
        capture = cuda_capture if device.startswith("cuda") else run_again
        pipeline._graph = StepGraph(pipeline._network, pipeline._settled, capture)
    state = None
    with ThreadPoolExecutor(1) as other:
        prepared = [other.submit(pipeline.prepare, frame) for frame in frames]
        for expected, future in zip(results(pipeline, frames), prepared, strict=True):
            actual = pipeline.run(future.result(), state)
            state = actual.state
            np.testing.assert_allclose(actual.detections.scores, expected.detections.scores, atol=1e-4)
            confident = expected.detections.scores > 0.3
            np.testing.assert_array_equal(actual.detections.ids[confident], expected.detections.ids[confident])


def test_step_compiles_and_captures_in_the_warm_up(gpu):
    pipeline = Pipeline.from_preset("demo", device=gpu, precision="float16", compile=True)
    width_height = pipeline.config.image.original_wh
    pipeline.warm_up([width_height] * 6)
    graph = pipeline._graph._signature
    assert graph is not None, "nothing was captured; the log says why"
    found = results(pipeline, drive(4))
    assert pipeline._graph._signature == graph and np.isfinite(found[-1].detections.boxes).all()
