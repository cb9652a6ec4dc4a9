"""What `compile` puts through torch.compile on a GPU can be traced as one graph and gives the same; a failure is said.

The compiler behind the trace is left out here: on a GPU `test/gpu` runs it.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.config import preset
from sparse4d_core.inference.device import device_preprocess
from sparse4d_core.inference.device.compiled import Compiled
from sparse4d_core.inference.device.device_preprocess import preprocess_on_device
from sparse4d_core.inference.device.products import products_in
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.model_io import tensors_of


@pytest.fixture
def traced(monkeypatch):
    """torch.compile refuses what it cannot take as a whole, and compiles nothing."""
    traces = []

    def backend(graph, examples):
        traces.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend, fullgraph=True))
    device_preprocess._compiled_normalised.cache_clear()
    yield traces
    device_preprocess._compiled_normalised.cache_clear()


@pytest.mark.slow
def test_the_decoder_of_a_continuing_frame_is_one_graph(traced, one_thread):
    pipeline = Pipeline.from_preset("demo")
    frames = ring_frames(pipeline.config, 2)
    state = pipeline.step(frames[0]).state
    with torch.inference_mode():
        inputs = pipeline.prepare(frames[1]).inputs
        arguments = pipeline._encoder(inputs.images), inputs, state
        expected = pipeline.model.decode_usable(*arguments)
        actual = Compiled(pipeline.model.decode_usable, "the decoder")(*arguments)
    assert len(traced) == 1
    for ours, theirs in zip(tensors_of(actual), tensors_of(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_preprocessing_is_one_graph_for_each_size(traced, one_thread):
    config = preset("demo")
    (frame,) = ring_frames(config, 1)
    frame = replace(frame, images=(None, *(image[:300, :500].copy() for image in frame.images[1:])))
    plain, compiled = (preprocess_on_device(frame, config, torch.device("cpu"), compile) for compile in (False, True))
    assert len(traced) == 1
    torch.testing.assert_close(compiled.images, plain.images, rtol=0, atol=0)


def test_a_compiler_that_fails_is_said_once_and_loses_nothing(monkeypatch, caplog):
    def refuses(function):
        def fail(*arguments):
            raise RuntimeError("ptxas is missing")

        return fail

    monkeypatch.setattr(torch, "compile", refuses)
    double = Compiled(lambda x: 2 * x, "the doubling")
    assert [double(1), double(2)] == [2, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "compile: torch.compile failed, the doubling runs without it: ptxas is missing"
    ]


@pytest.fixture
def products():
    """The process's settings for products of matrices, exact at first."""
    settings = torch.backends.cuda.matmul
    before, settings.allow_tf32 = settings.allow_tf32, False
    yield settings
    settings.allow_tf32 = before


def test_products_are_lowered_with_the_encoder_on_gpus_and_only_then(products):
    for device, precision, lowered in (
        ("cuda", "float32", False),
        ("cuda", "float16", True),
        ("cuda", "bfloat16", True),
        ("cpu", "bfloat16", False),
    ):
        with pytest.raises(KeyError), products_in(precision, torch.device(device)):
            assert products.allow_tf32 is lowered
            raise KeyError
        assert products.allow_tf32 is False
    products.allow_tf32 = True  # whoever has it so, keeps it
    with products_in("float16", torch.device("cuda")):
        assert products.allow_tf32
    assert products.allow_tf32
