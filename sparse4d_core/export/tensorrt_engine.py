"""An exported ONNX step as an engine of TensorRT: `python -m sparse4d_core.export.tensorrt_engine out/step-onnx ...`.

On the machine that is to run it. The engine is proved on the frames of every export before it is written.
"""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from ..atomic_write import atomic_write, check_vacant
from ..command_line import OK, refuse
from ..file_digest import file_sha256
from ..inference.artefact import Artefact
from ..inference.artefact_checks import bound_to, check_weights_of
from ..inference.pipeline import Pipeline
from ..inference.tensorrt_runtime import gpu_name, import_tensorrt, load_plugin
from .exporter import node_command, proofs
from .formats import MAX_CAMERAS
from .interface import ANY_NUMBER
from .manifest import FILES, Manifest, read_manifest, write_manifest
from .proof import TOLERANCES

FLAGS = {"float16": "FP16", "bfloat16": "BF16"}
"""Lower precisions that TensorRT may choose itself, and its builder's flags; only TensorRT 10 has them."""
USUAL_CAMERAS = 6
GIGABYTE = 1 << 30

log = logging.getLogger(__name__)

EPILOG = """\
Layers compute in the types of the graph: export it with --precision float16 or int8. With --allow TensorRT 10 may
choose a lower one itself. The folder is run by `backend: tensorrt`.

example:
  python -m sparse4d_core.export.tensorrt_engine out/step-onnx --out out/step-tensorrt --timing-cache out/timing.cache
"""


def build_engine(
    trt: ModuleType,
    graph: pathlib.Path,
    manifest: Manifest,
    allow: Sequence[str] = (),
    tf32: bool = False,
    workspace_gb: float = 4.0,
    timing_cache: pathlib.Path | None = None,
) -> bytes:
    """The engine of an ONNX graph, serialized.

    Args:
        allow: keys of FLAGS, beyond the types of the graph.
        timing_cache: what TensorRT measured before on this machine; read if it is there, and written.

    Raises:
        ValueError: a flag that this TensorRT lacks, a graph that it does not take, or an engine that it cannot build.
    """
    flags = [_flag(trt, name) for name in allow]
    if manifest.operator == "native":
        load_plugin(trt)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    typed = 0 if flags else 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ValueError(f"graph: TensorRT {trt.__version__} does not take {graph}: {reasons}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace_gb * GIGABYTE))
    for flag in flags:
        config.set_flag(flag)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa are no float32
    if manifest.cameras == ANY_NUMBER:
        config.add_optimization_profile(_cameras_profile(builder, network, manifest.overlap or 1))
    known = timing_cache.read_bytes() if timing_cache is not None and timing_cache.is_file() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f"graph: TensorRT {trt.__version__} built no engine of {graph}; its own messages say why")
    if timing_cache is not None:
        with atomic_write(timing_cache) as path:
            path.write_bytes(bytes(cache.serialize()))
    return bytes(engine)


def _flag(trt: ModuleType, name: str) -> Any:
    flag = getattr(trt.BuilderFlag, FLAGS[name], None)
    if flag is None:
        raise ValueError(
            f"allow: TensorRT {trt.__version__} takes precisions from the graph alone; export it with --precision "
            f"{name}"
        )
    return flag


def _cameras_profile(builder: Any, network: Any, fewest: int) -> Any:
    """From the fewest cameras to as many as the graph was traced for; kernels are chosen for the usual six."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = list(tensor.shape)
        if -1 in shape:
            counts = (fewest, max(fewest, USUAL_CAMERAS), MAX_CAMERAS)
            sizes = [[count if size == -1 else size for size in shape] for count in counts]
            profile.set_shape(tensor.name, *sizes)
    return profile


def write_engine(pipeline: Pipeline, source: pathlib.Path, out: pathlib.Path, **options: Any) -> Manifest:
    """The folder `out` with the engine of the ONNX folder `source` and its manifest, proved against the pipeline.

    Args:
        pipeline: the exported model on PyTorch, in float32.
        options: of `build_engine`.

    Raises:
        ValueError: see `build_engine`; another model's graph, or one that is no ONNX; `out` is neither empty nor
            missing.
        ProofError: the engine is not the model; nothing is written.
    """
    check_vacant(out)
    manifest = read_manifest(source)
    if manifest.format != "onnx":
        raise ValueError(f"source: expected an export of the format onnx, got {manifest.format}")
    check_weights_of(manifest, pipeline.model, "this model; name its checkpoint")
    trt = import_tensorrt()
    log.info("TensorRT %s on %s", trt.__version__, gpu_name())
    lowest = max((manifest.precision, *options.get("allow", ())), key=lambda precision: TOLERANCES[precision].boxes)
    with atomic_write(out) as folder:
        folder.mkdir()
        path = folder / FILES["tensorrt"]
        path.write_bytes(build_engine(trt, source / manifest.file, manifest, **options))
        manifest = replace(
            manifest,
            format="tensorrt",
            device="cuda",
            precision=lowest,
            files={path.name: file_sha256(path)},
            built_with=manifest.built_with | bound_to("tensorrt", manifest.operator),
            how_to_run=[node_command(manifest.preset, "tensorrt")],
            accuracy=[],
        )
        write_manifest(folder, manifest)
        manifest = replace(manifest, accuracy=proofs(pipeline, Artefact(folder), manifest.cameras))
        write_manifest(folder, manifest)
    return manifest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.export.tensorrt_engine",
        description="Build and prove an engine of TensorRT from an ONNX export, on the GPU that is to run it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=pathlib.Path, help="folder of `python -m sparse4d_core.export --format onnx`")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write; must be empty or missing")
    parser.add_argument("--checkpoint", help="the weights that were exported (default: by the preset's name)")
    parser.add_argument("--allow", nargs="+", choices=FLAGS, default=[], help="TensorRT 10: lower precisions")
    parser.add_argument("--tf32", action="store_true", help="float32 products may lose digits")
    parser.add_argument("--workspace", type=float, default=4.0, metavar="GB", help="of TensorRT (default %(default)s)")
    parser.add_argument("--timing-cache", type=pathlib.Path, metavar="FILE", help="read, and written for the next time")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        exported = read_manifest(options.source)
        pipeline = Pipeline.from_preset(
            exported.preset,
            options.checkpoint,
            scene_reset=exported.scene_reset,
            allow_untrained=not exported.trained,
        )
        manifest = write_engine(
            pipeline,
            options.source,
            options.out,
            allow=options.allow,
            tf32=options.tf32,
            workspace_gb=options.workspace,
            timing_cache=options.timing_cache,
        )
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.export.tensorrt_engine", error)
    for row in manifest.accuracy:
        print(json.dumps(row))
    print(f"{options.out}: {manifest.file}, " + "; ".join(manifest.how_to_run))
    return OK


if __name__ == "__main__":
    sys.exit(main())
