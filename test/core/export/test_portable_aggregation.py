"""The aggregation in standard operators against the operator's reference, and what it leaves out on demand."""

from __future__ import annotations

import pytest
import torch
from exported_steps import SMALL

from sparse4d_core.export.portable_aggregation import PortableAggregation, Tally, picture
from sparse4d_core.network.aggregation import CameraFeatures, DeformableAggregation

ANCHORS, CAMERAS = 20, 5


@pytest.fixture
def scene():
    """A module, its arguments, and cameras in a ring that see 120 degrees each: a point is in one, two or none."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    module = DeformableAggregation(SMALL.embed_dims, SMALL.aggregation).eval().requires_grad_(False)
    module.kernels = False
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    feature, embed = torch.randn(2, 1, ANCHORS, SMALL.embed_dims, generator=generator)
    anchor = torch.randn(1, ANCHORS, 11, generator=generator)
    anchor[..., :2] *= 10
    turns = torch.arange(CAMERAS) * (2 * torch.pi / CAMERAS)
    T = torch.zeros(CAMERAS, 4, 4)
    T[:, 0, 0], T[:, 0, 1], T[:, 2, 0], T[:, 2, 1] = turns.sin(), -turns.cos(), turns.cos(), turns.sin()
    T[:, 1, 2], T[:, 3, 3] = -1, 1
    K = torch.tensor([[27.0, 0, 48, 0], [0, 27, 24, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    maps = [torch.randn(1, CAMERAS, SMALL.embed_dims, 12 // s, 24 // s, generator=generator) for s in (1, 2, 4)]
    wh = torch.tensor([96.0, 48.0]).expand(1, CAMERAS, 2)
    return module, (feature, anchor, embed), CameraFeatures(maps, (K @ T)[None], wh)


def in_pictures(cameras: CameraFeatures) -> CameraFeatures:
    return CameraFeatures([picture(maps) for maps in cameras.maps], cameras.projection, cameras.image_wh)


@pytest.mark.parametrize("overlap", [None, 3, 2])
def test_it_equals_the_reference(scene, overlap):
    module, arguments, cameras = scene
    expected = module(*arguments, cameras)
    found = PortableAggregation(module, overlap)(*arguments, in_pictures(cameras))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.1


def test_views_beyond_the_overlap_are_left_out_and_counted(scene):
    module, arguments, cameras = scene
    tally = Tally()
    found = PortableAggregation(module, 1, tally)(*arguments, in_pictures(cameras))
    assert (found - module(*arguments, cameras)).abs().max() > 1e-2
    points = PortableAggregation(module).places(module.kps_generator(arguments[1], arguments[0])[0], cameras)[1].sum(0)
    assert tally.take() == (points - 1).clamp(min=0).sum() > 0
    PortableAggregation(module, 2, tally)(*arguments, in_pictures(cameras))
    assert tally.take() == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_points_without_a_place_count_nothing(scene, value):
    """GridSample of runtimes does anything for coordinates that are not numbers or too large for integers."""
    module, (feature, anchor, embed), cameras = scene
    anchor[0, 0, :3] = value
    found = PortableAggregation(module)(feature, anchor, embed, in_pictures(cameras))
    assert found.isfinite().all()
    torch.testing.assert_close(found, module(feature, anchor, embed, cameras), rtol=0, atol=2e-5)
