"""TensorRT: how an engine is read and run. Imported where one is; everything else does without TensorRT.

The tensors of the step come from the CPU and go back there, memory included.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from cuda_ops.plugins import TENSORRT, build_command, plugin_library

DEVICE = "cuda"
TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "INT32": torch.int32, "INT64": torch.int64}


def import_tensorrt() -> ModuleType:
    """Raises ValueError: it is not installed."""
    try:
        import tensorrt
    except ImportError as error:
        raise ValueError(
            f"tensorrt cannot be imported ({error}); install the wheel of the CUDA that torch has (tensorrt-cu12 or "
            "tensorrt-cu13), on an Orin JetPack's python3-libnvinfer"
        ) from error
    return tensorrt


def gpu_name() -> str:
    """Raises ValueError: there is none."""
    if not torch.cuda.is_available():
        raise ValueError("tensorrt: engines are built and run on a GPU, and torch finds none here")
    return torch.cuda.get_device_name()


def load_plugin(trt: ModuleType) -> None:
    """Makes our operator known to TensorRT, once.

    Raises:
        ValueError: its library is not built here, or does not load.
    """
    library = plugin_library(TENSORRT)
    if library is None:
        raise ValueError(
            f"plugin: the graph has our operator, which is not built for TensorRT here; run: {build_command(TENSORRT)}"
        )
    registry = trt.get_plugin_registry()
    if not getattr(load_plugin, "done", False) and registry.load_library(str(library)) is None:
        raise ValueError(f"plugin: TensorRT {trt.__version__} does not load {library}; TensorRT's own messages say why")
    load_plugin.done = True


def run_by_tensorrt(path: pathlib.Path, plugin: bool) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """The step of an engine, whose inputs and outputs are in the order of the graph.

    Args:
        plugin: it has our operator.

    Raises:
        ValueError: no TensorRT, no plugin, or an engine of another version or GPU.
    """
    trt = import_tensorrt()
    if plugin:
        load_plugin(trt)
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ValueError(f"artefact: TensorRT {trt.__version__} cannot read {path}; build the engine on this machine")
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [(name, TYPES[engine.get_tensor_dtype(name).name]) for name in names if name not in inputs]
    stream = torch.cuda.Stream() if DEVICE == "cuda" else None  # TensorRT synchronizes more on the default stream

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.cuda.stream(stream):
            given = [tensor.to(DEVICE).contiguous() for tensor in tensors]
            for name, tensor in zip(inputs, given, strict=True):
                context.set_input_shape(name, tuple(tensor.shape))
                context.set_tensor_address(name, tensor.data_ptr())
            found = [torch.empty(tuple(context.get_tensor_shape(n)), dtype=t, device=DEVICE) for n, t in outputs]
            for (name, _), tensor in zip(outputs, found, strict=True):
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(stream.cuda_stream if stream else 0):
                raise RuntimeError("TensorRT did not run the engine; its own messages say why")
            return [tensor.cpu() for tensor in found]  # waits for the stream

    run.runtime = runtime  # an engine does not outlive it
    return run
