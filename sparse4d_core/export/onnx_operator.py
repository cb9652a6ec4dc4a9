"""Deformable aggregation as a node of our own in an ONNX graph: a custom operator of onnxruntime, a TensorRT plugin.

Inputs, attributes and meaning: cuda_ops/csrc/node/node.h. The attributes `plugin_version` and `plugin_namespace` are
those by which TensorRT's parser finds a plugin; onnxruntime does not look at them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cuda_ops.plugins import DOMAIN, NODE, NODE_VERSION

from ..network.aggregation import CameraFeatures
from .portable_aggregation import PortableAggregation


class NodeAggregation(PortableAggregation):
    """Takes the place of a DeformableAggregation in a trace for ONNX, for batches of one. Its node computes nothing."""

    def forward(self, feature: Tensor, anchor: Tensor, embed: Tensor, cameras: CameraFeatures) -> Tensor:
        """As DeformableAggregation.forward; batch 1."""
        points = self.aggregation.kps_generator(anchor, feature)
        weights = self.group_weights((feature + embed)[0], cameras.projection).transpose(1, 2)[None]  # [1, A, N L P, G]
        features, shapes, starts = cameras.flat()
        gathered = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{NODE}",
            (
                features,
                points,
                cameras.projection,
                cameras.image_wh,
                weights.unflatten(2, (-1, self.levels, self.points)).contiguous(),
            ),
            attrs={
                "spatial_shapes": [int(size) for camera in shapes for level in camera for size in level],
                "scale_start_index": [int(start) for camera in starts for start in camera],
                "plugin_version": NODE_VERSION,
                "plugin_namespace": DOMAIN,
            },
            dtype=features.dtype,
            shape=(features.shape[0], anchor.shape[1], features.shape[2]),
            version=int(NODE_VERSION),
        )
        return self.aggregation.add_residual(gathered.to(feature.dtype), feature)
