"""What executes an exported graph: tensors in the order of its inputs ► tensors in the order of its outputs.

Each is imported when it is asked for: who does not use it need not have it.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Run = Callable[[Sequence[Tensor]], list[Tensor]]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
"""Of onnxruntime, by the names that users give."""

GPU_PROVIDERS = ("cuda", "tensorrt")


def chosen_providers(names: str, available: Sequence[str]) -> list[str]:
    """onnxruntime's names of providers given as "tensorrt, cuda, cpu".

    Raises:
        ValueError: a name that is unknown, or a provider that this installation of onnxruntime lacks.
    """
    here = [name for name, full in PROVIDERS.items() if full in available]
    chosen = []
    for name in (part.strip().lower() for part in names.split(",")):
        if name not in PROVIDERS:
            raise ValueError(f"providers: unknown provider {name!r}; expected some of {', '.join(PROVIDERS)}")
        if name not in here:
            raise ValueError(
                f"providers: this onnxruntime has no provider {name!r}, but {', '.join(here)}; install the build of "
                "onnxruntime that brings it (docs/deployment.md)"
            )
        chosen.append(PROVIDERS[name])
    return chosen


def run_by_onnxruntime(path: pathlib.Path, providers: str, operators: pathlib.Path | None = None) -> tuple[Run, str]:
    """The step, and the name of the provider that took it.

    Args:
        operators: library of custom operators that the graph has; None: it has none.

    Raises:
        ValueError: onnxruntime is not installed, see also `chosen_providers`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            "backend: onnxruntime is not installed; install requirements/export.txt, or onnxruntime alone"
        ) from error
    wanted = chosen_providers(providers, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":  # what it says of PyTorch's threads holds for these
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: that small constants stay on the CPU is none
    if operators is not None:
        options.register_custom_ops_library(str(operators))
    session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    taken = next(name for name, full in PROVIDERS.items() if full == session.get_providers()[0])
    names = [entry.name for entry in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        values = {name: tensor.numpy(force=True) for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, values)]

    return run, taken


def run_by_aoti(path: pathlib.Path) -> Run:
    """The step of an AOTInductor package. It holds machine code, which runs with the rights of the caller."""
    from torch._inductor import aoti_load_package

    package = aoti_load_package(str(path))

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(package(*tensors))

    return run


def run_by_export(path: pathlib.Path) -> Run:
    """The step of a torch.export file, operation by operation: to look into, slower than the model itself."""
    module = torch.export.load(str(path)).module()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(module(*tensors))

    return run
