"""Our kernels in other runtimes: onnxruntime's custom operator against the reference, TensorRT's plugin on the host.

The latter is compiled against headers that no wheel carries. The environment variables name the folders of either's;
without them, what needs them is skipped.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import subprocess

import numpy as np
import pytest
import torch

from cuda_ops import plugins, reference
from cuda_ops.build import main
from cuda_ops.library import CSRC
from cuda_ops.plugins import DOMAIN, NODE, NODE_VERSION, ONNXRUNTIME, TENSORRT, build_plugin, plugin_library
from cuda_ops.toolchain import cuda_headers, find_nvcc
from ops.inputs import fused_arguments
from ops.pretended_machine import Machine

HEADERS = {ONNXRUNTIME: "SPARSE4D_ONNXRUNTIME_HEADERS", TENSORRT: "SPARSE4D_TENSORRT_HEADERS"}
HERE = pathlib.Path(__file__).parent


def headers(plugin: plugins.Plugin) -> pathlib.Path:
    if not os.environ.get(HEADERS[plugin]):
        pytest.skip(f"needs {plugin.header}: set {HEADERS[plugin]} to its folder")
    return pathlib.Path(os.environ[HEADERS[plugin]])


# ---------------------------------------------------------------------------------------------------------- onnxruntime


@pytest.fixture(scope="module")
def custom_op() -> pathlib.Path:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")
    return build_plugin(ONNXRUNTIME)


def run_node(library: pathlib.Path, arguments, **changes) -> np.ndarray:
    """The node alone in a graph."""
    import onnx
    import onnxruntime

    features, shapes, starts, *others = arguments
    arrays = [tensor.numpy() for tensor in (features, *others)]
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for array in arrays]
    names = ["features", "key_points", "projection", "image_wh", "weights"]
    attributes = {"spatial_shapes": shapes.flatten().tolist(), "scale_start_index": starts.flatten().tolist()} | changes
    node = onnx.helper.make_node(NODE, names, ["output"], domain=DOMAIN, **attributes)
    inputs = [onnx.helper.make_tensor_value_info(n, k, a.shape) for n, k, a in zip(names, kinds, arrays, strict=True)]
    output = onnx.helper.make_tensor_value_info("output", kinds[0], None)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", inputs, [output]), opset_imports=opsets)
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, arrays, strict=True)))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("anchors", [7, 300])
def test_the_custom_operator_is_the_reference(custom_op, anchors, dtype):
    """300 anchors in two samples: several tasks, one of them with rows of both."""
    arguments = fused_arguments(anchors=anchors, dtype=dtype)
    wide = (arguments[0].float(), *arguments[1:])
    expected = reference.fused_deformable_aggregation(*wide).numpy()
    found = run_node(custom_op, arguments)
    assert found.dtype == arguments[0].numpy().dtype
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=torch.finfo(dtype).eps * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale_start_index": [0, 54, 69]}, "expected two sizes and one start for every map, got 8 and 3"),
        ({"spatial_shapes": [6, 9, 3, 5, 4, 4, 0, 2]}, r"expected positive sizes, got \[0, 2\]"),
        ({"scale_start_index": [0, 54, 69, 86]}, r"features: the maps need 90 rows, got \[2, 89, 32\]"),
        ({"spatial_shapes": [6, 9], "scale_start_index": [0]}, "weights: expected cameras and levels of 1 maps"),
    ],
    ids=str,
)
def test_a_node_that_does_not_fit_is_named(custom_op, changes, message):
    with pytest.raises(Exception, match=message):
        run_node(custom_op, fused_arguments(), **changes)


def test_what_it_takes_of_the_interface_is_where_onnxruntimes_headers_have_it():
    assert build_plugin(ONNXRUNTIME, headers(ONNXRUNTIME)).is_file()


# ------------------------------------------------------------------------------------------------------------- TensorRT


class Field(ctypes.Structure):
    """nvinfer1::PluginField."""

    _fields_ = [  # noqa: RUF012
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]


class Described(ctypes.Structure):
    """Tensor of tensorrt_on_host.cpp."""

    _fields_ = [  # noqa: RUF012
        ("rank", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("size", ctypes.c_int64 * 8),
        ("data", ctypes.c_void_p),
    ]


INTEGERS = {np.int32: 5, np.int64: 10}  # PluginFieldType
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 7}  # DataType


@pytest.fixture(scope="module")
def plugin_on_host(tmp_path_factory) -> ctypes.CDLL:
    """The plugin with the CUDA kernels run on the host, and a stand-in for TensorRT around it."""
    folder = headers(TENSORRT)
    if find_nvcc() is None:
        pytest.skip("TensorRT's headers need CUDA's: no nvcc")
    library = tmp_path_factory.mktemp("tensorrt") / "on_host.so"
    includes = [f"-I{CSRC}", *(f"-isystem{path}" for path in (folder, *cuda_headers(find_nvcc())))]
    sources = [CSRC / "tensorrt/plugin.cpp", HERE / "launch_on_host.cpp", HERE / "tensorrt_on_host.cpp"]
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas", *includes]
    done = subprocess.run([*command, *map(str, sources), "-o", str(library)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def run_plugin(library: ctypes.CDLL, arguments, starts=None, output_type=None, integer=np.int32):
    """The step that failed (0: none), what was logged, and the output."""
    features, shapes, given, *others = arguments
    output = features.new_zeros(len(features), others[3].shape[1], features.shape[2], dtype=output_type)
    tensors = [*(tensor.contiguous() for tensor in (features, *others)), output]
    described = (Described * 6)(
        *(Described(t.dim(), TYPES[t.dtype], (ctypes.c_int64 * 8)(*t.shape), t.data_ptr()) for t in tensors)
    )
    tables = {"spatial_shapes": shapes, "scale_start_index": given if starts is None else starts}
    arrays = {name: np.ascontiguousarray(table.flatten().numpy().astype(integer)) for name, table in tables.items()}
    fields = (Field * 2)(
        *(Field(name.encode(), a.ctypes.data, INTEGERS[integer], a.size) for name, a in arrays.items())
    )
    message = ctypes.create_string_buffer(300)
    step = library.run_plugin(fields, 2, described, message, len(message))
    return step, message.value.decode(), output


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_plugin_is_the_reference(plugin_on_host, dtype):
    """Built, serialized, read and run, as TensorRT would."""
    arguments = fused_arguments(dtype=dtype)
    expected = reference.fused_deformable_aggregation(arguments[0].float(), *arguments[1:])
    for integer in INTEGERS:  # as parsers may give the attributes
        step, message, output = run_plugin(plugin_on_host, arguments, integer=integer)
        assert (step, message) == (0, "")
        torch.testing.assert_close(output.float(), expected, atol=1e-5, rtol=2 * torch.finfo(dtype).eps)


def test_a_graphs_node_finds_the_plugin(plugin_on_host):
    """As export/onnx_operator.py writes it: by type, version and namespace."""
    plugin_on_host.plugin_identity.restype = ctypes.c_char_p
    assert plugin_on_host.plugin_identity().decode().split() == [NODE, NODE_VERSION, DOMAIN]


def test_the_plugin_names_what_does_not_fit(plugin_on_host):
    arguments = fused_arguments()
    step, message, _ = run_plugin(plugin_on_host, arguments, starts=torch.tensor([0, 54, 69]))
    assert step == 1 and "expected two sizes and one start for every map, got 8 and 3" in message
    step, message, _ = run_plugin(plugin_on_host, arguments, starts=torch.tensor([0, 54, 69, 86]))
    assert step == 6 and "features: the maps need 90 rows" in message
    step, _, _ = run_plugin(plugin_on_host, arguments, output_type=torch.float16)
    assert step == 15, "the output has the type of the features"


@pytest.mark.slow
def test_the_library_holds_what_tensorrt_looks_for():
    """With the kernels for real GPUs: it loads where there is none, and needs nothing but the system's libraries."""
    if find_nvcc() is None:
        pytest.skip("needs nvcc")
    library = plugin_library(TENSORRT) or build_plugin(TENSORRT, headers(TENSORRT))
    loaded = ctypes.CDLL(str(library))
    count = ctypes.c_int32()
    loaded.getCreators.restype = ctypes.c_void_p
    assert loaded.getCreators(ctypes.byref(count)) and count.value == 1 and loaded.setLoggerFinder
    needed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"nvinfer|cudart|torch|not found", needed), needed


# ------------------------------------------------------------------------------------------------------------- building


@pytest.mark.parametrize("plugin", HEADERS, ids=lambda plugin: plugin.name)
def test_without_headers_it_names_what_is_missing(plugin, tmp_path, capsys):
    assert main([plugin.headers_option, str(tmp_path)]) == 1
    assert f"{plugin.headers_option}: {tmp_path} holds no {plugin.header}" in capsys.readouterr().err


def test_it_is_built_once_and_appears_whole(tmp_path, monkeypatch, capsys):
    machine = Machine(tmp_path, monkeypatch)
    assert plugin_library(ONNXRUNTIME) is None
    for _ in range(2):
        assert main([ONNXRUNTIME.option]) == 0
    library = plugin_library(ONNXRUNTIME)
    assert capsys.readouterr().out.splitlines() == [str(library)] * 2
    (call,) = machine.log.read_text().splitlines()
    assert "custom_op.cpp" in call and "-isystem" not in call
    assert [path.name for path in library.parent.iterdir()] == [library.name]


def test_what_is_compiled_against_headers_is_compiled_whenever_they_are_named(tmp_path, monkeypatch):
    """They may be of another release, and the GPUs others."""
    machine, folder = Machine(tmp_path, monkeypatch), tmp_path / "headers"
    folder.mkdir()
    (folder / TENSORRT.header).touch()
    machine.nvcc()
    for architectures in ("9.0", "8.6"):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
        assert main([TENSORRT.headers_option, str(folder)]) == 0
    first, last = (call for call in machine.calls("nvcc") if "-gencode" in call)
    assert "code=sm_90" in first and "code=sm_86" in last


def test_headers_that_say_something_else_are_refused(tmp_path, monkeypatch, capsys):
    """Nothing is built then. (Those of a compiler that pretends always agree.)"""
    machine, folder = Machine(tmp_path, monkeypatch), tmp_path / "headers"
    folder.mkdir()
    (folder / ONNXRUNTIME.header).touch()
    machine.cxx(
        compile="case \"$*\" in *-fsyntax-only*) echo 'error: GetDimensions lies elsewhere' >&2; exit 1 ;; esac"
    )
    assert main([ONNXRUNTIME.headers_option, str(folder)]) == 1
    assert "GetDimensions lies elsewhere" in capsys.readouterr().err and plugin_library(ONNXRUNTIME) is None
    machine.cxx()
    assert main([ONNXRUNTIME.headers_option, str(folder)]) == 0
    check, build = machine.log.read_text().splitlines()[-2:]
    assert f"-isystem {folder}" in check and "against_headers.cpp" in check and "-isystem" not in build


def test_the_library_of_torch_does_not_depend_on_them():
    """Its key, and with it everybody's build, stays when a plugin changes."""
    from cuda_ops.library import source_files

    folders = {path.relative_to(CSRC).parts[0] for path in source_files()}
    assert folders == {"cpu", "cuda", "shared", "torch"}
