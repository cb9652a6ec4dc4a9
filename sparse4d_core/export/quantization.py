"""8-bit integers for the image encoder of an ONNX graph, after training: scales from frames, no gradient.

Only what lies before the feature maps is quantised (backbone and neck). The decoder stays in float32: it holds metres
and probabilities, and takes a small part of the time. Weights get one scale a channel, maps one scale each, and the
graph carries them as QuantizeLinear and DequantizeLinear, which every runtime reads.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..inference.artefact import Artefact
from ..inference.image_encoder import ImageEncoder
from ..network.sparse4d import Sparse4D
from ..network.state import TemporalState
from ..preprocess import preprocess
from ..types import Frame

MIN_FRAMES = 8
MAX_SHARE = 0.03
"""Of the maps' energy: a layer whose own rounding changes them by more stays in float."""
_QUANTIZED = ("Conv", "Add", "Relu", "MaxPool", "Resize")


@dataclass(frozen=True)
class LayerError:
    """What rounding one convolution alone, its input and its weights, does to the feature maps."""

    layer: str
    share: float  # root mean square of the change over that of the maps; the largest level
    kept_float: bool


def check_calibration(frames: Sequence[Frame]) -> None:
    """Raises ValueError: too few frames to find the range of every map."""
    if len(frames) < MIN_FRAMES:
        raise ValueError(
            f"calibration: {len(frames)} frames, expected at least {MIN_FRAMES} that look like those of the vehicle; "
            "take a larger data set"
        )


def quantize(artefact: Artefact, frames: Sequence[Frame], out: pathlib.Path, source: pathlib.Path, kept: set[int]):
    """Writes the quantised graph of an artefact's.

    Args:
        artefact: the same graph in float32, loaded; it drives through the frames to fill its memory.
        frames: of one drive, in time order; see `check_calibration`.
        source: the artefact's graph.
        kept: convolutions that stay in float, by their place in the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    graph = onnx.load(str(source), load_external_data=False).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    untouched = {convolutions[place].name for place in kept}
    quantize_static(
        str(source),
        str(out),
        _Calibration(artefact, frames),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTIZED),
        nodes_to_quantize=[node.name for node in _before(graph, convolutions) if node.name not in untouched],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _before(graph: Any, nodes: Sequence[Any]) -> list[Any]:
    """The nodes and all that they depend on, in the graph's order."""
    maker = {output: node for node in graph.node for output in node.output}
    found, waiting = {node.name for node in nodes}, list(nodes)
    while waiting:
        for name in waiting.pop().input:
            if name in maker and maker[name].name not in found:
                found.add(maker[name].name)
                waiting.append(maker[name])
    return [node for node in graph.node if node.name in found]


class _Calibration:
    """The graph's inputs, frame after frame, as onnxruntime's calibration asks for them."""

    def __init__(self, artefact: Artefact, frames: Sequence[Frame]):
        self._inputs = self._drive(artefact, frames)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)

    @staticmethod
    def _drive(artefact: Artefact, frames: Sequence[Frame]) -> Iterator[dict[str, np.ndarray]]:
        names, state = [entry["name"] for entry in artefact.manifest.inputs], TemporalState()
        for frame in frames:
            inputs = preprocess(frame, artefact.config)
            arguments = artefact.arguments(inputs, state)
            yield {name: tensor.numpy() for name, tensor in zip(names, arguments, strict=True)}
            _, state = artefact.step(inputs, state)


@torch.inference_mode()
def sensitivity(model: Sparse4D, frames: Sequence[Frame]) -> list[LayerError]:
    """The convolutions of the image encoder in the order in which they run, each rounded alone."""
    encoder = ImageEncoder(model, fuse=False)
    images = [preprocess(frame, model.config).images for frame in frames]
    exact = [encoder(image) for image in images]
    layers = _in_order(encoder, images[0])
    errors = []
    for name, layer in layers:
        with _rounded(layer):
            changed = [encoder(image) for image in images]
        share = max(
            float((torch.cat([c - e for c, e in zip(now, before, strict=True)]).square().mean()
                   / torch.cat(list(before)).square().mean()).sqrt())
            for now, before in zip(zip(*changed, strict=True), zip(*exact, strict=True), strict=True)
        )  # fmt: skip
        errors.append(LayerError(name, share, share > MAX_SHARE))
    return errors


def _in_order(encoder: nn.Module, images: Tensor) -> list[tuple[str, nn.Conv2d]]:
    """Convolutions as a frame passes them, which is their order in the graph."""
    names = {module: name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)}
    passed: list[tuple[str, nn.Conv2d]] = []
    hooks = [m.register_forward_hook(lambda module, *_: passed.append((names[module], module))) for m in names]
    try:
        encoder(images)
    finally:
        for hook in hooks:
            hook.remove()
    return passed


@contextmanager
def _rounded(layer: nn.Conv2d) -> Iterator[None]:
    """The layer with its input in 256 steps from least to greatest and its weights in 255 a channel."""
    weight = layer.weight
    scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
    hook = layer.register_forward_pre_hook(lambda _, inputs: (_steps(inputs[0]),))
    layer.weight = nn.Parameter((weight / scale).round() * scale, requires_grad=False)
    try:
        yield
    finally:
        layer.weight = weight
        hook.remove()


def _steps(x: Tensor) -> Tensor:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=1e-12)
    return ((x - low) / scale).round() * scale + low
