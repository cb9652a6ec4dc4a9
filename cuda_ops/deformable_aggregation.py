"""The public operators: the compiled kernels where they are built, the PyTorch reference otherwise.

Compile once with `python -m cuda_ops.build`; the library is found again by torch's version and the sources' content.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import reference
from .layout import Table, integers
from .library import kernels_loaded


def deformable_aggregation(
    features: Tensor,
    spatial_shapes: Table,
    scale_start_index: Table,
    sampling_location: Tensor,
    weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinearly sampled features over key points, cameras and levels (arXiv 2211.10581, section 3.3).

    Args:
        features: [B, sum of pixels, C] float32, bfloat16, (CUDA) float16 or float64; map after map, row-major.
        spatial_shapes: [N, L, 2] integers (see layout.Table): height, width of each camera's and level's map.
        scale_start_index: [N, L] integers: first row of the map in `features`.
        sampling_location: [B, A, P, N, 2] float32 (float64 with float64 features): x, y; the image is (0, 1) x (0, 1).
        weights: [B, A, P, N, L, G], dtype of the locations; channel c belongs to group c // (C / G).

    Returns:
        [B, A, C] in the dtype of `features`; sums are float32. Locations outside (0, 1), NaN or infinite count nothing.

    Raises:
        ValueError, TypeError: shape, device, contiguity or dtype; the message names the argument.
    """
    implementation = reference.deformable_aggregation
    if kernels_loaded(features.device):
        implementation = torch.ops.sparse4d.deformable_aggregation
    shapes, starts = integers("spatial_shapes", spatial_shapes), integers("scale_start_index", scale_start_index)
    return implementation(features, shapes, starts, sampling_location, weights)


def fused_deformable_aggregation(
    features: Tensor,
    spatial_shapes: Table,
    scale_start_index: Table,
    key_points: Tensor,
    projection: Tensor,
    image_wh: Tensor,
    weights: Tensor,
) -> Tensor:
    """`deformable_aggregation` of key points that are projected into the cameras on the way; nothing else is written.

    Args:
        features, spatial_shapes, scale_start_index: as for `deformable_aggregation`.
        key_points: [B, A, P, 3] float32, metres, model frame.
        projection: [B, N, 4, 4] float32: model frame homogeneous -> pixels, depth in slot 2. Gets no gradient.
        image_wh: [B, N, 2] float32: width, height of the images in pixels. Gets no gradient.
        weights: [B, A, N, L, P, G] float32: the order in which the network's linear layer gives them.

    Returns:
        [B, A, C]. Depth is raised to 1e-5 before the division, so points behind a camera fall outside its image.
    """
    implementation = reference.fused_deformable_aggregation
    if kernels_loaded(features.device):
        implementation = torch.ops.sparse4d.fused_deformable_aggregation
    shapes, starts = integers("spatial_shapes", spatial_shapes), integers("scale_start_index", scale_start_index)
    return implementation(features, shapes, starts, key_points, projection, image_wh, weights)


def deformable_aggregation_per_point(
    features: Tensor,
    spatial_shapes: Table,
    scale_start_index: Table,
    sampling_location: Tensor,
    weights: Tensor,
) -> Tensor:
    """The operator's older signature (Sparse4D v2 code base): one feature per key point, no sum over points.

    Args:
        features: [B, N, pixels, C]; every camera has the same maps.
        spatial_shapes, scale_start_index: [L, 2] and [L]; rows count within a camera.
        sampling_location: [B, K, N, 2] with K = anchors x points.
        weights: [B, K, N, L, G].

    Returns:
        [B, K, C].
    """
    return per_point(deformable_aggregation, features, spatial_shapes, scale_start_index, sampling_location, weights)


def per_point(
    aggregate: Callable[..., Tensor],
    features: Tensor,  # [B, N, pixels, C]
    spatial_shapes: Table,  # [L, 2]
    scale_start_index: Table,  # [L]
    sampling_location: Tensor,  # [B, K, N, 2]
    weights: Tensor,  # [B, K, N, L, G]
) -> Tensor:
    """The older signature on any implementation of the operator: every key point is an anchor of its own."""
    batch, cameras, pixels, channels = features.shape
    starts = integers("scale_start_index", scale_start_index)
    return aggregate(
        features.reshape(batch, cameras * pixels, channels),
        integers("spatial_shapes", spatial_shapes) * cameras,
        [start + camera * pixels for camera in range(cameras) for start in starts],
        sampling_location[:, :, None],
        weights[:, :, None],
    )
