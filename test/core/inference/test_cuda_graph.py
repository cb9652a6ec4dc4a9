"""The captured step, as far as it shows without a GPU: a stand-in for the graph runs the network again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.config import preset
from sparse4d_core.inference.cuda_graph import StepGraph, tensors_of
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.preprocess import preprocess
from sparse4d_core.types import Frame

CONFIG = preset("demo")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    torch.manual_seed(4)
    return Pipeline(Sparse4D(CONFIG, "clean"))


def replaying(run):
    """Stands in for CUDA's capture: a replay reads and writes the same tensors."""
    result = run()

    def replay() -> None:
        for fixed, value in zip(tensors_of(result), tensors_of(run()), strict=True):
            fixed.copy_(value)

    return replay, result


def captured(pipeline: Pipeline, capture=replaying) -> Pipeline:
    other = Pipeline(pipeline.model)
    other._graph = StepGraph(other._network, capture)
    return other


def two_scenes() -> list[Frame]:
    frames = ring_frames(CONFIG, 6)
    gap = 10**9 * 60
    return [*frames[:3], *(replace(frame, stamp_ns=frame.stamp_ns + gap) for frame in frames[3:])]


def test_the_captured_step_gives_what_the_step_gives(pipeline):
    graph = captured(pipeline)
    state = graph_state = None
    kept = []
    for frame in two_scenes():
        expected, result = pipeline.step(frame, state), graph.step(frame, graph_state)
        state, graph_state = expected.state, result.state
        kept.append((expected, result))
        assert expected.reset == result.reset
    assert any(result.timings_ms.keys() == {"preprocess", "network", "decode"} for _, result in kept)
    for expected, result in kept:  # afterwards: no replay wrote over an earlier result
        for name in ("boxes", "scores", "labels", "ids"):
            np.testing.assert_array_equal(getattr(result.detections, name), getattr(expected.detections, name))
        for ours, theirs in zip(tensors_of(result.state), tensors_of(expected.state), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_capture_that_fails_is_said_once_and_loses_nothing(pipeline, caplog):
    attempts = []

    def failing(run):
        attempts.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    graph = captured(pipeline, failing)
    state = graph_state = None
    for frame in two_scenes():
        expected, result = pipeline.step(frame, state), graph.step(frame, graph_state)
        state, graph_state = expected.state, result.state
        np.testing.assert_array_equal(result.detections.boxes, expected.detections.boxes)
    assert len(attempts) == 1
    assert [r.getMessage() for r in caplog.records if "CUDA graph" in r.getMessage()] == [
        "compile: no CUDA graph of the step, it runs without: operation not permitted when stream is capturing"
    ]


class NoHost(TorchDispatchMode):
    """Refuses what waits for a device: reading a value, or a shape that depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, arguments=(), keywords=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(self.WAITING), f"{name}: the host would wait for the device"
        return func(*arguments, **(keywords or {}))


@pytest.mark.parametrize("scene_reset", ["clean", "reference"])
def test_a_continuing_frame_never_asks_the_host(pipeline, scene_reset):
    model = Sparse4D(CONFIG, scene_reset).eval()
    network = Pipeline(model)._network
    with torch.inference_mode():
        first, second = (preprocess(frame, CONFIG) for frame in ring_frames(CONFIG, 2))
        _, state = model(first)
        with NoHost():
            output, state = network(second, state)
            assert output.instance_ids is not None and state.instances is not None
        with pytest.raises(AssertionError, match="wait for the device"), NoHost():
            bool(output.anchors[-1].sum() > 0)
