"""The image encoder as it runs in inference: the model's backbone and neck, prepared once."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..network.sparse4d import Sparse4D
from .device.compiled import Compiled
from .fused_convolution import fuse_convolutions, has_fused_convolution


def fast_precision(device: str | torch.device) -> Literal["float32", "bfloat16"]:
    """The faster one of a CPU: bfloat16 where it has instructions for it, which others imitate. GPUs: float32."""
    if torch.device(device).type != "cpu":
        return "float32"
    return "bfloat16" if _processor_has("bf16") else "float32"


def multiplies_integers() -> bool:
    """Whether this processor has instructions for sums of 8-bit products (x86's VNNI), as int8 needs to be fast."""
    return _processor_has("vnni")


def _processor_has(part: str) -> bool:
    """Whether a feature of this processor, such as avx512_bf16, has this in its name; False where torch is too old to
    tell."""
    features = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has is True and part in name for name, has in features.items())


class ImageEncoder(nn.Module):
    """Backbone and neck of a model with batch norms folded into the convolutions, in channels-last memory order.

    A copy: the model keeps its parameters as they are trained and saved.

    Args:
        model: in evaluation mode.
        dtype: of weights and computation; deformable convolutions locate their samples in float32, so models that
            have them keep float32 weights and lower their plain convolutions by autocast.
        compile: run through torch.compile; where that fails, the log has the reason and the encoder runs without.
        fuse: oneDNN's fused convolutions on the CPU. They are private operators without a form for tracing: False for
            an encoder that is exported.
    """

    def __init__(self, model: Sparse4D, dtype: torch.dtype = torch.float32, compile: bool = False, fuse: bool = True):
        super().__init__()
        self.dtype = dtype
        self.operator = model.config.aggregation.sampling == "operator"
        self.autocast = dtype != torch.float32 and any(model.config.backbone.deformable_stages)
        self.backbone, self.neck = copy.deepcopy(model.backbone).eval(), copy.deepcopy(model.neck).eval()
        fold_batch_norms(self)
        on_cpu = next(self.parameters()).device.type == "cpu"
        if fuse and on_cpu and not (compile or self.autocast) and has_fused_convolution(dtype):
            fuse_convolutions(self)
        stored = torch.float32 if self.autocast else dtype
        self.to(dtype=stored, memory_format=torch.channels_last).requires_grad_(False)
        self._run = Compiled(self._levels, "the image encoder") if compile else self._levels

    def forward(self, images: Tensor) -> list[Tensor]:
        """images [B, N, 3, H, W] -> L levels of [B, N, C, h, w] in `output_dtype`, finest first."""
        stored = torch.float32 if self.autocast else self.dtype
        batch = images.flatten(0, 1).to(stored, memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.dtype, enabled=self.autocast):
            levels = self._run(batch)
        output = self.output_dtype(images.device)
        return [level.to(output).unflatten(0, images.shape[:2]) for level in levels]

    def output_dtype(self, device: torch.device) -> torch.dtype:
        """The encoder's own where the aggregation operator takes it (its sums are float32), else float32."""
        taken = self.dtype == torch.bfloat16 or device.type == "cuda"
        return self.dtype if self.operator and taken else torch.float32

    def _levels(self, batch: Tensor) -> list[Tensor]:
        return self.neck(self.backbone(batch))


def fold_batch_norms(module: nn.Module) -> None:
    """Folds every batch norm into the convolution registered just before it in the same module, which it follows there.

    Batch norms after anything else (a deformable convolution) stay.
    """
    for parent in list(module.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if previous is not None and isinstance(child, nn.BatchNorm2d) and type(previous[1]) is nn.Conv2d:
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = name, child
