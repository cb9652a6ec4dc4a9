"""The baseline of the frame benchmark."""

from __future__ import annotations

from ..inference.pipeline import Pipeline


class PyTorchPath(Pipeline):
    """The same model as plain PyTorch runs it: batch norms on their own, contiguous planes, the operator's reference,
    PyTorch's linear layers, float32."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.model.use_plain_operations()
        self._encoder = self.model.image_features
