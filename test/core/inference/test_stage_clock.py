"""Stages on a GPU are timed by events in its stream; nothing waits between them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from sparse4d_core.inference.device import stage_clock
from sparse4d_core.inference.device.stage_clock import StageClock


@pytest.fixture
def cuda(monkeypatch):
    """Stands in for torch.cuda: the n-th event happens after n² milliseconds; notes what is called."""
    calls = []

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing

        def record(self, stream):
            self.moment = len([call for call in calls if call[0] == "record"]) ** 2
            calls.append(("record", stream))

        def elapsed_time(self, other):
            return float(other.moment - self.moment)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(calls.append(("device", str(device)))))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("waits for the device"))
    return calls


def test_stages_of_a_gpu_are_read_from_events_at_the_end(monkeypatch, cuda):
    moments = iter([1.0, 1.020])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(moments))
    clock = StageClock(torch.device("cuda:1"))
    clock.mark("preprocess")
    clock.mark("network")
    times = clock.finish("decode")
    assert times == {"preprocess": 1.0, "network": 3.0, "decode": pytest.approx(20 - 4)}
    assert cuda == [("device", "cuda:1"), ("record", "stream of cuda:1")] * 3


def test_a_pause_is_in_no_stage_on_a_gpu(monkeypatch, cuda):
    moments = iter([1.0, 1.003, 7.0, 7.020])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(moments))
    clock = StageClock(torch.device("cuda:1"))  # at 0 ms of the device
    clock.mark("preprocess")  # 1
    clock.pause()
    clock.resume()  # 4
    clock.mark("network")  # 9
    assert clock.finish("decode") == {"preprocess": 1.0, "network": 5.0, "decode": pytest.approx(23 - 6)}


def test_a_pause_is_in_no_stage(monkeypatch):
    moments = iter([1.0, 1.0, 1.25, 1.25, 9.0, 9.0, 9.5, 10.0])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(moments))
    clock = StageClock(torch.device("cpu"))
    clock.mark("preprocess")
    clock.pause()
    clock.resume()
    clock.mark("backbone")
    assert clock.finish("decode") == {"preprocess": 250.0, "backbone": 500.0, "decode": 500.0}


def test_stages_of_the_cpu_are_read_from_the_clock(monkeypatch):
    moments = iter([1.0, 1.0, 1.25, 2.0])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(moments))
    clock = StageClock(torch.device("cpu"))
    clock.mark("backbone")
    assert clock.finish("decode") == {"backbone": 250.0, "decode": 750.0}
