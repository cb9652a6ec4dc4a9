"""Whether an exported step fits: backend, model, rig and machine. Every refusal names what would fit."""

from __future__ import annotations

import pathlib
import platform
from typing import Any

import torch

from cuda_ops import kernels_loaded
from cuda_ops.library import BUILD_COMMAND, library_key
from cuda_ops.plugins import NODE, NODE_VERSION, ONNXRUNTIME, TENSORRT, build_command, plugin_library

from ..checkpoint.weights import load_checkpoint
from ..config import Sparse4DConfig
from ..export.interface import ANY_NUMBER
from ..export.manifest import ArtefactError, Manifest, model_dict, weights_digest
from ..network.sparse4d import Sparse4D
from .tensorrt_runtime import gpu_name, import_tensorrt

BACKENDS = ("torch", "aoti", "onnxruntime", "tensorrt")
FORMATS = {"aoti": "aoti", "onnxruntime": "onnx", "tensorrt": "tensorrt"}  # backend -> the format that it runs
PLUGINS = {"onnx": ONNXRUNTIME, "tensorrt": TENSORRT}  # format -> the library with our operator, if it has it


def check_backend(backend: str, artefact: str | pathlib.Path | None, device: str, compile: bool) -> None:
    """Whether these belong together.

    Raises:
        ValueError: an unknown backend, or one without its artefact or with what only torch has.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torch":
        if artefact:
            raise ValueError(f"artefact: {artefact} is given, but backend is torch, which runs none; set backend")
        return
    if not artefact:
        raise ValueError(
            f"artefact: backend {backend} runs an exported step; name its folder, which {_writer(backend)} writes"
        )
    if device != "cpu":
        raise ValueError(f"device: backend {backend} takes its tensors from the CPU; set device to cpu, not {device}")
    if compile:
        raise ValueError(f"compile: only backend torch compiles, {backend} runs what was compiled or exported before")


def _writer(backend: str) -> str:
    """The command that makes a step for it."""
    if backend == "tensorrt":
        return "`python -m sparse4d_core.export.tensorrt_engine`"
    return f"`python -m sparse4d_core.export --format {FORMATS[backend]}`"


def check_cameras(manifest: Manifest, count: int) -> None:
    """Raises ArtefactError: the graph is made for another number of cameras, or for more of them."""
    if manifest.cameras not in (ANY_NUMBER, count):
        raise ArtefactError(
            f"artefact: made for {manifest.cameras} cameras, got {count}; export it with --cameras {count}, or with "
            "--cameras any (portable operator)"
        )
    if manifest.overlap is not None and count < manifest.overlap:
        raise ArtefactError(
            f"artefact: made with an overlap of {manifest.overlap}, which takes as many cameras, got {count}; export "
            "it with a smaller --overlap, or without"
        )


def check_format(manifest: Manifest, backend: str) -> None:
    """Raises ArtefactError: the backend runs another format."""
    if manifest.format != FORMATS[backend]:
        raise ArtefactError(
            f"artefact: backend {backend} runs the format {FORMATS[backend]}, this is {manifest.format}; make one with "
            f"{_writer(backend)}"
        )


def check_weights(manifest: Manifest, checkpoint: str | pathlib.Path) -> None:
    """Raises ArtefactError: the checkpoint holds other weights than those that were exported."""
    model = Sparse4D(manifest.model_config())
    load_checkpoint(checkpoint, model)
    check_weights_of(manifest, model, f"checkpoint {checkpoint}; leave it out: an artefact brings its weights")


def check_weights_of(manifest: Manifest, model: Sparse4D, whose: str) -> None:
    """Raises ArtefactError: the model has other weights than those that were exported."""
    if weights_digest(model) != manifest.weights_sha256:
        raise ArtefactError(f"artefact: it was exported with other weights than those of {whose}, or export it again")


def check_model(manifest: Manifest, config: Sparse4DConfig, scene_reset: str) -> None:
    """Whether it is a step of this model; what a checkpoint brings is its own, see `pipeline.as_trained`.

    Raises:
        ArtefactError: another preset, another shape of it, or other settings; the message names the first difference.
    """
    if manifest.preset != config.name:
        raise ArtefactError(f"artefact: a step of {manifest.preset}, but model is {config.name}; set model to it")
    if manifest.scene_reset != scene_reset:
        raise ArtefactError(
            f"artefact: exported with scene_reset {manifest.scene_reset}, asked for {scene_reset}; set scene_reset to "
            f"{manifest.scene_reset}, or export it with --scene-reset {scene_reset}"
        )
    theirs = _of_the_preset(manifest.config)
    for name, here in _of_the_preset(model_dict(config)).items():
        if (there := theirs.get(name)) != here:
            raise ArtefactError(
                f"artefact: {name} of its {config.name} is {there}, here it is {here}; export the model again"
            )


def _of_the_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Of a configuration as JSON, without what a checkpoint brings and what is no part of the graph."""
    brought = ("class_names", "vertical_velocity")
    outside = ("published", "assumptions", "min_separation")
    kept = {name: value for name, value in values.items() if name not in (*brought, *outside)}
    if kept.get("temporal") is not None:
        kept["temporal"] = {name: value for name, value in kept["temporal"].items() if name != "rate_invariant"}
    return kept


def bound_to(format: str, operator: str) -> dict[str, str]:
    """What an artefact needs of the machine that runs it, as it is here."""
    needs = {}
    if format == "aoti":
        capability = torch.backends.cpu.get_cpu_capability()
        needs |= {"torch": torch.__version__, "processor": f"{platform.machine()} {capability}"}
    if format == "tensorrt":
        needs |= {"tensorrt": import_tensorrt().__version__, "gpu": gpu_name()}
    if operator == "native":
        plugin = PLUGINS.get(format)
        needs["operator_library"] = f"{plugin.name} ({NODE} {NODE_VERSION})" if plugin else library_key()
    return needs


def check_machine(manifest: Manifest) -> None:
    """Whether compiled code fits torch, the processor and the operator's library.

    Raises:
        ArtefactError: it does not; the message has what it was made for and what is here.
    """
    plugin = PLUGINS.get(manifest.format)
    if manifest.operator == "native" and not (plugin_library(plugin) if plugin else kernels_loaded(manifest.device)):
        command = build_command(plugin) if plugin else BUILD_COMMAND
        raise ArtefactError(
            f"artefact: it calls our operator, which is not compiled here; run: {command}, or export it with "
            "--operator portable"
        )
    for what, here in bound_to(manifest.format, manifest.operator).items():
        there = manifest.built_with.get(what)
        if there != here:
            raise ArtefactError(
                f"artefact: built with {what.replace('_', ' ')} {there}, here it is {here}; export it on this machine"
            )
