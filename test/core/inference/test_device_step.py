"""The whole step on a device that is not there: one copy up, one copy down, and nothing in between waits."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from device_values import NAME, StandInDevice

from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.inference.device import device_preprocess
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.model_io import tensors_of

FRAMES = 3


@pytest.fixture(scope="module")
def expected():
    pipeline = Pipeline.from_preset("demo")
    state, results = None, []
    for frame in ring_frames(pipeline.config, FRAMES):
        results.append(pipeline.step(frame, state))
        state = results[-1].state
    return results


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """It refuses the meta device by name, also when it is not enabled, as here."""
    monkeypatch.setattr(torch, "autocast", lambda *arguments, enabled, **options: nullcontext(assert_not(enabled)))


@pytest.fixture(autouse=True)
def own_tables():
    """What preprocessing keeps for a device: here it belongs to the stand-in, elsewhere to the meta device itself."""
    tables = device_preprocess._device_filter, device_preprocess._table
    for table in tables:
        table.cache_clear()
    yield
    for table in tables:
        table.cache_clear()


def assert_not(enabled: bool) -> None:
    assert not enabled


@pytest.mark.parametrize(("scene_reset", "stride"), [("clean", 0.0), ("reference", 0.0), ("clean", 10.0)])
def test_a_continuing_frame_goes_up_once_and_comes_back_once(expected, scene_reset, stride):
    with StandInDevice() as device:
        pipeline = Pipeline.from_preset("demo", device=str(NAME), scene_reset=scene_reset, temporal_stride=stride)
        frames = ring_frames(pipeline.config, FRAMES)
        state = pipeline.step(frames[0]).state
        state = pipeline.step(frames[1], state).state
        device.reset()
        result = pipeline.step(frames[2], state)
    assert len(device.uploads) == 1 and device.uploads[0] > 6 * 3 * 128 * 352
    assert len(device.downloads) == 1 and device.downloads[0] < 50_000
    assert (device.waits, device.mixed) == ([], [])
    views = {"aten.split_with_sizes.default", "aten.view.default", "aten.view.dtype"}  # of what came down, and went up
    assert set(device.on_host) <= views
    assert {tensor.device for tensor in tensors_of(result.state)} == {NAME}
    if stride == 0 and scene_reset == "clean":
        theirs = expected[2].detections
        np.testing.assert_allclose(result.detections.scores, theirs.scores, atol=1e-3)
        np.testing.assert_array_equal(result.detections.ids[:5], theirs.ids[:5])


@pytest.mark.parametrize(
    ("crossing", "noticed"),
    [
        (lambda x: x.to("cpu"), "downloads"),
        (lambda x: x.cpu(), "downloads"),
        (lambda x: torch.empty(2, 3).copy_(x), "downloads"),
        (lambda x: torch.ones(2, 3).to(NAME), "uploads"),
        (lambda x: x.copy_(torch.ones(2, 3)), "uploads"),
        (lambda x: bool(x.sum() > 0), "waits"),
        (lambda x: x[0, 0].item(), "waits"),
        (lambda x: x[x > 0], "waits"),
        (lambda x: x.nonzero(), "waits"),
        (lambda x: x[:, [1, 0]], "mixed"),
        (lambda x: x + torch.ones(3), "mixed"),
    ],
)
def test_every_crossing_is_noticed(crossing, noticed):
    with StandInDevice() as device:
        x = torch.ones(2, 3).to(NAME)
        device.reset()
        assert float((x.flip(-1)[:, 1:] * 2 + torch.ones(2, device=NAME)).sum().cpu()) == 12
        device.reset()
        crossing(x)
    assert len(getattr(device, noticed)) >= 1, vars(device)
