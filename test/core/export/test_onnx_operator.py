"""`--operator native` of ONNX: our node in the graph, run by onnxruntime where our kernels are built for it."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from exported_steps import SMALL, exported

from cuda_ops import reference
from cuda_ops.plugins import DOMAIN, NODE, ONNXRUNTIME, build_plugin
from sparse4d_core.export.exporter import ExportOptions
from sparse4d_core.export.formats import write_onnx
from sparse4d_core.export.manifest import read_manifest
from sparse4d_core.export.onnx_operator import NodeAggregation
from sparse4d_core.export.tensorrt_limits import tensorrt_objections
from sparse4d_core.inference import artefact_checks
from sparse4d_core.inference.artefact import Artefact
from sparse4d_core.network.aggregation import CameraFeatures

ANCHORS, CAMERAS = 5, 3


class Alone(torch.nn.Module):
    """An aggregation as a function of tensors."""

    def __init__(self, aggregation: torch.nn.Module):
        super().__init__()
        self.aggregation = aggregation

    def forward(self, feature, anchor, embed, projection, image_wh, *maps):
        return self.aggregation(feature, anchor, embed, CameraFeatures(list(maps), projection, image_wh))


def arguments() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    feature, embed = torch.randn(2, 1, ANCHORS, SMALL.embed_dims, generator=generator)
    K = torch.tensor([[27.0, 0, 48, 0], [0, 27, 24, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    T = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 3], [0, 0, 0, 1]])
    anchor = torch.randn(1, ANCHORS, 11, generator=generator)
    named = {"feature": feature, "anchor": anchor, "embed": embed}
    named["projection"] = (K @ T).expand(1, CAMERAS, 4, 4).contiguous()
    named["image_wh"] = torch.tensor([96.0, 48.0]).expand(1, CAMERAS, 2).contiguous()
    for scale in (1, 2, 4):
        size = (1, CAMERAS, SMALL.embed_dims, 12 // scale, 24 // scale)
        named[f"map_{scale}"] = torch.randn(size, generator=generator)
    return named


def test_the_node_in_a_graph_is_the_aggregation(pipeline, tmp_path):
    """Executed by ONNX's own evaluator, which takes our reference for the node; TensorRT finds what it needs."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements/export.txt)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    layer, named = pipeline.model.decoder.layers[0].aggregation, arguments()
    feature, anchor, embed, projection, image_wh, *maps = named.values()
    with torch.no_grad():
        expected = layer(feature, anchor, embed, CameraFeatures(maps, projection, image_wh))
        program = torch.export.export(Alone(NodeAggregation(layer)).eval(), tuple(named.values()), strict=False)
    path = tmp_path / "graph.onnx"
    write_onnx(program, path, list(named), ["output"])
    (node,) = [node for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    texts = {attribute.name: attribute.s.decode() for attribute in node.attribute if attribute.s}
    assert (node.op_type, texts) == (NODE, {"plugin_version": "1", "plugin_namespace": DOMAIN})
    assert tensorrt_objections(path) == [f"operators of the domain {DOMAIN}: need a plugin"]

    class Node(OpRun):
        op_domain = DOMAIN

        def _run(self, features, points, projection, image_wh, weights, **attributes):
            tables = (attributes["spatial_shapes"], attributes["scale_start_index"])
            tensors = [torch.from_numpy(np.ascontiguousarray(x)) for x in (points, projection, image_wh, weights)]
            return (reference.fused_deformable_aggregation(torch.from_numpy(features), *tables, *tensors).numpy(),)

    Node.__name__ = NODE
    found = ReferenceEvaluator(str(path), new_ops=[Node]).run(None, {name: t.numpy() for name, t in named.items()})[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


# ------------------------------------------------------------------------------------------------ where it can be run


@pytest.fixture(scope="module")
def native_folder(tmp_path_factory) -> pathlib.Path:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    build_plugin(ONNXRUNTIME)
    return exported(tmp_path_factory, "onnx", operator="native")


def test_an_export_with_our_node_is_proved_and_runs(native_folder, small_preset):
    """Written means proved: eight recurrent frames beside PyTorch."""
    import onnx

    manifest = read_manifest(native_folder)
    (proof,) = manifest.accuracy
    assert proof["frames"] == 8 and proof["boxes"] < 1e-3 and manifest.operator == "native"
    assert manifest.built_with["operator_library"] == f"{ONNXRUNTIME.name} ({NODE} 1)"
    nodes = [node.op_type for node in onnx.load(native_folder / "step.onnx").graph.node]
    assert nodes.count(NODE) == SMALL.num_decoder_layers and "GridSample" not in nodes
    assert Artefact(native_folder).runs_on == "onnxruntime (cpu)"


def test_without_the_library_it_is_neither_written_nor_run(monkeypatch, changed):
    for module in ("sparse4d_core.export.exporter", "sparse4d_core.inference.artefact_checks"):
        monkeypatch.setattr(f"{module}.plugin_library", lambda plugin: None)
    command = "run: python -m cuda_ops.build --onnxruntime, or"
    with pytest.raises(ValueError, match=f"operator: the graph is proved with onnxruntime.*{command} take portable"):
        ExportOptions("onnx", operator="native").check()
    folder = changed(operator="native")
    with pytest.raises(ValueError, match=f"our operator, which is not compiled here; {command} export it"):
        Artefact(folder)
    monkeypatch.setattr(artefact_checks, "plugin_library", lambda plugin: pathlib.Path("library.so"))
    with pytest.raises(ValueError, match=r"built with operator library None, here it is sparse4d_onnxruntime \(Fused"):
        Artefact(folder)
