"""A step into a file: ONNX, an AOTInductor package, or torch.export's own format."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from .interface import ANY_NUMBER, TensorSpec
from .step import RecurrentStep

OPSET = 20
"""Of ONNX: the first in which GridSample's mode is called linear; TensorRT 10 and onnxruntime know it."""
MAX_CAMERAS = 12  # that a graph for any number is traced for


def example_arguments(specs: Sequence[TensorSpec], cameras: int, fewest: int = 1) -> list[Tensor]:
    """Tensors of these shapes: ones, so that no division is by nothing. Any number: one camera beyond the fewest."""
    count = fewest + 1 if cameras == ANY_NUMBER else cameras
    return [
        torch.ones([count if isinstance(size, str) else size for size in spec.shape], dtype=getattr(torch, spec.dtype))
        for spec in specs
    ]


def trace(step: RecurrentStep, specs: Sequence[TensorSpec], cameras: int, fewest: int = 1) -> ExportedProgram:
    """The step as a graph.

    Args:
        fewest: cameras that a graph for any number takes; with an overlap no fewer than that.
    """
    dynamic = None
    if cameras == ANY_NUMBER:
        count = Dim("cameras", min=fewest, max=MAX_CAMERAS)
        dynamic = tuple({1: count} if "cameras" in spec.shape else None for spec in specs)
    arguments = tuple(example_arguments(specs, cameras, fewest))
    with torch.no_grad():
        return torch.export.export(step, arguments, dynamic_shapes=dynamic, strict=False)


def write_onnx(program: ExportedProgram, path: pathlib.Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Raises ValueError: the exporter's packages are not installed."""
    try:
        import onnx_ir
        import onnxscript.optimizer
        from onnx_ir.passes import common
    except ImportError as error:
        raise ValueError("format: onnx needs onnx and onnxscript; install requirements/export.txt") from error
    written = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        optimize=False,
        external_data=False,
        verbose=False,
    )
    # Of the exporter's own optimizer what shortens this graph; its rewriting rules take half of the time, find nothing
    # here that runtimes do not find themselves.
    common.InlinePass()(written.model)
    onnxscript.optimizer.fold_constants(written.model)
    cleaning = onnx_ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
    cleaning(written.model)
    written.save(str(path))


def write_aoti(program: ExportedProgram, path: pathlib.Path) -> None:
    """Machine code of this processor; constants are folded and packed for it."""
    # Headers that are compiled ahead pay where many files include them; here each has one.
    options = {"freezing": True, "aot_inductor.precompile_headers": False}
    with torch.no_grad():  # freezing asks for it
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def write_pt2(program: ExportedProgram, path: pathlib.Path) -> None:
    torch.export.save(program, str(path))
