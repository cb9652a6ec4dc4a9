"""The captured step, as far as it shows without a GPU: a stand-in for the graph runs the network again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.config import preset
from sparse4d_core.inference.device import cuda_graph
from sparse4d_core.inference.device.cuda_graph import StepGraph
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.model_io import tensors_of
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState
from sparse4d_core.preprocess import preprocess
from sparse4d_core.types import Frame

CONFIG = preset("demo")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    torch.manual_seed(4)
    return Pipeline(Sparse4D(CONFIG, "clean"))


class Capture:
    """Stands in for CUDA's capture: a replay reads and writes the same tensors."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, run, device):
        self.captures += 1
        result = run()

        def replay() -> None:
            self.replays += 1
            for fixed, value in zip(tensors_of(result), tensors_of(run()), strict=True):
                fixed.copy_(value)

        return replay, result


def captured(pipeline: Pipeline, capture) -> Pipeline:
    other = Pipeline(pipeline.model)
    other._graph = StepGraph(other._network, other._settled, capture)
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

    def failing(run, device):
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


def test_what_runs_out_of_memory_is_tried_again(pipeline, caplog, monkeypatch):
    """After a while, or with other shapes."""
    monkeypatch.setattr(cuda_graph, "RETRY_AFTER", 2)
    attempts = []

    def full(run, device):
        attempts.append(len(steps))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    graph, steps, state = captured(pipeline, full), [], None
    for frame in ring_frames(CONFIG, 6):
        steps.append(graph.step(frame, state))
        state = steps[-1].state
    assert attempts == [1, 4], "frames of attempts: the second, and the first after two frames without one"
    assert "for the next 2 frames, there is not enough memory: CUDA out of memory" in caplog.text
    graph._graph._capture = capture = Capture()
    graph.step(ring_frames(CONFIG, 7)[-1], state)
    assert capture.captures == 0
    first = graph.step(ring_frames(CONFIG, 1, cameras=3)[0])
    graph.step(ring_frames(CONFIG, 2, cameras=3)[1], first.state)
    assert capture.captures == 1


class FakeCuda:
    """Stands in for torch.cuda: notes what is called, and which device and stream are current then."""

    def __init__(self, monkeypatch, end_fails: bool = False):
        self.calls: list[tuple] = []
        self.current_device = "cuda:0"
        fake = self

        class Stream:
            def __init__(self, device=None):
                self.device = str(device or fake.current_device)

            def wait_stream(self, other):
                fake.calls.append(("wait", self.device))

        class Graph:
            def capture_begin(self, pool=None, capture_error_mode="global"):
                fake.note("begin", capture_error_mode)

            def capture_end(self):
                fake.note("end")
                if end_fails:
                    raise RuntimeError("operation failed due to a previous error during capture")

            def replay(self):
                fake.note("replay")

        self.streams = {device: Stream(device) for device in ("cuda:0", "cuda:1")}
        replaced = {"Stream": Stream, "CUDAGraph": Graph, "device": self.device, "stream": self.stream}
        replaced["current_stream"] = lambda device=None: self.streams[str(device or self.current_device)]
        replaced |= {"synchronize": lambda device=None: self.note("synchronize"), "empty_cache": lambda: None}
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def note(self, *what) -> None:
        self.calls.append((*what, self.current_device, self.streams[self.current_device]))

    def of(self, name: str) -> list[tuple]:
        return [call[1:] for call in self.calls if call[0] == name]

    @contextmanager
    def device(self, device):
        before, self.current_device = self.current_device, str(device)
        try:
            yield
        finally:
            self.current_device = before

    @contextmanager
    def stream(self, stream):
        before = self.streams[stream.device]
        self.streams[stream.device] = stream
        try:
            yield
        finally:
            self.streams[stream.device] = before


DEVICE = torch.device("cuda:1")


def test_graph_and_streams_belong_to_the_device_of_the_images(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    default, runs = cuda.streams["cuda:1"], []
    replay, result = cuda_graph.cuda_capture(lambda: runs.append(cuda.streams["cuda:1"]) or "result", DEVICE)
    assert result == "result" and len(runs) == 4
    assert all(stream is not default and stream.device == "cuda:1" for stream in runs)
    ((mode, device, stream),) = cuda.of("begin")
    assert (mode, device, stream) == ("thread_local", "cuda:1", runs[-1])
    assert [device for device, _ in cuda.of("end")] == ["cuda:1"]
    replay()
    assert cuda.of("replay") == [("cuda:1", default)], "a replay runs in the stream of whoever asks for it"
    assert cuda.current_device == "cuda:0" and cuda.streams["cuda:1"] is default
    assert {device for (device,) in cuda.of("wait")} == {"cuda:1"}


@pytest.mark.parametrize("end_fails", [False, True])
def test_the_cause_of_a_failed_capture_comes_out_and_streams_are_as_before(monkeypatch, end_fails):
    cuda = FakeCuda(monkeypatch, end_fails)
    default, runs = cuda.streams["cuda:1"], []

    def run():
        runs.append(None)
        if len(runs) > 3:
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        cuda_graph.cuda_capture(run, DEVICE)
    assert len(cuda.of("end")) == 1, "the stream no longer captures"
    assert cuda.streams["cuda:1"] is default and cuda.current_device == "cuda:0"


def test_the_step_is_captured_on_the_device_of_its_inputs(pipeline):
    devices = []

    def capture(run, device):
        devices.append(device)
        return Capture()(run, device)

    graph = captured(pipeline, capture)
    first, second = ring_frames(CONFIG, 2)
    graph.step(second, graph.step(first).state)
    assert devices == [torch.device("cpu")]


SMALL_V1 = {
    "image": replace(CONFIG.image, input_wh=(64, 32), original_wh=(64, 36)),
    "num_anchors": 20,
    "num_decoder_layers": 2,
}


@pytest.mark.parametrize(("model", "without"), [("v1_r101_t1", 0), ("v1_r101_t4", 3)])
def test_v1_is_captured_once_its_queue_is_full(model, without):
    torch.manual_seed(3)
    config = replace(preset(model), **SMALL_V1)
    config = replace(config, backbone=CONFIG.backbone)
    eager = Pipeline(Sparse4D(config, "clean"))
    capture, count = Capture(), without + 3
    graph, states = captured(eager, capture), [None, None]
    for frame in ring_frames(config, count):
        results = [path.step(frame, state) for path, state in zip((eager, graph), states, strict=True)]
        states = [result.state for result in results]
        np.testing.assert_array_equal(results[0].detections.boxes, results[1].detections.boxes)
    assert (capture.captures, capture.replays) == (1, count - without)


@pytest.mark.parametrize("stride", [0.0, 0.5])
def test_warm_up_captures_before_the_first_frame(pipeline, stride):
    capture = Capture()
    graph = captured(pipeline, capture)
    graph.compile, graph.temporal_stride = True, stride
    graph.warm_up([CONFIG.image.original_wh] * 6)
    assert (capture.captures, capture.replays) == (1, 2)
    state = None
    for frame in ring_frames(CONFIG, 2):
        state = graph.step(frame, state).state
    assert (capture.captures, capture.replays) == (1, 3), "a live frame finds the graph"


def test_without_compilation_the_cpu_has_nothing_to_warm_up(pipeline, monkeypatch):
    monkeypatch.setattr(Pipeline, "step", lambda *_: pytest.fail("a frame was run"))
    pipeline.warm_up([CONFIG.image.original_wh] * 6)


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
