"""The builder of TensorRT's engines, with a stand-in for TensorRT: its "engine" is the ONNX graph, run by onnxruntime.

What only TensorRT can answer is in test/gpu/test_gpu_tensorrt.py.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exported_steps import SMALL

from sparse4d_core.checkpoint.weights import save_checkpoint
from sparse4d_core.export.drive import drive
from sparse4d_core.export.interface import ANY_NUMBER
from sparse4d_core.export.manifest import read_manifest
from sparse4d_core.export.proof import ProofError
from sparse4d_core.export.tensorrt_engine import build_engine, main, write_engine
from sparse4d_core.inference import artefact_checks, tensorrt_runtime
from sparse4d_core.inference.artefact import Artefact
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D

pytestmark = pytest.mark.usefixtures("small_preset")
KINDS = {"tensor(float)": "FLOAT", "tensor(int64)": "INT64"}
SIZES = {"FLOAT": np.float32, "INT64": np.int64}


class StandIn:
    """As much of the module `tensorrt` as is called; what it was asked to do is in `config` and `network`."""

    __version__, __spec__ = "11.4.0", importlib.machinery.ModuleSpec("tensorrt", None)  # some look for it
    Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, severity: None})
    TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")
    MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    BuilderFlag = enum.Enum("BuilderFlag", "TF32")
    off = 0.0  # added to every float output
    parses = builds = True

    def __init__(self):
        self.loaded: list[str] = []
        self.registry = SimpleNamespace(load_library=lambda path: self.loaded.append(path) or "handle")

    def get_plugin_registry(self):
        return self.registry

    def Builder(self, logger):  # noqa: N802
        return SimpleNamespace(
            create_network=self.create_network,
            create_builder_config=self.create_builder_config,
            create_optimization_profile=lambda: SimpleNamespace(shapes={}, set_shape=self.set_shape),
            build_serialized_network=lambda network, config: network.graph if self.builds else None,
        )

    def create_network(self, flags):
        inputs = [SimpleNamespace(name="images", shape=(1, -1, 3, 8, 8)), SimpleNamespace(name="interval", shape=(1,))]
        self.network = SimpleNamespace(flags=flags, num_inputs=2, get_input=inputs.__getitem__)
        return self.network

    def create_builder_config(self):
        self.config = SimpleNamespace(flags=set(), cleared=set(), profiles=[], cache=None)
        self.config.set_memory_pool_limit = lambda pool, size: setattr(self.config, "workspace", size)
        self.config.set_flag, self.config.clear_flag = self.config.flags.add, self.config.cleared.add
        self.config.add_optimization_profile = self.config.profiles.append
        self.config.create_timing_cache = lambda known: SimpleNamespace(known=known, serialize=lambda: known + b"more")
        self.config.set_timing_cache = lambda cache, ignore_mismatch: setattr(self.config, "cache", cache)
        return self.config

    def set_shape(self, name, *sizes):
        self.profile = {name: sizes}

    def OnnxParser(self, network, logger):  # noqa: N802
        def parse_from_file(path):
            network.graph = open(path, "rb").read()
            return self.parses

        return SimpleNamespace(
            parse_from_file=parse_from_file, num_errors=1, get_error=["no such operator"].__getitem__
        )

    def Runtime(self, logger):  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda graph: Engine(self, graph) if self.builds else None)


class Engine:
    def __init__(self, trt: StandIn, graph: bytes):
        import onnxruntime

        self.trt, self.session = trt, onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()
        self.tensors = {entry.name: entry for entry in (*self.inputs, *self.outputs)}
        self.names, self.num_io_tensors = list(self.tensors), len(self.tensors)
        self.shapes, self.addresses = {entry.name: tuple(entry.shape) for entry in self.tensors.values()}, {}
        self.set_input_shape, self.set_tensor_address = self.shapes.__setitem__, self.addresses.__setitem__
        self.get_tensor_shape = self.shapes.__getitem__

    def create_execution_context(self):
        return self

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        modes = self.trt.TensorIOMode
        return modes.INPUT if name in [entry.name for entry in self.inputs] else modes.OUTPUT

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=KINDS[self.tensors[name].type])

    def memory(self, name) -> np.ndarray:
        """What lies at the tensor's address."""
        dtype, shape = SIZES[KINDS[self.tensors[name].type]], self.shapes[name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype).reshape(shape)

    def execute_async_v3(self, stream):
        found = self.session.run(None, {entry.name: self.memory(entry.name) for entry in self.inputs})
        for entry, array in zip(self.outputs, found, strict=True):
            self.memory(entry.name)[...] = array + (self.trt.off if entry.name == "boxes" else 0)
        return True


@pytest.fixture
def trt(monkeypatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    monkeypatch.setattr(tensorrt_runtime, "DEVICE", "cpu")
    monkeypatch.setattr(tensorrt_runtime.load_plugin, "done", False, raising=False)
    for module in ("sparse4d_core.inference.artefact_checks", "sparse4d_core.export.tensorrt_engine"):
        monkeypatch.setattr(f"{module}.gpu_name", lambda: "GPU")
    return stand_in


@pytest.fixture
def engine_folder(trt, pipeline, onnx_folder, tmp_path):
    write_engine(pipeline, onnx_folder, tmp_path / "engine", timing_cache=tmp_path / "timing.cache")
    return tmp_path / "engine"


def test_an_engine_is_built_proved_and_run_like_the_network(trt, engine_folder, pipeline, onnx_folder, tmp_path):
    manifest = read_manifest(engine_folder)
    (proof,) = manifest.accuracy
    assert proof["frames"] == 8 and proof["boxes"] < 1e-3 and proof["runs_on"] == "tensorrt"
    assert (manifest.format, manifest.device, manifest.file) == ("tensorrt", "cuda", "step.engine")
    assert (manifest.built_with["tensorrt"], manifest.built_with["gpu"]) == ("11.4.0", "GPU")
    assert trt.network.flags == 2 and trt.config.flags == set(), "types are the graph's"
    assert trt.config.cleared == {trt.BuilderFlag.TF32} and trt.config.workspace == 4 << 30
    assert (tmp_path / "timing.cache").read_bytes() == b"more"
    exported = Pipeline.from_preset("demo", backend="tensorrt", artefact=engine_folder)
    assert exported.on_gpu and not pipeline.on_gpu, "though both have their tensors on the CPU"
    states = [None, None]
    for frame in drive(SMALL, count=2):
        expected, found = pipeline.step(frame, states[0]), exported.step(frame, states[1])
        states = [expected.state, found.state]
        np.testing.assert_allclose(found.detections.boxes, expected.detections.boxes, atol=1e-3)
        np.testing.assert_array_equal(found.detections.ids, expected.detections.ids)


def test_what_was_timed_before_is_taken(trt, onnx_folder, tmp_path):
    (tmp_path / "timing.cache").write_bytes(b"known")
    build_engine(trt, onnx_folder / "step.onnx", read_manifest(onnx_folder), timing_cache=tmp_path / "timing.cache")
    assert trt.config.cache.known == b"known" and (tmp_path / "timing.cache").read_bytes() == b"knownmore"


def test_an_engine_that_differs_is_not_written(trt, pipeline, onnx_folder, tmp_path):
    trt.off = 0.01
    with pytest.raises(ProofError, match="it is not written"):
        write_engine(pipeline, onnx_folder, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_refused_before_the_engine_is_built(trt, pipeline, onnx_folder, tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ValueError, match="out: .* exists and is no empty folder; choose another one"):
        write_engine(pipeline, onnx_folder, tmp_path)
    assert not hasattr(trt, "network")


def test_lower_precisions_are_asked_of_a_tensorrt_that_has_them(trt, onnx_folder):
    graph, manifest = onnx_folder / "step.onnx", read_manifest(onnx_folder)
    with pytest.raises(ValueError, match=r"TensorRT 11.4.0 takes precisions from the graph alone; .* float16"):
        build_engine(trt, graph, manifest, allow=["float16"])
    trt.BuilderFlag = enum.Enum("BuilderFlag", "TF32 FP16")
    build_engine(trt, graph, manifest, allow=["float16"], tf32=True)
    assert (trt.network.flags, trt.config.flags, trt.config.cleared) == (0, {trt.BuilderFlag.FP16}, set())


@pytest.mark.parametrize(
    ("precision", "allow", "proved_as"),
    [("int8", ["float16"], "int8"), ("float32", ["bfloat16", "float16"], "bfloat16"), ("float32", [], "float32")],
    ids=str,
)
def test_an_engine_is_proved_as_the_roughest_of_its_precisions(
    trt, pipeline, changed, tmp_path, monkeypatch, precision, allow, proved_as
):
    trt.BuilderFlag = enum.Enum("BuilderFlag", "TF32 FP16 BF16")
    monkeypatch.setattr("sparse4d_core.export.tensorrt_engine.proofs", lambda *arguments: [])
    assert write_engine(pipeline, changed(precision=precision), tmp_path / "engine", allow=allow).precision == proved_as


def test_any_number_of_cameras_has_a_profile(trt, onnx_folder):
    build_engine(trt, onnx_folder / "step.onnx", replace(read_manifest(onnx_folder), cameras=ANY_NUMBER))
    assert trt.profile == {"images": ([1, 1, 3, 8, 8], [1, 6, 3, 8, 8], [1, 12, 3, 8, 8])}
    assert len(trt.config.profiles) == 1
    build_engine(trt, onnx_folder / "step.onnx", replace(read_manifest(onnx_folder), cameras=ANY_NUMBER, overlap=3))
    assert trt.profile == {"images": ([1, 3, 3, 8, 8], [1, 6, 3, 8, 8], [1, 12, 3, 8, 8])}


def test_our_operator_is_loaded_before_the_graph(trt, onnx_folder, monkeypatch):
    manifest = replace(read_manifest(onnx_folder), operator="native")
    monkeypatch.setattr(tensorrt_runtime, "plugin_library", lambda plugin: None)
    with pytest.raises(ValueError, match="run: python -m cuda_ops.build --tensorrt-headers FOLDER"):
        build_engine(trt, onnx_folder / "step.onnx", manifest)
    monkeypatch.setattr(tensorrt_runtime, "plugin_library", lambda plugin: f"{plugin.name}.so")
    for _ in range(2):
        build_engine(trt, onnx_folder / "step.onnx", manifest)
    assert trt.loaded == ["sparse4d_tensorrt.so"], "once a process"


def test_refusals_have_the_reason(trt, onnx_folder, tmp_path, monkeypatch, capsys):
    def refused(*arguments: str) -> str:
        assert main([str(onnx_folder), "--out", str(tmp_path / "engine"), *arguments]) == 2
        assert not (tmp_path / "engine").exists()
        return capsys.readouterr().err

    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other.pt", Sparse4D(SMALL))
    message = refused("--checkpoint", str(tmp_path / "other.pt"))
    assert "exported with other weights than those of this model; name its checkpoint" in message
    assert "absent.pt" in refused("--checkpoint", str(tmp_path / "absent.pt"))
    trt.parses = False
    with pytest.raises(ValueError, match=r"TensorRT 11.4.0 does not take .*: no such operator"):
        build_engine(trt, onnx_folder / "step.onnx", read_manifest(onnx_folder))
    trt.parses, trt.builds = True, False
    with pytest.raises(ValueError, match="built no engine"):
        build_engine(trt, onnx_folder / "step.onnx", read_manifest(onnx_folder))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ValueError, match="tensorrt cannot be imported"):
        tensorrt_runtime.import_tensorrt()


def test_an_engine_of_another_machine(trt, engine_folder, monkeypatch):
    monkeypatch.setattr(artefact_checks, "gpu_name", lambda: "another GPU")
    with pytest.raises(ValueError, match="built with gpu GPU, here it is another GPU; export it on this machine"):
        Artefact(engine_folder)
    monkeypatch.setattr(artefact_checks, "gpu_name", lambda: "GPU")
    trt.builds = False
    with pytest.raises(ValueError, match="cannot read .*step.engine; build the engine on this machine"):
        Artefact(engine_folder)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="engines are built and run on a GPU"):
        tensorrt_runtime.gpu_name()
