"""The captured step, as far as it shows without a GPU: a stand-in for the graph runs the network again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.config import preset
from sparse4d_core.inference.cuda_graph import StepGraph
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState
from sparse4d_core.preprocess import preprocess
from sparse4d_core.types import Frame, tensors_of

CONFIG = preset("demo")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    torch.manual_seed(4)
    return Pipeline(Sparse4D(CONFIG, "clean"))


class Capture:
    """Stands in for CUDA's capture: a replay reads and writes the same tensors."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, run):
        self.captures += 1
        result = run()

        def replay() -> None:
            self.replays += 1
            for fixed, value in zip(tensors_of(result), tensors_of(run()), strict=True):
                fixed.copy_(value)

        return replay, result


def captured(pipeline: Pipeline, capture) -> Pipeline:
    other = Pipeline(pipeline.model)
    other._graph = StepGraph(other._network, capture)
    return other


def two_scenes() -> list[Frame]:
    """Six frames with six cameras, a gap of time in the middle; then two with four cameras."""
    frames = ring_frames(CONFIG, 6)
    gap = 10**9 * 60
    fewer = [replace(frame, stamp_ns=frame.stamp_ns + gap + 3 * 10**9) for frame in ring_frames(CONFIG, 2, cameras=4)]
    return [*frames[:3], *(replace(frame, stamp_ns=frame.stamp_ns + gap) for frame in frames[3:]), *fewer]


def test_the_captured_step_gives_what_the_step_gives(pipeline):
    capture = Capture()
    graph = captured(pipeline, capture)
    state = graph_state = None
    kept = []
    for frame in two_scenes():
        expected, result = pipeline.step(frame, state), graph.step(frame, graph_state)
        state, graph_state = expected.state, result.state
        kept.append((expected, result))
        assert expected.reset == result.reset
        assert result.timings_ms.keys() == {"preprocess", "network", "decode"}
    assert capture.captures == 2, "one for each number of cameras"
    assert capture.replays == len(kept) - 2, "the first frame of a scene runs as it stands"
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


class OneDevice(TorchDispatchMode):
    """Refuses operators that take a tensor from the host, or one that came from there unseen (a list as an index).

    given: the tensors of the device at the start. Single numbers may come from the host, because kernels take them as
    arguments; so may the aggregation operator's tables, which it reads on the host.
    """

    def __init__(self, given: list[torch.Tensor]):
        super().__init__()
        self._known = {id(tensor): tensor for tensor in given}

    def __torch_dispatch__(self, func, types, arguments=(), keywords=None):
        keywords = keywords or {}
        tensors = [x for x in tree_leaves((arguments, keywords)) if isinstance(x, torch.Tensor)]
        if any(tensor.is_meta for tensor in tensors) or str(keywords.get("device")) == "meta":
            foreign = [x for x in tensors if x.dim() and id(x) not in self._known and func.namespace != "sparse4d"]
            assert not foreign, f"{func}: takes {len(foreign)} tensors that came from the host"
        result = func(*arguments, **keywords)
        self._known |= {id(x): x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_meta}
        return result


@pytest.mark.parametrize("scene_reset", ["clean", "reference"])
def test_a_continuing_frame_never_waits_for_the_host(scene_reset):
    """On tensors without content, which stand for those of a GPU: whatever reads a value fails on them by itself."""
    model = Sparse4D(CONFIG, scene_reset).eval().to("meta")
    frames = [preprocess(frame, CONFIG).to("meta") for frame in ring_frames(CONFIG, 2)]
    state = TemporalState()
    with torch.inference_mode(), OneDevice([*model.parameters(), *model.buffers(), *tensors_of(frames)]):
        for inputs in frames:
            output, state = model.decode_usable(model.image_features(inputs.images), inputs, state)
    assert output.instance_ids.is_meta and state.instances.feature.is_meta


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x[:, [1, 0]],
        lambda x: x + torch.ones(3),
        lambda x: x * torch.tensor([1.0, 2.0, 3.0], device="meta"),
        lambda x: torch.ones(3).to("meta"),
        lambda x: x.cpu(),
    ],
    ids=["a value", "a mask", "an index list", "a constant", "a list", "an upload", "a download"],
)
def test_what_waits_for_the_host_is_noticed(wait):
    x = torch.ones(2, 3, device="meta")
    with OneDevice([x]):
        assert (x.flip(-1)[:, 1:] * 2 + torch.ones(2, device="meta")).shape == (2, 2)
        with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
            wait(x)
