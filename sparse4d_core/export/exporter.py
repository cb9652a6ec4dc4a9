"""A model into a folder: the graph, its manifest, an example. What does not equal the model is not written."""

from __future__ import annotations

import importlib.metadata
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from cuda_ops.plugins import ONNXRUNTIME, build_command, plugin_library

from ..atomic_write import atomic_write, check_vacant
from ..config import Sparse4DConfig
from ..file_digest import file_sha256
from ..inference.artefact import Artefact, graph_images
from ..inference.artefact_checks import bound_to
from ..inference.pipeline import Pipeline
from ..preprocess import preprocess
from ..types import Frame
from . import interface
from .drive import drive
from .formats import MAX_CAMERAS, trace, write_aoti, write_onnx, write_pt2
from .frames import write_camera_frames, write_network_frames
from .manifest import FILES, Manifest, described, model_dict, weights_digest, write_manifest
from .proof import TOLERANCES, prove
from .quantization import LayerError, check_calibration, quantize, sensitivity
from .step import Operator, RecurrentStep

EXAMPLE = pathlib.Path(__file__).with_name("onnxruntime_example.py")
EXAMPLE_FRAMES = 3
FORMATS = ("onnx", "aoti", "pt2")  # that a model is exported to; tensorrt_engine.py builds of one
SENSITIVITY_FRAMES = 3
FEW_CAMERAS = 4  # a graph for any number is proved with these, too
_PACKAGES = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportOptions:
    """What is written."""

    format: str  # one of FORMATS
    cameras: int = 6  # interface.ANY_NUMBER: as many as come
    precision: str = "float32"  # of the image encoder; "int8" needs frames to calibrate with
    operator: Operator = "portable"
    images: interface.Images = "normalized"
    overlap: int | None = None  # portable operator: cameras that may see one point; None: all

    def check(self) -> None:
        """Raises ValueError: a combination that does not exist."""
        if self.format not in FORMATS:
            raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {self.format!r}")
        if self.precision not in TOLERANCES:
            raise ValueError(f"precision: expected one of {', '.join(TOLERANCES)}, got {self.precision!r}")
        if self.cameras < 0:
            raise ValueError(f"cameras: expected a number from 1 on, or any, got {self.cameras}")
        if self.operator == "native" and self.cameras == interface.ANY_NUMBER:
            raise ValueError("cameras: our operator takes its maps' places as constants; any number needs portable")
        if self.overlap is not None and (self.operator == "native" or self.overlap < 1):
            raise ValueError(f"overlap: expected a number from 1 on, with the portable operator, got {self.overlap}")
        if self.overlap is not None and self.cameras != interface.ANY_NUMBER and self.overlap >= self.cameras:
            raise ValueError(
                f"overlap: expected less than the {self.cameras} cameras, got {self.overlap}; leave it out"
            )
        if self.overlap is not None and self.cameras == interface.ANY_NUMBER and self.overlap >= MAX_CAMERAS:
            raise ValueError(
                f"overlap: expected less than {MAX_CAMERAS}, the most cameras of a graph for any number, got "
                f"{self.overlap}; leave it out"
            )
        if self.precision == "int8" and self.format != "onnx":
            raise ValueError(f"precision: int8 is a form of onnx, got the format {self.format}")
        if self.precision == "bfloat16" and self.format == "onnx":
            raise ValueError("precision: onnxruntime has no bfloat16 convolution; take float16, or the format aoti")
        if self.operator == "native" and self.format == "onnx" and plugin_library(ONNXRUNTIME) is None:
            raise ValueError(
                "operator: the graph is proved with onnxruntime, for which our operator is not built here; run: "
                f"{build_command(ONNXRUNTIME)}, or take portable"
            )


def export_step(
    pipeline: Pipeline,
    options: ExportOptions,
    out: pathlib.Path,
    complete: bool = True,
    calibration: Sequence[Frame] = (),
) -> Manifest:
    """Writes the folder `out`, which must be empty or missing.

    Args:
        pipeline: the model, in float32 on PyTorch.
        complete: False leaves out proof and example, for tests that compare by themselves; such a folder has no
            `accuracy` in its manifest.
        calibration: for int8: frames of one drive, in time order.

    Raises:
        ValueError: a model or a combination of options that cannot be exported; packages that are missing; `out` is
            neither empty nor missing.
        ProofError: the graph is not the model; nothing is written.
    """
    options.check()
    check_vacant(out)
    config = pipeline.config
    specs = interface.inputs(config, options.cameras, options.images)
    given = interface.outputs(config, options.overlap)
    with atomic_write(out) as folder:
        folder.mkdir()
        path = folder / FILES[options.format]
        layers = write_graph(pipeline, options, specs, given, path, calibration)
        manifest = describe(pipeline, options, specs, given)
        manifest = replace(manifest, files={path.name: file_sha256(path)}, layers=[asdict(row) for row in layers])
        write_manifest(folder, manifest)
        if complete:
            manifest = replace(manifest, accuracy=proofs(pipeline, Artefact(folder), options.cameras))
            write_example(folder, options, config)
        write_manifest(folder, manifest)
    return manifest


def write_example(folder: pathlib.Path, options: ExportOptions, config: Sparse4DConfig) -> None:
    """What runs the graph without this package, and frames for it: detect.py, or those of examples/cpp."""
    frames = drive(config, options.cameras or max(6, options.overlap or 0), EXAMPLE_FRAMES)
    if options.format == "onnx":
        shutil.copyfile(EXAMPLE, folder / "detect.py")
        write_camera_frames(folder / "frames", frames)
    elif options.format == "aoti":
        write_network_frames(folder / "frames", frames, config)


def write_graph(
    pipeline: Pipeline,
    options: ExportOptions,
    specs: Sequence[interface.TensorSpec],
    given: Sequence[interface.TensorSpec],
    path: pathlib.Path,
    calibration: Sequence[Frame],
) -> list[LayerError]:
    """The file itself; returns what int8 found about the layers."""
    if options.precision == "int8":
        return write_int8(pipeline, options, specs, given, path, calibration)
    dtype = getattr(torch, options.precision)
    operator = "node" if (options.format, options.operator) == ("onnx", "native") else options.operator
    step = RecurrentStep(pipeline.model, dtype, operator, options.images, options.overlap).eval()
    program = trace(step, specs, options.cameras, options.overlap or 1)
    if options.format == "onnx":
        write_onnx(program, path, [spec.name for spec in specs], [spec.name for spec in given])
    else:
        (write_aoti if options.format == "aoti" else write_pt2)(program, path)
    return []


def write_int8(
    pipeline: Pipeline,
    options: ExportOptions,
    specs: Sequence[interface.TensorSpec],
    given: Sequence[interface.TensorSpec],
    path: pathlib.Path,
    calibration: Sequence[Frame],
) -> list[LayerError]:
    """The quantised graph of the same step in float32, which is left nowhere."""
    check_calibration(calibration, options.cameras)
    layers = sensitivity(pipeline.model, calibration[:SENSITIVITY_FRAMES])
    config = pipeline.config
    images = (graph_images(preprocess(frame, config).images, config, options.images).numpy() for frame in calibration)
    with tempfile.TemporaryDirectory() as scratch:
        exact = pathlib.Path(scratch) / path.name
        write_graph(pipeline, replace(options, precision="float32"), specs, given, exact, ())
        kept = {place for place, layer in enumerate(layers) if layer.kept_float}
        quantize(exact, images, path, kept)
    return layers


def proofs(pipeline: Pipeline, artefact: Artefact, cameras: int) -> list[dict[str, object]]:
    """A row for each number of cameras that the graph is tried with: of any number one beyond the overlap, too."""
    overlap = artefact.manifest.overlap or 0
    counts = (max(6, overlap + 1), max(FEW_CAMERAS, overlap)) if cameras == interface.ANY_NUMBER else (cameras,)
    repeated = not overlap  # a point in a repeated camera has views twice, which an overlap would leave out
    return [prove(pipeline, artefact, drive(pipeline.config, count, repeated=repeated)) for count in counts]


def describe(
    pipeline: Pipeline,
    options: ExportOptions,
    specs: Sequence[interface.TensorSpec],
    given: Sequence[interface.TensorSpec],
) -> Manifest:
    """The manifest, without files and accuracy."""
    config = pipeline.config
    return Manifest(
        preset=config.name,
        trained=pipeline.trained,
        weights_sha256=weights_digest(pipeline.model),
        format=options.format,
        precision=options.precision,
        operator=options.operator,
        images=options.images,
        cameras=options.cameras,
        overlap=options.overlap,
        scene_reset=pipeline.model.scene_reset,
        device="cpu",
        config=model_dict(config),
        tracking_threshold=config.tracking_threshold,
        inputs=described(specs),
        outputs=described(given),
        how_to_run=how_to_run(config, options),
        built_with=versions() | bound_to(options.format, options.operator),
    )


def how_to_run(config: Sparse4DConfig, options: ExportOptions) -> list[str]:
    """Commands, from the folder."""
    library = f" {ONNXRUNTIME.name}.so" if options.operator == "native" else ""
    return {
        "onnx": [f"python detect.py frames{library}", node_command(config.name, "onnxruntime")],
        "aoti": [node_command(config.name, "aoti")],
        "pt2": ["python -c 'import torch; print(torch.export.load(\"step.pt2\").graph)'"],
    }[options.format]


def node_command(preset: str, backend: str) -> str:
    return f"python -m sparse4d_ros.node --ros-args -p model:={preset} -p backend:={backend} -p artefact:=$PWD"


def versions() -> dict[str, str]:
    """Of the packages that had a part in it, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
