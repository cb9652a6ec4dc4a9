"""Deformable aggregation in operators that every runtime has: one GridSample a level, for all cameras at once.

The maps of all cameras stand in one picture, a border of zeros around each, so that a sample chooses its camera by its
place. A key point is seen by few of the cameras: with `overlap` only so many views of each are sampled.

Equal to `cuda_ops.reference` up to rounding (test/core/export/test_portable_aggregation.py). Axes are ordered so that
what is summed lies apart from what is contiguous: views and key points outside, anchors inside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cuda_ops.reference import MIN_DEPTH

from ..network.aggregation import CameraFeatures, DeformableAggregation

CENTRE = 0.5  # place in the image, 0 to 1, where views are sampled that count nothing: finite, whatever they were


class Tally:
    """Views that were left out, layer by layer: a plain object, because a module may not assign tensors in a trace."""

    def __init__(self):
        self.counts: list[Tensor] = []

    def take(self) -> Tensor:
        """[1] int64, all since the last call."""
        total = torch.stack(self.counts).sum().to(torch.int64).reshape(1)
        self.counts = []
        return total


class PortableAggregation(nn.Module):
    """Takes the place of a :class:`DeformableAggregation` in evaluation, for batches of one.

    Its cameras' maps must have gone through `picture`. The columns of its weights come as (group, level, point): the
    softmax then runs over the last axis.

    Args:
        overlap: views of a key point that count, at most; views beyond are left out. None: all cameras.
        tally: counts those that are left out.
    """

    def __init__(self, aggregation: DeformableAggregation, overlap: int | None = None, tally: Tally | None = None):
        super().__init__()
        config = aggregation.config
        self.aggregation, self.overlap, self.tally = aggregation, overlap, tally
        self.groups, self.levels = config.num_groups, config.num_levels
        self.points = aggregation.kps_generator.num_points
        weight, bias = aggregation.weights_fc.weight.detach(), aggregation.weights_fc.bias.detach()
        sizes = (self.levels, self.points, self.groups)
        self.register_buffer("weight", weight.unflatten(0, sizes).permute(2, 0, 1, 3).flatten(0, 2).contiguous())
        self.register_buffer("bias", bias.unflatten(0, sizes).permute(2, 0, 1).flatten().contiguous())

    def forward(self, feature: Tensor, anchor: Tensor, embed: Tensor, cameras: CameraFeatures) -> Tensor:
        """As DeformableAggregation.forward; batch 1."""
        points = self.aggregation.kps_generator(anchor, feature)[0]
        place, inside = self.places(points, cameras)
        weights = self.attention_weights((feature + embed)[0], cameras.projection)
        camera = torch.arange(place.shape[0], device=place.device).view(-1, 1, 1).expand_as(inside)
        if self.overlap is not None:
            if self.tally is not None:
                self.tally.counts.append((inside.sum(0) - self.overlap).clamp(min=0).sum())
            inside, camera = inside.topk(self.overlap, dim=0)  # the views that see the point come first
            place = place.gather(0, camera[..., None].expand(-1, -1, -1, 2))
            index = camera[:, None, None].expand(-1, *weights.shape[1:3], -1, -1)
            weights = weights.gather(0, index)
        weights = weights * inside[:, None, None]
        sizes = [level.shape[-2:] for level in cameras.maps]
        total: Tensor | None = None
        for level, picture in enumerate(cameras.maps):
            grid = in_picture(place, camera, cameras.projection.shape[1], sizes[level])
            sampled = F.grid_sample(picture, grid.flatten(0, 1)[None], align_corners=False)[0]  # [C, V * P, A]
            weight = weights[:, level].transpose(0, 1).flatten(1, 2)  # [G, V * P, A]
            gathered = (sampled.unflatten(0, (self.groups, -1)) * weight[:, None]).sum(2)  # [G, C / G, A]
            total = gathered if total is None else total + gathered
        return self.aggregation.add_residual(total.flatten(0, 1).transpose(0, 1)[None], feature)

    def places(self, points: Tensor, cameras: CameraFeatures) -> tuple[Tensor, Tensor]:
        """points [A, P, 3] -> places [N, P, A, 2] in the images, 0 to 1, and [N, P, A] 1 where inside, else 0."""
        anchors = points.shape[0]
        homogeneous = F.pad(points.transpose(0, 1).reshape(1, -1, 3), (0, 1), value=1.0)  # [1, P * A, 4]
        pixels = homogeneous @ cameras.projection[0, :, :3].transpose(-1, -2)  # [N, P * A, 3]
        place = pixels[..., :2] / pixels[..., 2:].clamp(min=MIN_DEPTH) / cameras.image_wh[0, :, None]
        inside = ((place > 0) & (place < 1)).all(-1, keepdim=True)
        place = torch.where(inside, place, CENTRE)
        return place.unflatten(1, (-1, anchors)), inside[..., 0].to(place.dtype).unflatten(1, (-1, anchors))

    def attention_weights(self, query: Tensor, projection: Tensor) -> Tensor:
        """query [A, C], projection [1, N, 4, 4] -> weights [N, L, G, P, A]; per group they sum to 1."""
        weights = self.group_weights(query, projection)
        return weights.unflatten(2, (-1, self.levels, self.points)).permute(2, 3, 1, 4, 0)

    def group_weights(self, query: Tensor, projection: Tensor) -> Tensor:
        """The same as [A, G, N * L * P]: the softmax is over the last axis."""
        camera = self.aggregation.camera_encoder(projection[0, :, :3].flatten(-2))  # [N, C]
        of_query = F.linear(query, self.weight, self.bias).unflatten(1, (self.groups, 1, -1))  # [A, G, 1, L * P]
        of_camera = F.linear(camera, self.weight).unflatten(1, (self.groups, -1)).transpose(0, 1)  # [G, N, L * P]
        return (of_query + of_camera).flatten(2).softmax(-1)


def picture(maps: Tensor) -> Tensor:
    """maps [1, N, C, h, w] -> one picture [1, C, N * (h + 2), w + 2]: the cameras below each other, in zeros."""
    padded = F.pad(maps[0], (1, 1, 1, 1))  # [N, C, h + 2, w + 2]
    return padded.transpose(0, 1).flatten(1, 2)[None]


def in_picture(place: Tensor, camera: Tensor, cameras: int, size: tuple[int, int]) -> Tensor:
    """Places [V, P, A, 2], 0 to 1 within the image of `camera` [V, P, A], as GridSample's, -1 to 1 in the picture.

    size: height and width of the picture.
    """
    rows, width = size
    height = rows // cameras
    x = place[..., 0] * ((width - 2) * 2 / width) + (2 / width - 1)
    # Divided last, by the number of rows itself: where any number of cameras will do, a factor made of it is no number
    # that can be written into an ONNX graph.
    y = (place[..., 1] * ((height - 2) * 2) + (camera * (height * 2) + 2)) / rows - 1
    return torch.stack([x, y], dim=-1)
