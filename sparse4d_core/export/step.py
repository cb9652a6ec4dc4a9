"""One frame of a recurrent model (v2, v3) as a function of tensors alone: what is exported.

    boxes, memory = step(images, projection, pose change, interval, memory)

Stamps and poses are float64 in the model's own input, because they count from the epoch and from a map's origin. Their
differences, which the caller forms, need float32 only.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ..config import Sparse4DConfig
from ..geometry import project_anchors
from ..inference.decode import best_instances
from ..inference.image_encoder import ImageEncoder
from ..model_io import ModelInput, ModelOutput
from ..network.aggregation import CameraFeatures
from ..network.instance_memory import Memory, temporal_rates
from ..network.sparse4d import Sparse4D
from ..network.state import TemporalState
from .interface import FIRST_FRAME, Images
from .onnx_operator import NodeAggregation
from .portable_aggregation import PortableAggregation, Tally, picture

Operator = Literal["portable", "native"]
Aggregation = Literal["portable", "native", "node"]


class RecurrentStep(nn.Module):
    """Takes and returns tensors in the order of interface.py. A copy: the model stays as it is.

    Args:
        model: v2, v3 or demo, in evaluation mode.
        dtype: of the image encoder; what follows it computes in float32.
        operator: "portable" samples with GridSample, "native" calls our own operator, "node" is that as a node of ONNX,
            for a trace alone.
        images: what the caller gives; "uint8" is normalised inside.
        overlap: portable operator: cameras that may see one point; None: all.

    Raises:
        ValueError: a model that cannot be exported; the message has the reason.
    """

    def __init__(
        self,
        model: Sparse4D,
        dtype: torch.dtype = torch.float32,
        operator: Aggregation = "portable",
        images: Images = "normalized",
        overlap: int | None = None,
    ):
        super().__init__()
        check_exportable(model.config)
        self.config, self.scene_reset, self.images = model.config, model.scene_reset, images
        self.portable = operator == "portable"
        self.maps_dtype = dtype if operator == "node" else None  # which takes half of the bytes in float16
        self.encoder = ImageEncoder(model, dtype, fuse=False)
        self.decoder = copy.deepcopy(model.decoder).eval().requires_grad_(False)
        self.tally = None if overlap is None else Tally()
        for layer in self.decoder.layers:
            if self.portable:
                layer.aggregation = PortableAggregation(layer.aggregation, overlap, self.tally)
            elif operator == "node":
                layer.aggregation = NodeAggregation(layer.aggregation)
        image = model.config.image
        self.register_buffer("image_wh", torch.tensor(image.input_wh, dtype=torch.float32))
        order = slice(None, None, -1) if image.to_rgb else slice(None)  # statistics in the order of the raw images
        self.register_buffer("mean", torch.tensor(image.mean[order], dtype=torch.float32))
        self.register_buffer("std", torch.tensor(image.std[order], dtype=torch.float32))

    def forward(
        self,
        images: Tensor,
        projection: Tensor,
        T_now_from_memory: Tensor,
        interval: Tensor,
        memory_feature: Tensor,
        memory_anchor: Tensor,
        memory_confidence: Tensor,
        memory_ids: Tensor | None = None,
        memory_ids_given: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        maps = self.encoder(self.planes(images))
        if self.portable:
            maps = [picture(level.float()) for level in maps]
        elif self.maps_dtype is not None:
            maps = [level.to(self.maps_dtype) for level in maps]
        image_wh = self.image_wh.expand(1, projection.shape[1], 2)
        cameras = CameraFeatures(maps, projection, image_wh.contiguous())
        memory, fresh = self.recall(
            T_now_from_memory, interval, memory_feature, memory_anchor, memory_confidence, memory_ids
        )
        output, feature, _ = self.decoder.run_layers(cameras, memory, fresh=fresh)
        next_id = None if memory_ids_given is None else memory_ids_given.reshape(())
        # Stamp and pose only pass through, to outputs that nobody takes.
        inputs = ModelInput(images, projection, image_wh, interval, T_now_from_memory)
        output, state = self.decoder.finish(output, feature, None, inputs, memory, TemporalState(next_id=next_id))
        left_out = () if self.tally is None else (self.tally.take(),)
        return self.boxes(output) + left_out + memory_tensors(state)

    def planes(self, images: Tensor) -> Tensor:
        """The encoder's input [1, N, 3, H, W] float32."""
        if self.images == "normalized":
            return images
        normalised = (images.float() - self.mean) / self.std
        planes = normalised.permute(0, 1, 4, 2, 3)
        return planes.flip(2) if self.config.image.to_rgb else planes

    def recall(
        self, T: Tensor, interval: Tensor, feature: Tensor, anchor: Tensor, confidence: Tensor, ids: Tensor | None
    ) -> tuple[Memory, Tensor]:
        """As `instance_memory.recall`, from differences; and [1] whether the frame forgets what it was given."""
        temporal = self.config.temporal
        age = interval.abs()
        same_scene = age <= temporal.max_interval
        fresh = age > (temporal.max_interval if self.scene_reset == "clean" else FIRST_FRAME / 2)
        time_interval, decay = temporal_rates(interval, same_scene, temporal)
        memory = Memory(
            feature,
            project_anchors(anchor, T, -interval, temporal.swap_yaw_on_projection),
            torch.where(fresh[:, None], 0.0, confidence),
            ids,
            same_scene,
            time_interval,
            decay,
        )
        return memory, fresh

    def boxes(self, output: ModelOutput) -> tuple[Tensor, ...]:
        """The decoded boxes, in the order of `interface.outputs`."""
        quality = output.quality[-1]
        best = best_instances(
            output.class_logits[-1], output.anchors[-1], quality, output.instance_ids, self.config.num_output
        )
        tensors = [best.boxes, best.scores, best.labels]
        if quality is not None:
            rows = best.rows[..., None].expand(-1, -1, quality.shape[-1])
            tensors += [best.class_scores, quality.sigmoid().gather(1, rows)]
        return tuple(tensors if best.ids is None else [*tensors, best.ids])


def memory_tensors(state: TemporalState) -> tuple[Tensor, ...]:
    """The memory in the order of `interface.memory`."""
    cached = state.instances
    tensors = (cached.feature, cached.anchor, cached.confidence)
    return tensors if cached.ids is None else (*tensors, cached.ids, state.next_id.reshape(1))


def check_exportable(config: Sparse4DConfig) -> None:
    """Raises ValueError for what has no recurrent step of fixed shapes."""
    if config.temporal is None:
        raise ValueError(
            f"model: {config.name} keeps whole feature maps of past frames, not instances: its memory would be larger "
            "than the network, so v1 is not exported; take a v2 or v3 preset"
        )
    if config.score_threshold is not None:
        raise ValueError(
            f"model: {config.name} leaves out boxes below {config.score_threshold}; an exported step has a fixed "
            "number of boxes: export it without a threshold"
        )
