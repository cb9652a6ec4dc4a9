"""The baseline of the frame benchmark."""

from __future__ import annotations

from unittest import mock

from cuda_ops import reference

from ..inference.pipeline import Pipeline, StepResult
from ..network import aggregation, linear
from ..network.instance_memory import TemporalState
from ..types import Frame


class PyTorchPath(Pipeline):
    """The same model as plain PyTorch runs it: batch norms on their own, contiguous planes, the operator's reference,
    PyTorch's linear layers, float32."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._encoder = self.model.image_features

    def step(self, frame: Frame, state: TemporalState | None = None) -> StepResult:
        plain = reference.fused_deformable_aggregation
        with (
            mock.patch.object(aggregation, "fused_deformable_aggregation", plain),
            mock.patch.object(linear, "use_onednn", lambda *_: False),
        ):
            return super().step(frame, state)
