"""The model and its losses as one module: what a training process runs, alone or wrapped for several GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...config import Sparse4DConfig
from ...geometry import elapsed
from ...model_io import ModelInput, ModelOutput
from ...network.aggregation import CameraFeatures
from ...network.sparse4d import Sparse4D
from ...network.state import PastFrame, TemporalState
from ..batches.batch import PastInput
from ..batches.targets import Targets
from ..schedule import TrainingConfig
from .constants import constant
from .denoising import Draws, NoisyQueries, noisy_queries
from .grid_mask import Grid
from .losses import Average, Losses, depth_loss, detection_losses, single_process
from .point_depth import point_depth_loss

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class ForwardResult:
    losses: Losses
    output: ModelOutput
    state: TemporalState  # for the next frame
    queries: NoisyQueries | None  # as they were made, before the temporal merge


class TrainingObjective(nn.Module):
    """One training frame: noisy queries, the model, all losses.

    Args:
        precision: of backbone and neck; the decoder always runs in float32, as in the published training.
        average: mean over processes of the number of objects.
    """

    def __init__(
        self, model: Sparse4D, config: TrainingConfig, precision: str = "float32", average: Average = single_process
    ):
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.model = model
        self.config = config
        self.half = PRECISIONS[precision]
        self.average = average

    def forward(
        self,
        inputs: ModelInput,
        targets: Targets,
        state: TemporalState | None = None,
        history: Sequence[PastInput] = (),
        grid_rng: np.random.RandomState | None = None,
        draws: Draws | None = None,
    ) -> ForwardResult:
        """Losses of a batch.

        Args:
            state: of the frame before (v2, v3); None at the start.
            history: past frames, most recent first (v1).
            grid_rng: where the grid mask is drawn from; None: no grid mask.
            draws: random numbers of the noisy queries (default: drawn now).
        """
        config = self.config
        queries = None
        if config.denoising is not None:
            queries = noisy_queries(targets, config.denoising, config.matcher, draws)
        if history:
            state = self._past_state(history)
        features = self._image_features(inputs.images, grid_rng)
        carried = carried_confidence(state, inputs.timestamp, self.model.config)
        output, state = self.model.decode_features(features, inputs, state, queries)
        losses = detection_losses(
            output,
            targets,
            config.matcher,
            config.losses,
            queries,
            output.noisy,
            self.model.config.num_single_frame_layers,
            self.average,
            carried,
            denoising=config.denoising is not None,
        )
        if output.depths:
            losses["dense_depth"] = self._dense_depth(output, targets)
        if self.model.config.depth_reweighting:
            losses["depth"] = self._point_depth(features, inputs, targets)
        return ForwardResult(losses, output, state, queries)

    @torch.no_grad()
    def _past_state(self, history: Sequence[PastInput]) -> TemporalState:
        """v1: what the cameras saw in past frames; no gradient goes there."""
        frames = []
        for past in history:
            features = self._image_features(past.inputs.images, None)
            cameras = CameraFeatures(features, past.inputs.projection, past.inputs.image_wh)
            frames.append(replace(PastFrame.of(cameras, past.inputs), valid=past.valid))
        return TemporalState(history=tuple(frames))

    def _dense_depth(self, output: ModelOutput, targets: Targets) -> Tensor:
        """Without lidar the loss is zero, and so is its gradient, which a wrapper for several processes waits for."""
        if targets.depth is None:
            return sum(parameter.sum() for parameter in self.model.depth_head.parameters()) * 0.0
        return depth_loss(output.depths, targets.depth, self.config.losses)

    def _point_depth(self, features: list[Tensor], inputs: ModelInput, targets: Targets) -> Tensor:
        cameras = CameraFeatures(features, inputs.projection, inputs.image_wh)
        offsets = constant(self.model.config.aggregation.fixed_points, inputs.projection)
        count = self.average(targets.valid.sum().to(offsets.dtype))
        return point_depth_loss(self.model.decoder.depth_module, cameras, targets, offsets, count)

    def _image_features(self, images: Tensor, grid_rng: np.random.RandomState | None) -> list[Tensor]:
        if self.config.grid_mask is not None and grid_rng is not None:
            height, width = images.shape[-2:]
            if (grid := Grid.draw(height, self.config.grid_mask, grid_rng)) is not None:
                images = images * torch.from_numpy(grid.mask(height, width)).to(images)
        half = nullcontext() if self.half is None else torch.autocast(images.device.type, self.half)
        with half:
            features = self.model.image_features(images)
        return [level.float() for level in features]


def carried_confidence(state: TemporalState | None, timestamp: Tensor, config: Sparse4DConfig) -> Tensor | None:
    """[B, A]: what the rows behind the single-frame layers were worth in the frame before; 0 for new ones.

    None where no sample remembers anything. Cached instances are the first rows (see temporal.merge).
    """
    if state is None or state.instances is None:
        return None
    same_scene = elapsed(timestamp, state.instances.timestamp).abs() <= config.temporal.max_interval
    cached = state.instances.confidence * same_scene[:, None]
    return functional.pad(cached, (0, config.num_anchors - cached.shape[1]))


def restart(
    state: TemporalState | None, starts: Tensor, inputs: ModelInput, max_interval: float
) -> TemporalState | None:
    """The state in which the samples `starts` [B] remember nothing, whatever the times of their frames are.

    What they remember is dated back beyond the longest gap within a scene. `starts` lies on the host, which decides
    whether there is anything to do.
    """
    if state is None or state.instances is None or not bool(starts.any()):
        return state
    long_ago = inputs.timestamp - (max_interval + 1.0)
    timestamp = torch.where(starts.to(long_ago.device), long_ago, state.instances.timestamp)
    return replace(state, instances=replace(state.instances, timestamp=timestamp))
