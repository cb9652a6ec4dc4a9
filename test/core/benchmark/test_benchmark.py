"""The frame benchmark compares two ways to the same result, and the means of speed change nothing but the time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparse4d_core.benchmark.frame_timing import STAGES, PathOptions, PathRunner, table
from sparse4d_core.benchmark.pytorch_path import PyTorchPath
from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.process_settings import keep_freed_memory
from sparse4d_core.network import linear
from sparse4d_core.preprocess import normalize, preprocess, test_time_transform


def test_fast_path_equals_plain_pytorch():
    """First frame, before anything is sorted by confidences that tie in untrained weights."""
    plain, fast = PyTorchPath.from_preset("demo", None), Pipeline.from_preset("demo", None)
    frame = ring_frames(fast.config, 1)[0]
    expected, actual = plain.step(frame).detections, fast.step(frame).detections
    np.testing.assert_allclose(actual.scores, expected.scores, atol=5e-5)
    order = [np.lexsort(found.boxes[:, :3].round(2).T) for found in (expected, actual)]
    close = np.isclose(actual.boxes[order[1], :3], expected.boxes[order[0], :3], atol=1e-3).all(1)
    assert close.mean() > 0.95, "more rows moved than ties explain"
    x = torch.randn(2, 8)
    with torch.inference_mode():
        assert linear.use_onednn(x, torch.randn(4, 8)) == linear.has_onednn(), "the plain path left its patch behind"


def test_a_row_holds_measured_times():
    PathRunner.start(PathOptions("demo", "cpu", "float32"), 2)
    times = [PathRunner.step(index) for index in range(2)]
    assert all(
        set(t) == {"total", "processor", *STAGES} - {"network"} and t["total"] >= t["backbone"] > 0 for t in times
    )
    assert table(times).count("\n") == 3


def test_images_prepared_in_threads_equal_one_after_another():
    config = Pipeline.from_preset("demo", None).config
    frame = ring_frames(config, 1)[0]
    threaded = preprocess(frame, config).images[0].numpy()
    for image, pixels in zip(frame.images, threaded, strict=True):
        transform = test_time_transform(config.image, (image.shape[1], image.shape[0]))
        np.testing.assert_array_equal(pixels, normalize(transform.apply(image), config.image))


@pytest.mark.parametrize("library", [("musl", "1.2"), ("", "")])
def test_other_c_libraries_are_left_alone(monkeypatch, library):
    monkeypatch.setattr("platform.libc_ver", lambda: library)
    assert not keep_freed_memory()
