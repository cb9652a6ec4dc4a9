"""Sparse4D: camera images to refined 3D instances, frame after frame.

    images ──backbone, neck──► feature maps ──decoder(·, state)──► boxes, classes, quality, ids + the next state

Source: Sparse4D v1 (arXiv 2211.10581), v2 (arXiv 2305.14018), v3 (arXiv 2311.11722).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..config import Sparse4DConfig
from ..model_io import ModelInput, ModelOutput
from .aggregation import CameraFeatures, DeformableAggregation
from .backbones import FPN, build_backbone
from .backbones.deformable_conv import ModulatedDeformConv2d
from .decoder import NoisyQueries, RecurrentDecoder
from .decoder_v1 import HistoryDecoder
from .initialization import initialize_decoder
from .layers import DepthHead
from .linear import Linear
from .state import TemporalState

SceneReset = Literal["reference", "clean"]


class Sparse4D(nn.Module):
    """One model for all generations; the modules hold parameters only, the recurrent state is a value.

    Args:
        config: a preset or a variant of one.
        scene_reset: what a time gap above the limit does. "reference" is the published behaviour: cached instances no
            longer merge, but still are the keys of the first temporal attention, and their confidences still count.
            "clean": the samples concerned start like a first frame.
        activation_checkpointing: recompute the backbone's activations in training instead of keeping them.
    """

    def __init__(
        self,
        config: Sparse4DConfig,
        scene_reset: SceneReset = "reference",
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        if scene_reset not in ("reference", "clean"):
            raise ValueError(f"scene_reset: expected 'reference' or 'clean', got {scene_reset!r}")
        self.config = config
        self.scene_reset = scene_reset
        self.backbone = build_backbone(config.backbone, activation_checkpointing)
        self.neck = FPN(self.backbone.out_channels, config.embed_dims, config.neck)
        self.depth_head = DepthHead(config.embed_dims, config.num_depth_layers) if config.num_depth_layers else None
        self.decoder = (RecurrentDecoder if config.temporal is not None else HistoryDecoder)(config)
        initialize_decoder(self.decoder)

    def use_plain_operations(self) -> None:
        """From here on the model computes as plain PyTorch does: no matrix products of oneDNN, and the aggregation
        operator's reference. To measure and to test against."""
        for module in self.modules():
            if isinstance(module, (Linear, ModulatedDeformConv2d)):
                module.onednn = False
            if isinstance(module, DeformableAggregation):
                module.kernels = False

    def forward(
        self, inputs: ModelInput, state: TemporalState | None = None, denoising: NoisyQueries | None = None
    ) -> tuple[ModelOutput, TemporalState]:
        """One frame of a batch of streams.

        Args:
            inputs: see :class:`ModelInput`.
            state: what the last frame returned; None at the start. Another batch size than the state's resets it.
            denoising: noisy queries of this frame, in training.
        """
        return self.decode_features(self.image_features(inputs.images), inputs, state, denoising)

    def image_features(self, images: Tensor) -> list[Tensor]:
        """images [B, N, 3, H, W] -> L levels of [B, N, C, h, w], finest first."""
        levels = self.neck(self.backbone(images.flatten(0, 1)))
        return [level.unflatten(0, images.shape[:2]) for level in levels]

    def decode_features(
        self,
        feature_maps: list[Tensor],
        inputs: ModelInput,
        state: TemporalState | None = None,
        denoising: NoisyQueries | None = None,
    ) -> tuple[ModelOutput, TemporalState]:
        """The part behind the image encoder."""
        state, clean = self.usable_state(state, inputs)
        return self.decode_usable(feature_maps, inputs, state, denoising, clean)

    def decode_usable(
        self,
        feature_maps: list[Tensor],
        inputs: ModelInput,
        state: TemporalState,
        denoising: NoisyQueries | None = None,
        clean: bool = False,
    ) -> tuple[ModelOutput, TemporalState]:
        """The same with what `usable_state` returned: in evaluation the host waits for nothing from here on."""
        cameras = CameraFeatures(feature_maps, inputs.projection.contiguous(), inputs.image_wh.contiguous())
        output, state = self.decoder(cameras, inputs, state, denoising, clean)
        if self.training:
            output.feature_maps = feature_maps
            if self.depth_head is not None and inputs.focal is not None:
                output.depths = self.depth_head(feature_maps, inputs.focal)
        return output, state

    def usable_state(
        self, state: TemporalState | None, inputs: ModelInput, age: float | None = None
    ) -> tuple[TemporalState, bool]:
        """The state, empty at the start and after a change of batch size; and whether the decoder must separate
        samples of a new scene from the others.

        A clean reset of all samples takes place here, so that the frame runs as a first frame does.

        Args:
            age: batch 1: seconds since the frame that the state remembers, where the host has them. None: the decision
                is read from the device, which the host waits for (v2, v3), or left to the decoder (v1).
        """
        if state is None or state.batch_size not in (None, inputs.images.shape[0]):
            return TemporalState(), False
        if self.scene_reset == "reference" or state.batch_size is None:
            return state, self.scene_reset == "clean"
        if age is None and state.instances is None:
            return state, True
        limit = (self.config.temporal or self.config.history).max_interval
        if age is not None:
            return (state.forget() if abs(age) > limit else state), False
        changed = ((inputs.timestamp - state.instances.timestamp).abs() > limit).tolist()
        return (state.forget(), False) if all(changed) else (state, any(changed))
