"""What TensorRT refuses or runs slowly, looked for in an ONNX graph before anybody waits for its builder.

Source: the operator table and the notes of TensorRT's ONNX parser, version 10.
"""

from __future__ import annotations

import pathlib

MAX_TOPK = 3840
REFUSED = {
    "If": "control flow splits the engine",
    "Loop": "control flow splits the engine",
    "Scan": "control flow splits the engine",
    "ScatterND": "runs as a plugin that forbids fusion",
    "ScatterElements": "runs as a plugin that forbids fusion",
    "NonZero": "its result has no shape before it runs",
    "Unique": "its result has no shape before it runs",
}


def tensorrt_objections(path: str | pathlib.Path) -> list[str]:
    """A sentence for every node and type that TensorRT 10 does not take, or takes at a price; [] for a good graph."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    found = [f"operators of the domain {domain}: need a plugin" for domain in _foreign_domains(model)]
    doubles = [name for name, kind in shapes.items() if kind.elem_type == onnx.TensorProto.DOUBLE]
    doubles += [name for name, tensor in constants.items() if tensor.data_type == onnx.TensorProto.DOUBLE]
    found += [f"{name}: float64 is not known" for name in doubles]
    for node in graph.node:
        name = f"{node.op_type} {node.name}"
        if node.op_type in REFUSED:
            found.append(f"{name}: {REFUSED[node.op_type]}")
        if node.op_type == "TopK":
            k = constants.get(node.input[1])
            if k is None or int(onnx.numpy_helper.to_array(k).item()) > MAX_TOPK:
                found.append(f"{name}: expected a constant of at most {MAX_TOPK}")
        if node.op_type == "GridSample" and len(shapes[node.input[0]].shape.dim) != 4:
            found.append(f"{name}: only images of four dimensions can be sampled")
        if node.op_type == "Softmax":
            axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
            if axis not in (-1, len(shapes[node.input[0]].shape.dim) - 1):
                found.append(f"{name}: not over the last axis, which is slow")
    return found


def _foreign_domains(model) -> set[str]:
    return {node.domain for node in model.graph.node} - {"", "ai.onnx"}
