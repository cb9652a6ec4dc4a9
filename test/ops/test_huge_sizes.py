"""Sizes beyond 2^31 elements: offsets are 64 bits wide, and what cannot be is refused before anything is read."""

from __future__ import annotations

import pytest
import torch

from cuda_ops import deformable_aggregation, kernels_loaded

ROWS = 2**31 // 16 + 1024  # of 16 channels: more than 2^31 elements

pytestmark = pytest.mark.skipif(not kernels_loaded(), reason="the compiled operator is not built")


def arguments(features: torch.Tensor, start: int, height: int = 2, width: int = 3) -> tuple[torch.Tensor, ...]:
    shapes, starts = torch.tensor([[[height, width]]]), torch.tensor([[start]])
    location, weights = torch.full((1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1, 1)
    return features, shapes, starts, location, weights


def test_shapes_without_data():
    """The result's shape is known for tensors that no memory could hold."""
    features = torch.empty(4, ROWS, 16, device="meta")
    weights = torch.empty(4, 2**28, 13, 6, 4, 8, device="meta")
    location = torch.empty(4, 2**28, 13, 6, 2, device="meta")
    tables = torch.zeros(6, 4, 2, dtype=torch.int64), torch.zeros(6, 4, dtype=torch.int64)
    assert deformable_aggregation(features, *tables, location, weights).shape == (4, 2**28, 16)


@pytest.mark.parametrize("name", ["features", "weights"])
def test_expanded_tensors_are_refused(name):
    """Strides of zero make a huge tensor of few bytes: reading it as contiguous would leave its memory."""
    features, shapes, starts, location, weights = arguments(torch.zeros(1, 6, 16), 0)
    if name == "features":
        features = torch.zeros(1, 1, 16).expand(1, ROWS, 16)
    else:
        anchors = 2**31 + 1
        location = torch.zeros(1, 1, 1, 1, 2).expand(1, anchors, 1, 1, 2)
        weights = torch.ones(1, 1, 1, 1, 1, 1).expand(1, anchors, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="contiguous"):
        deformable_aggregation(features, shapes, starts, location, weights)


@pytest.mark.parametrize("start", [2**31, 2**62, 2**63 - 1, -(2**31)])
def test_maps_beyond_the_features_are_refused(start):
    with pytest.raises(ValueError, match="scale_start_index"):
        deformable_aggregation(*arguments(torch.zeros(1, 6, 16), start))


@pytest.mark.parametrize(("height", "width"), [(2**31, 2**31), (2**62, 4), (2**31 + 1, 1)])
def test_maps_larger_than_the_features_are_refused(height, width):
    with pytest.raises(ValueError, match="spatial_shapes|scale_start_index"):
        deformable_aggregation(*arguments(torch.zeros(1, 6, 16), 0, height, width))


@pytest.mark.slow
def test_map_behind_two_gibi_elements_is_read_where_it_lies():
    """bfloat16, 4 GiB of address space; only the pages of the last map are ever written or read."""
    features = torch.empty(1, ROWS, 16, dtype=torch.bfloat16)
    features[0, -6:] = torch.arange(6, dtype=torch.bfloat16)[:, None]
    result = deformable_aggregation(*arguments(features, ROWS - 6))
    assert torch.equal(result, torch.full((1, 1, 16), 2.5, dtype=torch.bfloat16))
