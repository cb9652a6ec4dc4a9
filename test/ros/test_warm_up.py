"""What is compiled before the first image comes is all that is compiled."""

from __future__ import annotations

import functools
import threading

import pytest
import torch

pytest.importorskip("rclpy")
from sparse4d_core.inference.pipeline import grey_frame  # noqa: E402
from sparse4d_core.inference.process_settings import limit_threads  # noqa: E402
from sparse4d_ros.assembly import load_pipeline  # noqa: E402
from sparse4d_ros.parameters import NodeParameters  # noqa: E402
from sparse4d_ros.perception.rig import load_rig  # noqa: E402


@pytest.fixture
def threads():
    """As many threads of one operation as they take turns to set; afterwards as many as before."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_the_workers_first_frame_compiles_nothing(threads, monkeypatch):
    compiled = []

    def count(graph, examples):
        compiled.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    parameters = NodeParameters(model="demo", compile=True, torch_threads=threads + 1)
    rig = load_rig(parameters.rig)
    pipeline = load_pipeline(parameters, rig)
    assert compiled
    del compiled[:]

    def work():
        limit_threads(parameters.torch_threads)  # as each thread of the worker does
        image = pipeline.config.image
        pipeline.step(grey_frame([image.original_wh] * len(rig.cameras), 0))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert compiled == []
