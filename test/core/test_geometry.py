"""Transforms, projection and anchors: properties that hold for every input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sparse4d_core.boxes import transform_boxes
from sparse4d_core.geometry import (
    decode_boxes,
    encode_boxes,
    invert_rigid,
    project,
    project_anchors,
    relative_transform,
    transform,
)

lean = settings(max_examples=30, deadline=None)
angles = st.floats(-math.pi, math.pi)
metres = st.floats(-60, 60)


def pose(yaw: float, pitch: float, x: float, y: float, z: float) -> torch.Tensor:
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    R = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, (x, y, z)
    return torch.from_numpy(T)[None]


poses = st.builds(pose, angles, st.floats(-0.3, 0.3), metres, metres, st.floats(-3, 3))
flat_poses = st.builds(pose, angles, st.just(0.0), metres, metres, st.floats(-3, 3))
boxes = arrays(np.float64, (1, 4, 10), elements=st.floats(0.2, 3.0)).map(torch.from_numpy)


@lean
@given(poses, arrays(np.float64, (1, 5, 3), elements=metres))
def test_inverse_undoes_the_transform(T, points):
    points = torch.from_numpy(points)
    torch.testing.assert_close(transform(invert_rigid(T), transform(T, points)), points, atol=1e-9, rtol=0)


@lean
@given(poses, poses)
def test_relative_transform_keeps_centimetres_far_from_the_origin(a, b):
    offset = torch.zeros(1, 4, 4, dtype=torch.float64)
    offset[:, :2, 3] = 1e5
    torch.testing.assert_close(relative_transform(a + offset, b + offset), relative_transform(a, b), atol=1e-4, rtol=0)


@lean
@given(boxes)
def test_boxes_survive_encoding(box):
    torch.testing.assert_close(decode_boxes(encode_boxes(box)), box, atol=1e-9, rtol=0)


@lean
@given(boxes, flat_poses, st.floats(-1, 1))
def test_anchor_projection_is_undone_by_the_way_back(box, T, dt):
    """There with -dt and back with dt, on flat ground where yaw keeps its length."""
    anchor, there = encode_boxes(box).float(), T.float()
    interval = torch.tensor([dt], dtype=torch.float32)
    moved = project_anchors(anchor, there, -interval)
    back = project_anchors(moved, invert_rigid(T).float(), interval)
    torch.testing.assert_close(back, anchor, atol=2e-4, rtol=0)


@lean
@given(boxes, flat_poses)
def test_swapped_yaw_is_the_two_columns_exchanged(box, T):
    anchor = encode_boxes(box).float()
    plain, swapped = (project_anchors(anchor, T.float(), swap_yaw=swap) for swap in (False, True))
    order = [0, 1, 2, 3, 4, 5, 7, 6, 8, 9, 10]
    assert torch.equal(plain[..., order], swapped)


@lean
@given(st.floats(-20, 20), st.floats(-10, 10), st.floats(-50, -0.1))
def test_points_behind_the_camera_are_outside(x, y, z):
    K = torch.tensor([[800.0, 0, 400, 0], [0, 800, 200, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[None, None]
    point = torch.tensor([[[[x, y, z]]]])
    location = project(point, K, torch.tensor([[[800.0, 400.0]]]))
    on_axis = abs(x * 800 + z * 400) < 0.01 or abs(y * 800 + z * 200) < 0.01
    assert on_axis or not ((location > 0) & (location < 1)).all()


def test_projection_of_the_principal_point():
    K = torch.tensor([[800.0, 0, 400, 0], [0, 800, 200, 0], [0, 0, 1, 0], [0, 0, 0, 1]])[None, None]
    location = project(torch.tensor([[[[0.0, 0.0, 7.0]]]]), K, torch.tensor([[[800.0, 400.0]]]))
    torch.testing.assert_close(location.flatten(), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("count", [1, 2, 7, 19, 33])
def test_a_transformed_box_does_not_depend_on_those_beside_it(count):
    """To the last digit: the same box is published among detections and among tracks."""
    rng = np.random.default_rng(count)
    boxes = rng.normal(size=(count, 10)) * 10
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = np.linalg.qr(rng.normal(size=(3, 3)))[0], (0.9, 0.0, 1.8)
    together = transform_boxes(boxes, T)
    for row in range(count):
        np.testing.assert_array_equal(together[row], transform_boxes(boxes[row], T)[0])


def test_the_last_digit_of_a_yaw_does_not_depend_on_where_it_is_stored(monkeypatch):
    """On processors with AVX-512 NumPy takes another arctan2 where its result lies right behind a column's array."""
    calls = []

    def arctan2(*angles: np.ndarray) -> np.ndarray:
        calls.append([array.flags.c_contiguous for array in angles])
        return original(*angles)

    original = np.arctan2
    monkeypatch.setattr(np, "arctan2", arctan2)
    boxes = np.random.default_rng(0).normal(size=(14, 10)).astype(np.float32)
    boxes[:, 6] = np.linspace(-3, 3, 14)
    np.testing.assert_allclose(transform_boxes(boxes, np.eye(4)), boxes, atol=1e-6)
    assert calls == [[True, True]]
