"""An exported step in the pipeline, and every reason not to take one: named before the first frame."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from exported_steps import SMALL

from sparse4d_core.checkpoint.weights import save_checkpoint
from sparse4d_core.export.drive import drive
from sparse4d_core.export.manifest import model_dict, read_manifest
from sparse4d_core.inference.artefact import Artefact
from sparse4d_core.inference.artefact_checks import check_machine, check_model
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.runtimes import chosen_providers, run_by_onnxruntime
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState
from sparse4d_core.preprocess import preprocess

pytestmark = pytest.mark.usefixtures("small_preset")


def load(folder, backend: str = "onnxruntime", **options) -> Pipeline:
    return Pipeline.from_preset("demo", backend=backend, artefact=folder, **options)


def test_the_pipeline_runs_it_like_the_network(onnx_folder, pipeline):
    """With a stride: the frames in between look at the same memory and give no new ids."""
    exported, torch_pipeline = load(onnx_folder, temporal_stride=0.5), Pipeline(pipeline.model, temporal_stride=0.5)
    assert (exported.backend, torch_pipeline.backend) == ("onnxruntime (cpu)", "torch")
    states = [None, None]
    for number, frame in enumerate(drive(SMALL)):
        expected, found = torch_pipeline.step(frame, states[0]), exported.step(frame, states[1])
        assert (found.state is states[1]) == (expected.state is states[0]) == (number in (3, 7))
        states = [expected.state, found.state]
        np.testing.assert_allclose(found.detections.boxes, expected.detections.boxes, atol=1e-3)
        np.testing.assert_array_equal(found.detections.ids, expected.detections.ids)
        np.testing.assert_array_equal(found.tracks.ids, expected.tracks.ids)
        assert found.reset == expected.reset
        assert list(found.timings_ms) == ["preprocess", "network", "decode"]


@pytest.mark.parametrize("memories", ["two", "interleaved"])
def test_several_memories_are_its_arguments_like_one(onnx_folder, pipeline, memories):
    """Frames faster than the stride, a jump and a gap: which memory goes in is decided before the step."""
    options = {"temporal_stride": 1.2, "memories": memories}
    pipelines = Pipeline(pipeline.model, **options), load(onnx_folder, **options)
    states = [None, None]
    for frame in drive(SMALL):
        expected, found = (one.step(frame, state) for one, state in zip(pipelines, states, strict=True))
        states = [expected.state, found.state]
        np.testing.assert_allclose(found.detections.boxes, expected.detections.boxes, atol=1e-3)
        np.testing.assert_array_equal(found.detections.ids, expected.detections.ids)
        np.testing.assert_array_equal(found.tracks.ids, expected.tracks.ids)
        assert found.reset == expected.reset


def test_the_memory_is_a_value(onnx_folder):
    first, second, _ = drive(SMALL, count=3)
    exported = load(onnx_folder)
    state = exported.step(first).state
    once, again = exported.step(second, state), exported.step(second, state)
    np.testing.assert_array_equal(once.detections.boxes, again.detections.boxes)


def test_a_missing_camera_is_masked(onnx_folder, pipeline):
    frame = drive(SMALL, count=1)[0]
    frame = replace(frame, images=(None, *frame.images[1:]))
    expected, found = pipeline.step(frame), load(onnx_folder).step(frame)
    np.testing.assert_allclose(found.detections.boxes, expected.detections.boxes, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"artefact: .* holds no manifest.json; expected a folder that `python -m"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 99}, "is of version 99, expected 1; export the model again"),
        ({"preset": "v3_r50"}, "a step of v3_r50, but model is demo"),
        ({"format": "aoti"}, "unknown format 'aoti'"),
        ({"scene_reset": "reference"}, "exported with scene_reset reference, asked for clean"),
        ({"surprise": 1}, "damaged"),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit(changed, values, message):
    with pytest.raises(ValueError, match=message):
        load(changed(**values))


def test_a_preset_that_changed(onnx_folder, changed):
    config = read_manifest(onnx_folder).config
    folder = changed(config=config | {"image": config["image"] | {"input_wh": [64, 32]}})
    with pytest.raises(ValueError, match=r"image of its demo is .*\[64, 32\].*, here it is .*\[88, 32\]"):
        load(folder)


def test_what_a_checkpoint_brings_is_the_artefacts_own(changed):
    """Weights trained otherwise than the preset's, such as the demo's of revision 187d54c."""
    temporal = replace(SMALL.temporal, rate_invariant=not SMALL.temporal.rate_invariant)
    config = replace(SMALL, vertical_velocity=not SMALL.vertical_velocity, temporal=temporal)
    assert load(changed(config=model_dict(config))).config == config


def test_another_memory_is_not(onnx_folder):
    config = replace(SMALL, temporal=replace(SMALL.temporal, num_instances=8))
    manifest = replace(read_manifest(onnx_folder), config=model_dict(config))
    with pytest.raises(ValueError, match="temporal of its demo is .*'num_instances': 8.*; export the model again"):
        check_model(manifest, SMALL, "clean")


def test_another_image_size(onnx_folder):
    inputs = preprocess(drive(SMALL, count=1)[0], SMALL)
    with pytest.raises(ValueError, match="made for images of 88x32 pixels, got 80x32"):
        Artefact(onnx_folder).step(replace(inputs, images=inputs.images[..., :80]), TemporalState())


def test_another_number_of_cameras(onnx_folder):
    with pytest.raises(ValueError, match="made for 6 cameras, got 4; export it with --cameras 4"):
        load(onnx_folder).check_cameras(4)


def test_a_damaged_or_incomplete_folder(onnx_folder, tmp_path):
    folder = shutil.copytree(onnx_folder, tmp_path / "step")
    with (folder / "step.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="step.onnx is not what was exported"):
        load(folder)
    (folder / "step.onnx").unlink()
    with pytest.raises(ValueError, match="lacks step.onnx"):
        load(folder)


def test_other_weights(onnx_folder, pipeline, tmp_path):
    save_checkpoint(tmp_path / "same.pt", pipeline.model)
    assert load(onnx_folder, checkpoint=tmp_path / "same.pt").artefact is not None
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other.pt", Sparse4D(SMALL))
    with pytest.raises(ValueError, match="exported with other weights than those of checkpoint .*other.pt"):
        load(onnx_folder, checkpoint=tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorflow"}, "backend: expected one of torch, aoti, onnxruntime, tensorrt, got 'tensorflow'"),
        ({"backend": "torch"}, "artefact: .* is given, but backend is torch"),
        ({"backend": "aoti"}, "backend aoti runs the format aoti, this is onnx"),
        ({"device": "cuda"}, "device: backend onnxruntime takes its tensors from the CPU"),
        ({"compile": True}, "compile: only backend torch compiles"),
        ({"providers": "gpu"}, "providers: unknown provider 'gpu'; expected some of cpu, cuda, tensorrt, openvino"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(onnx_folder, options, message):
    with pytest.raises(ValueError, match=message):
        load(onnx_folder, **options)


def test_a_backend_without_its_folder():
    with pytest.raises(ValueError, match="artefact: backend aoti runs an exported step; name its folder"):
        load(None, "aoti")


def test_providers_are_asked_in_the_order_given():
    available = ["CPUExecutionProvider", "CUDAExecutionProvider"]
    assert chosen_providers("CUDA, cpu", available) == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(ValueError, match="this onnxruntime has no provider 'tensorrt', but cpu, cuda"):
        chosen_providers("tensorrt,cpu", available)


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt", "openvino"])
def test_whether_a_gpu_runs_it_is_up_to_the_provider(onnx_folder, monkeypatch, provider):
    monkeypatch.setattr("sparse4d_core.inference.artefact.run_by_onnxruntime", lambda *_: (None, provider))
    assert load(onnx_folder).on_gpu == (provider in ("cuda", "tensorrt"))


@pytest.mark.parametrize(
    ("policy", "entries"), [("PASSIVE", [("session.intra_op.allow_spinning", "0")]), ("active", [])]
)
def test_onnxruntimes_threads_wait_as_those_of_pytorch_do(onnx_folder, monkeypatch, policy, entries):
    """Node and replay ask for threads that sleep: others on the machine have work to do."""
    onnxruntime = pytest.importorskip("onnxruntime")
    asked = []

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, name, value):
            asked.append((name, value))
            super().add_session_config_entry(name, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    run_by_onnxruntime(onnx_folder / "step.onnx", "cpu")
    assert asked == entries


def test_a_missing_or_other_operator_library(onnx_folder, monkeypatch):
    """Of compiled code; for ONNX see test_onnx_operator.py."""
    manifest = replace(read_manifest(onnx_folder), format="pt2", operator="native")
    with pytest.raises(ValueError, match="built with operator library None, here it is torch.*; export it on this"):
        check_machine(manifest)
    monkeypatch.setattr("sparse4d_core.inference.artefact_checks.kernels_loaded", lambda device: False)
    with pytest.raises(
        ValueError, match="calls our operator, which is not compiled here; run: python -m cuda_ops.build"
    ):
        check_machine(manifest)


def test_compiled_code_of_another_processor(onnx_folder):
    built_with = {"torch": torch.__version__, "processor": "riscv64 V"}
    manifest = replace(read_manifest(onnx_folder), format="aoti", built_with=built_with)
    with pytest.raises(ValueError, match="built with processor riscv64 V, here it is"):
        check_machine(manifest)


def test_without_onnxruntime(onnx_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="backend: onnxruntime is not installed; install requirements/export.txt"):
        load(onnx_folder)
