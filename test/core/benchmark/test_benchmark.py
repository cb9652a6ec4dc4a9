"""The frame benchmark compares two ways to the same result, and the means of speed change nothing but the time."""

from __future__ import annotations

import numpy as np
import pytest
from recorded_operators import Recorded

from cuda_ops import kernels_loaded
from sparse4d_core.benchmark.frame_timing import STAGES, PathOptions, PathRunner, table
from sparse4d_core.benchmark.pytorch_path import PyTorchPath
from sparse4d_core.benchmark.ring_frames import ring_frames
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.process_settings import keep_freed_memory, release_unused_memory
from sparse4d_core.network import linear
from sparse4d_core.preprocess import normalize, preprocess, test_time_transform
from sparse4d_core.types import Detections


def detections_of(kind: type[Pipeline]) -> tuple[list[Detections], set[str]]:
    """Of three frames with the shipped weights, and the operators that ran."""
    pipeline = kind.from_preset("demo")
    state, found = None, []
    with Recorded() as recorded:
        for frame in ring_frames(pipeline.config, 3):
            result = pipeline.step(frame, state)
            state = result.state
            found.append(result.detections)
    return found, recorded.names


def test_fast_path_equals_plain_pytorch():
    (expected, plain), (actual, fast) = detections_of(PyTorchPath), detections_of(Pipeline)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=5e-5)
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=2e-4)
    assert "aten::batch_norm" in plain and "aten::batch_norm" not in fast, "only the fast path folds batch norms"
    assert not {name for name in plain if name.startswith(("mkldnn::", "sparse4d::"))}, "the plain path is not plain"
    assert ("mkldnn::_linear_pointwise" in fast) == linear.has_onednn()
    assert ("sparse4d::fused_deformable_aggregation" in fast) == kernels_loaded()


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
    assert not keep_freed_memory() and not release_unused_memory()
