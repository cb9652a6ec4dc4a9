"""The operator's benchmark: its inputs are what it says, its figures are measured."""

from __future__ import annotations

import time

import torch

from cuda_ops import benchmark, reference
from cuda_ops.measurement import interleaved_medians, peak_memory
from cuda_ops.workload import Workload, make_inputs
from ops import paths  # noqa: F401  (builds and loads the kernels)

SMALL = Workload(anchors=40, cameras=6, image_wh=(128, 64), channels=32, groups=4)


def test_every_point_is_seen_by_about_one_camera():
    inputs = make_inputs(Workload(anchors=500, image_wh=(176, 64), channels=8), seed=0)
    seen = inputs.samples() / inputs.spatial_shapes.shape[1] / (500 * 13)
    assert 0.4 < seen < 1.4  # six times 70 degrees of 360, less what is above or below the images


def test_plain_and_fused_inputs_are_the_same_problem():
    inputs = make_inputs(SMALL, seed=1)
    plain = reference.deformable_aggregation(*inputs.plain())
    torch.testing.assert_close(plain, reference.fused_deformable_aggregation(*inputs.fused()))


def test_rows_hold_measured_figures():
    row = benchmark.forward_row(SMALL, torch.float32, "cpu", repeats=2)
    assert row["kernel_ms"] > 0 and row["speedup"] == row["pytorch_ms"] / row["kernel_ms"]
    assert benchmark.backward_row(SMALL, torch.float32, "cpu", repeats=1)["kernel_ms"] > 0
    assert benchmark.table([row]).count("\n") == 2


def test_medians_and_peak_memory_measure():
    short, long = interleaved_medians([lambda _: time.sleep(0.001), lambda _: time.sleep(0.02)], 1, [3, 3])
    assert short < 0.015 < long
    size = 64 * 2**20
    peak = peak_memory(lambda: torch.ones(size // 4))
    assert peak is None or 0.9 * size < peak < 1.5 * size
