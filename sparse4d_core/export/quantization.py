"""8-bit integers for the image encoder of an ONNX graph, after training: scales from frames, no gradient.

Only what lies before the feature maps is quantised (backbone and neck). The decoder stays in float32: it holds metres
and probabilities, and takes a small part of the time. Weights get one scale a channel, maps one scale each, and the
graph carries them as QuantizeLinear and DequantizeLinear, which every runtime reads.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..inference.image_encoder import ImageEncoder
from ..network.sparse4d import Sparse4D
from ..preprocess import preprocess
from ..types import Frame
from .interface import ANY_NUMBER

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


def check_calibration(frames: Sequence[Frame], cameras: int) -> None:
    """Raises ValueError: too few frames to find the range of every map, or frames of another rig than the graph's."""
    if len(frames) < MIN_FRAMES:
        raise ValueError(
            f"calibration: {len(frames)} frames, expected at least {MIN_FRAMES} that look like those of the vehicle; "
            "take a larger data set"
        )
    if cameras not in (ANY_NUMBER, count := len(frames[0].images)):
        raise ValueError(
            f"calibration: frames of {count} cameras, the graph is for {cameras}; export it with --cameras {count}, or "
            "take a data set of its rig"
        )


def quantize(source: pathlib.Path, images: Iterable[np.ndarray], out: pathlib.Path, kept: set[int]) -> None:
    """Writes the graph with its image encoder in integers. The encoder alone is run, so the rest may hold any node.

    Args:
        source: a step in float32.
        images: the graph's first input, for frames that look like the vehicle's world; see `check_calibration`.
        kept: convolutions that stay in float, by their place in the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    step = onnx.load(str(source))
    convolutions = [node for node in step.graph.node if node.op_type == "Conv"]
    encoder = _part(step, _before(step.graph, convolutions))
    untouched = {convolutions[place].name for place in kept}
    with tempfile.TemporaryDirectory() as scratch:
        exact, rounded = (str(pathlib.Path(scratch) / name) for name in ("exact.onnx", "rounded.onnx"))
        onnx.save(encoder, exact)
        quantize_static(
            exact,
            rounded,
            _Calibration(encoder.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            nodes_to_quantize=[node.name for node in encoder.graph.node if node.name not in untouched],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        _put_back(step, encoder, onnx.load(rounded))
    onnx.save(step, str(out))


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


def _part(model: Any, nodes: Sequence[Any]) -> Any:
    """A model of these nodes alone; it gives what the other nodes take from them."""
    import onnx

    graph, names = model.graph, {node.name for node in nodes}
    read = {name for node in nodes for name in node.input}
    others = {name for node in graph.node if node.name not in names for name in node.input}
    known = {value.name: value for value in graph.value_info}
    given = [known[name] for node in nodes for name in node.output if name in others]
    part = onnx.helper.make_graph(
        nodes,
        "image_encoder",
        [value for value in graph.input if value.name in read],
        given,
        [tensor for tensor in graph.initializer if tensor.name in read],
    )
    return onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def _put_back(model: Any, part: Any, changed: Any) -> None:
    """Replaces the nodes of a part by those that it became, and leaves out what nothing reads any more."""
    graph, gone = model.graph, {node.name for node in part.graph.node}
    nodes = [*changed.graph.node, *(node for node in graph.node if node.name not in gone)]
    read = {name for node in nodes for name in node.input} - {name for node in nodes for name in node.output}
    tensors = {tensor.name: tensor for tensor in (*graph.initializer, *changed.graph.initializer)}
    known = {opset.domain for opset in model.opset_import}
    model.opset_import.extend(opset for opset in changed.opset_import if opset.domain not in known)
    for field, values in (("node", nodes), ("initializer", [t for name, t in tensors.items() if name in read])):
        graph.ClearField(field)
        getattr(graph, field).extend(values)


class _Calibration:
    """The encoder's input, frame after frame, as onnxruntime's calibration asks for it."""

    def __init__(self, name: str, images: Iterable[np.ndarray]):
        self._name, self._images = name, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self._images, None)
        return None if images is None else {self._name: images}


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
