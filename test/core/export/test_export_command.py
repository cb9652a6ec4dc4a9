"""The export command: a folder with everything in it, or nothing and the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from exported_steps import SMALL, InPyTorch, small_pipeline
from PIL import Image

from sparse4d_core.checkpoint.weights import save_checkpoint
from sparse4d_core.export import exporter, interface
from sparse4d_core.export.__main__ import main
from sparse4d_core.export.drive import drive
from sparse4d_core.export.exporter import ExportOptions, export_step
from sparse4d_core.export.formats import trace, write_onnx
from sparse4d_core.export.manifest import NAME, read_manifest, write_manifest
from sparse4d_core.export.proof import ROUGHEST, TOLERANCES, Difference, ProofError, compare, prove, run_both
from sparse4d_core.export.step import RecurrentStep
from sparse4d_core.export.tensorrt_limits import tensorrt_objections
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.runtimes import run_by_export, run_by_onnxruntime
from sparse4d_core.network.state import TemporalState
from sparse4d_core.preprocess import preprocess
from sparse4d_core.types import Frame

SHIFTED = 0.3


def test_the_manifest_tells_all(onnx_folder, pipeline):
    manifest = read_manifest(onnx_folder)
    assert (manifest.preset, manifest.format, manifest.cameras, manifest.trained) == ("demo", "onnx", 6, False)
    assert manifest.model_config() == SMALL
    assert len(manifest.weights_sha256) == 64 and set(manifest.files) == {"step.onnx"}
    names = [entry["name"] for entry in manifest.inputs]
    assert names == [spec.name for spec in interface.inputs(SMALL, 6, "normalized")]
    assert all(entry["meaning"] and entry["shape"] for entry in manifest.inputs + manifest.outputs)
    (proof,) = manifest.accuracy
    assert proof["frames"] == 8 and proof["compared"] >= 64 and 0 < proof["boxes"] < 1e-3 and proof["scores"] < 1e-4
    assert manifest.built_with["torch"] == torch.__version__ and "onnxruntime" in manifest.built_with


def test_classes_in_any_letters_are_written_as_they_are(onnx_folder, tmp_path):
    """The reader of examples/cpp knows no escapes of Unicode."""
    manifest = read_manifest(onnx_folder)
    config = manifest.config | {"class_names": ["robot.groß", *manifest.config["class_names"][1:]]}
    write_manifest(tmp_path, replace(manifest, config=config))
    assert '"robot.groß"' in (tmp_path / NAME).read_text(encoding="utf-8")


def test_the_graph_has_the_interface_and_nothing_that_tensorrt_refuses(onnx_folder):
    import onnx

    path = onnx_folder / "step.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    graph, manifest = onnx.load(path).graph, read_manifest(onnx_folder)
    assert [value.name for value in graph.input] == [entry["name"] for entry in manifest.inputs]
    assert [value.name for value in graph.output] == [entry["name"] for entry in manifest.outputs]
    assert tensorrt_objections(path) == []


def test_refusals_of_tensorrt_are_found(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=kinds.DOUBLE),
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("TopK", ["x", "k"], ["best", "rows"]),
        helper.make_node("Softmax", ["x"], ["soft"], axis=0),
        helper.make_node("Mine", ["x"], ["y"], domain="sparse4d"),
    ]
    x = helper.make_tensor_value_info("x", kinds.FLOAT, [2, 5000])
    outputs = [helper.make_tensor_value_info("wide", kinds.DOUBLE, [2, 5000])]
    k = helper.make_tensor("k", kinds.INT64, [1], [4000])
    graph = helper.make_graph(nodes, "graph", [x], outputs, [k])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparse4d", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "graph.onnx")
    found = "\n".join(tensorrt_objections(tmp_path / "graph.onnx"))
    for what in ("domain sparse4d", "wide: float64", "NonZero", "TopK", "Softmax"):
        assert what in found, what


def test_the_example_needs_nothing_of_ours(onnx_folder, pipeline, tmp_path):
    """In a folder of its own, without this package; its boxes are those of the pipeline on the same JPEGs."""
    program = (onnx_folder / "detect.py").read_text()
    assert len(program.splitlines()) <= 75
    command = [sys.executable, "-I", str(onnx_folder / "detect.py"), str(onnx_folder / "frames")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    state, expected = None, []
    for entry in json.loads((onnx_folder / "frames" / "frames.json").read_text()):
        images = [np.asarray(Image.open(onnx_folder / "frames" / name))[..., ::-1] for name in entry["images"]]
        frame = Frame(
            images=tuple(np.ascontiguousarray(image) for image in images),
            **{name: np.array(entry[name]) for name in ("intrinsics", "T_cam_from_model", "T_global_from_model")},
            stamp_ns=round(entry["seconds"] * 1e9),
        )
        result = pipeline.step(frame, state)
        state, found = result.state, result.detections
        expected += [
            (found.ids[row], found.scores[row], found.boxes[row]) for row in np.flatnonzero(found.scores > 0.3)
        ]
    assert len(printed) == len(expected) > 3
    for line, (number, score, box) in zip(printed, expected, strict=True):
        assert line["id"] == number
        np.testing.assert_allclose([line["score"], *line["box"]], [score, *box], atol=2e-3)


def test_a_graph_that_differs_is_not_written(monkeypatch, pipeline, tmp_path):
    """Its weights are not the model's: one bias of the last layer is off."""
    other = small_pipeline()
    other.model.decoder.layers[-1].refine.layers[-2].bias.data[0] += SHIFTED
    monkeypatch.setattr(exporter, "write_graph", lambda *arguments: arguments[4].write_bytes(b"graph") and [])
    monkeypatch.setattr(exporter, "Artefact", lambda folder: InPyTorch(other))
    with pytest.raises(ProofError, match=r"over 8 frames .* in boxes \(allowed 0.001\).*it is not written"):
        export_step(pipeline, ExportOptions("pt2"), tmp_path / "step")
    assert list(tmp_path.iterdir()) == []


def test_an_overlap_that_is_too_small_is_not_written(pipeline):
    """Leaving out every second view of a point is seen by the proof."""
    difference = run_both(pipeline, InPyTorch(pipeline, overlap=1), drive(SMALL, count=2), fed=True)
    assert not difference.within(TOLERANCES["float32"])


def test_lost_boxes_and_other_ids_are_seen(pipeline):
    found = pipeline.step(drive(SMALL, count=1)[0]).detections
    assert compare(found, found, False, None).within(TOLERANCES["float32"])
    moved = replace(found, boxes=found.boxes + np.float32(2e-3))
    assert not compare(found, moved, False, None).within(TOLERANCES["float32"])
    far = found.boxes.copy()
    far[0, 0] += 50
    assert compare(found, replace(found, boxes=far), False, None).lost == 2, "one on each side"
    assert compare(found, replace(found, ids=found.ids[::-1]), False, None).other_ids > 0
    assert not Difference().within(TOLERANCES["float32"]), "nothing compared proves nothing"


def test_the_shipped_weights_pass_the_proof_with_the_portable_operator():
    """The step itself, in PyTorch: what a graph of standard operators cannot do better."""
    pipeline = Pipeline.from_preset("demo")
    frames = drive(pipeline.config)
    minute = frames[-1].stamp_ns + 60 * 10**9 - frames[0].stamp_ns
    another_scene = [replace(frame, stamp_ns=frame.stamp_ns + minute) for frame in frames[:2]]
    found = run_both(pipeline, InPyTorch(pipeline), [*frames, *another_scene], fed=False)
    assert found.compared > 300 and found.within(TOLERANCES["float32"]), found
    assert not replace(found, confidences=0.01).within(TOLERANCES["float32"])


def test_sides_that_random_weights_drive_beyond_float32_are_compared_relative_to_their_length():
    """As v3_r50's without weights: sides of kilometres, whose rounding would be taken for another box."""
    pipeline = small_pipeline()
    pipeline.model.decoder.layers[-1].refine.layers[-1].scale.data[3:6] += 30  # of the logarithms' change
    frames = drive(SMALL, count=2)
    longest = pipeline.step(frames[0]).detections.boxes[:, 3:6].max()
    assert longest > 1e4
    difference = run_both(pipeline, InPyTorch(pipeline), frames, fed=True)
    assert difference.within(TOLERANCES["float32"]), difference


def test_where_random_weights_amplify_rounding_a_step_may_differ_as_pytorch_does_from_itself():
    """And by no more: a small fault is still refused, and so is what trained weights would not explain."""
    pipeline, frames = small_pipeline(), drive(SMALL, count=3)
    amplified = 2e4  # so far away that a step of float32 is millimetres
    pipeline.model.decoder.layers[-1].refine.layers[-1].scale.data[:3] = amplified
    row = prove(pipeline, runnable(InPyTorch(pipeline)), frames)
    assert TOLERANCES["float32"].boxes < row["boxes"] <= row["boxes_allowed"] <= ROUGHEST
    faulty = small_pipeline()
    faulty.model.load_state_dict(pipeline.model.state_dict())
    faulty.model.decoder.layers[-1].refine.layers[-2].bias.data[0] += 1.5 * ROUGHEST / amplified
    with pytest.raises(ProofError, match="it is not written"):
        prove(pipeline, runnable(InPyTorch(faulty)), frames)
    pipeline.trained = True
    with pytest.raises(ProofError, match=r"allowed 0.001"):
        prove(pipeline, runnable(InPyTorch(pipeline)), frames)


def runnable(artefact: InPyTorch) -> InPyTorch:
    artefact.runs_on = "PyTorch"
    return artefact


def test_sides_of_real_objects_and_of_trained_weights_are_compared_in_metres(pipeline):
    found = pipeline.step(drive(SMALL, count=1)[0]).detections
    for length, trained, same in ((9.0, False, False), (9e4, False, True), (9e4, True, False)):
        boxes = found.boxes.copy()
        boxes[:, 3] = length
        longer = boxes.copy()
        longer[:, 3] += 0.008
        ours, theirs = (replace(found, boxes=b, scores=found.scores + 1) for b in (boxes, longer))
        assert compare(ours, theirs, trained, None).within(TOLERANCES["float32"]) == same, (length, trained)


def test_the_command(onnx_folder, small_preset, tmp_path, capsys, monkeypatch):
    save_checkpoint(tmp_path / "small.pt", small_pipeline().model)
    monkeypatch.setattr(exporter, "write_graph", lambda *arguments: arguments[4].write_bytes(b"graph") and [])
    monkeypatch.setattr(exporter, "proofs", lambda *arguments: [{"boxes": 0.0}])
    monkeypatch.setattr(exporter, "Artefact", lambda folder: None)
    arguments = ["--model", "demo", "--checkpoint", str(tmp_path / "small.pt"), "--format", "pt2"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert '{"boxes": 0.0}' in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "step.pt2"]
    monkeypatch.setattr(exporter, "write_graph", lambda *arguments: pytest.fail("traced"))
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "exists and is no empty folder; choose another one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "aoti", "--operator", "native", "--cameras", "any"], "any number needs portable"),
        (["--format", "onnx", "--precision", "bfloat16"], "onnxruntime has no bfloat16 convolution"),
        (["--format", "onnx", "--overlap", "6"], "overlap: expected less than the 6 cameras, got 6"),
        (["--format", "aoti", "--overlap", "2"], "overlap: expected a number from 1 on, with the portable operator"),
        (
            ["--format", "onnx", "--cameras", "any", "--overlap", "12"],
            "overlap: expected less than 12, the most cameras",
        ),
        (["--format", "onnx", "--cameras", "-1"], "cameras: expected a number from 1 on"),
    ],
    ids=str,
)
def test_combinations_that_do_not_exist(arguments, message, tmp_path, capsys):
    assert main(["--model", "demo", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_v1_is_refused_before_its_weights_are_asked_for(tmp_path, capsys):
    assert main(["--model", "v1_r101_t1", "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "v1 is not exported" in message and "take a v2 or v3 preset" in message


def test_any_number_of_cameras(pipeline, tmp_path):
    """One file for three and for six."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements/export.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    inputs, outputs = interface.inputs(SMALL, interface.ANY_NUMBER, "normalized"), interface.outputs(SMALL, None)
    program = trace(RecurrentStep(pipeline.model).eval(), inputs, interface.ANY_NUMBER)
    write_onnx(program, tmp_path / "any.onnx", *([spec.name for spec in specs] for specs in (inputs, outputs)))
    artefact = InPyTorch(pipeline)
    artefact.manifest.cameras = interface.ANY_NUMBER
    artefact._run = run_by_onnxruntime(tmp_path / "any.onnx", "cpu")[0]
    for cameras in (3, 6):
        assert run_both(pipeline, artefact, drive(SMALL, cameras, 2), fed=True).within(TOLERANCES["float32"])


def test_any_number_of_cameras_with_an_overlap(pipeline, tmp_path):
    """Of as many cameras as may see a point, and of more; fewer are refused in words."""
    options, path = ExportOptions("pt2", interface.ANY_NUMBER, overlap=3), tmp_path / "step.pt2"
    inputs, outputs = interface.inputs(SMALL, options.cameras, "normalized"), interface.outputs(SMALL, options.overlap)
    exporter.write_graph(pipeline, options, inputs, outputs, path, ())
    artefact = InPyTorch(pipeline, overlap=3)
    artefact.manifest.cameras, artefact._run = interface.ANY_NUMBER, run_by_export(path)
    for cameras in (3, 6):
        assert run_both(pipeline, artefact, drive(SMALL, cameras, 2), fed=True).within(TOLERANCES["float32"])
    with pytest.raises(ValueError, match="made with an overlap of 3, which takes as many cameras, got 2"):
        artefact.step(preprocess(drive(SMALL, 2, 1)[0], SMALL), TemporalState())


@pytest.mark.parametrize(("overlap", "counts"), [(None, [6, 4]), (3, [6, 4]), (5, [6, 5]), (6, [7, 6])])
def test_a_graph_for_any_number_is_proved_beyond_its_overlap(pipeline, monkeypatch, overlap, counts):
    monkeypatch.setattr(exporter, "prove", lambda pipeline, artefact, frames: {"cameras": len(frames[0].images)})
    rows = exporter.proofs(pipeline, InPyTorch(pipeline, overlap=overlap), interface.ANY_NUMBER)
    assert [row["cameras"] for row in rows] == counts


def test_an_overlap_is_proved_for_a_rig_of_more_cameras_than_the_drive_has(pipeline):
    """A repeated camera gives points twice the views of a ring."""
    artefact = runnable(InPyTorch(pipeline, overlap=2))
    artefact.manifest.cameras = 8
    (row,) = exporter.proofs(pipeline, artefact, 8)
    assert row["cameras"] == 8 and artefact.views_left_out == 0
    assert all(image is not None for image in drive(SMALL, 8, 1)[0].images), "without an overlap every camera counts"
    shown = [[image is not None for image in frame.images] for frame in drive(SMALL, 8, 2, repeated=False)]
    assert [sum(frame) for frame in shown] == [6, 6] and all(map(any, zip(*shown, strict=True))), "each is proved"


def test_what_is_published_is_compared():
    """Published presets give no vertical velocity, the demo no box twice: both come after the graph."""
    pipeline = small_pipeline()
    pipeline.model.config = replace(SMALL, vertical_velocity=False, min_separation=1.0)
    difference = run_both(pipeline, InPyTorch(pipeline), drive(SMALL), fed=True)
    assert difference.compared > 50 and difference.lost == 0 and difference.boxes < 1e-3
