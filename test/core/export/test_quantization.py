"""INT8 of the image encoder: what it needs, what it leaves alone, and how far boxes move."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from exported_steps import SMALL

from cuda_ops.plugins import DOMAIN, NODE
from sparse4d_core.export import interface
from sparse4d_core.export.__main__ import main
from sparse4d_core.export.drive import drive
from sparse4d_core.export.exporter import ExportOptions, export_step
from sparse4d_core.export.formats import trace, write_onnx
from sparse4d_core.export.manifest import read_manifest, weights_digest
from sparse4d_core.export.quantization import MIN_FRAMES, check_calibration, quantize, sensitivity
from sparse4d_core.export.step import RecurrentStep
from sparse4d_core.inference.artefact import Artefact
from sparse4d_core.network.state import TemporalState
from sparse4d_core.preprocess import preprocess


def test_every_convolution_is_measured_alone_and_the_model_stays_as_it_is(pipeline):
    before = weights_digest(pipeline.model)
    errors = sensitivity(pipeline.model, drive(SMALL, count=2))
    convolutions = [m for part in (pipeline.model.backbone, pipeline.model.neck) for m in part.modules()]
    assert len(errors) == sum(isinstance(module, torch.nn.Conv2d) for module in convolutions)
    assert errors[0].layer == "backbone.conv1" and errors[-1].layer.startswith("neck.fpn_convs")
    assert all(0 < error.share < 0.2 for error in errors)
    assert weights_digest(pipeline.model) == before


def test_a_layer_that_suffers_stays_in_float(pipeline):
    """Weights of ten thousand for a channel that is always zero take the whole range from the others."""
    model = copy.deepcopy(pipeline.model)
    for lateral in model.neck.lateral_convs:
        lateral.conv.weight.data[0], lateral.conv.bias.data[0] = 0, 0
    model.neck.fpn_convs[0].conv.weight.data[:, 0] = 1e4
    errors = sensitivity(model, drive(SMALL, count=2))
    assert [error.layer for error in errors if error.kept_float] == ["neck.fpn_convs.0.conv"]


def images_of(frames):
    return [preprocess(frame, SMALL).images.numpy() for frame in frames]


def test_the_graph_in_integers(onnx_folder, tmp_path):
    """Convolutions but those kept have integer weights; the decoder has none; boxes stay where they are."""
    import onnx

    exact, frames = Artefact(onnx_folder), drive(SMALL)
    quantize(onnx_folder / "step.onnx", images_of(frames), tmp_path / "step.onnx", kept={0})
    onnx.checker.check_model(tmp_path / "step.onnx")
    graph = onnx.load(tmp_path / "step.onnx").graph
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    makers = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    weights = [makers.get(node.input[1]) for node in convolutions]
    assert weights[0] is None and all(w.op_type == "DequantizeLinear" and w.input[0] in integers for w in weights[1:])
    assert not [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] not in makers and (
        node.input[1] in integers)]  # fmt: skip
    assert (tmp_path / "step.onnx").stat().st_size < (onnx_folder / "step.onnx").stat().st_size, "unused weights stay"

    rounded = Artefact(onnx_folder)
    rounded._run = _runner(tmp_path / "step.onnx")
    for frame in frames[:2]:
        inputs = preprocess(frame, SMALL)
        (found, _), (expected, _) = (a.step(inputs, TemporalState()) for a in (rounded, exact))
        best = expected.scores > np.median(expected.scores)
        gap = np.abs(expected.boxes[best][:, None, :3] - found.boxes[None, :, :3]).max(-1).min(1)
        assert 0 < np.median(gap) < 0.5


def test_nodes_of_ours_need_no_library_to_calibrate(pipeline, onnx_folder, tmp_path):
    """The encoder is run alone: the same integers as with the portable operator, around our nodes."""
    import onnx

    inputs, outputs = interface.inputs(SMALL, 6, "normalized"), interface.outputs(SMALL, None)
    program = trace(RecurrentStep(pipeline.model, operator="node").eval(), inputs, 6)
    write_onnx(program, tmp_path / "node.onnx", *([spec.name for spec in specs] for specs in (inputs, outputs)))
    images, graphs = images_of(drive(SMALL)), []
    for exact in (tmp_path / "node.onnx", onnx_folder / "step.onnx"):
        quantize(exact, images, tmp_path / "rounded.onnx", kept=set())
        graphs.append(onnx.load(tmp_path / "rounded.onnx").graph)
    ours = [node for node in graphs[0].node if node.op_type == NODE]
    assert len(ours) == SMALL.num_decoder_layers and all(node.domain == DOMAIN for node in ours)
    for kind in ("QuantizeLinear", "DequantizeLinear", "Conv"):
        counts = [sum(node.op_type == kind for node in graph.node) for graph in graphs]
        assert counts[0] == counts[1] > 0
    integers = [
        {t.name: t.raw_data for t in graph.initializer if t.data_type == onnx.TensorProto.INT8} for graph in graphs
    ]
    assert integers[0] == integers[1] != {}


def _runner(path):
    from sparse4d_core.inference.runtimes import run_by_onnxruntime

    return run_by_onnxruntime(path, "cpu")[0]


def test_a_calibration_that_is_too_small(pipeline, tmp_path, capsys):
    few = drive(SMALL, count=3)
    with pytest.raises(ValueError, match=f"calibration: 3 frames, expected at least {MIN_FRAMES}"):
        export_step(pipeline, ExportOptions("onnx", precision="int8"), tmp_path / "step", calibration=few)
    assert list(tmp_path.iterdir()) == []
    check_calibration(few * 3, 6)
    arguments = ["--model", "demo", "--format", "onnx", "--precision", "int8", "--out", str(tmp_path / "step")]
    assert main(arguments) == 2
    assert "calibration: 0 frames" in capsys.readouterr().err
    assert main([*arguments, "--calibration", str(tmp_path / "absent")]) == 2
    with pytest.raises(ValueError, match="int8 is a form of onnx, got the format aoti"):
        replace(ExportOptions("aoti"), precision="int8").check()


def test_a_calibration_of_another_rig(pipeline, tmp_path):
    four = drive(SMALL, cameras=4)
    message = "calibration: frames of 4 cameras, the graph is for 6; export it with --cameras 4"
    with pytest.raises(ValueError, match=message):
        export_step(pipeline, ExportOptions("onnx", precision="int8"), tmp_path / "step", calibration=four)
    assert list(tmp_path.iterdir()) == []
    for cameras in (4, interface.ANY_NUMBER):
        check_calibration(four, cameras)


def test_float32_has_no_table_of_layers(onnx_folder):
    assert read_manifest(onnx_folder).layers == []
