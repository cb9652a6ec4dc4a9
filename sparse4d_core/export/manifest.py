"""What lies beside an exported step: which model it is, what goes in and out, how far it is from PyTorch."""

from __future__ import annotations

import hashlib
import json
import pathlib
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..checkpoint.file import config_from_dict, config_to_dict
from ..config import Sparse4DConfig
from ..file_digest import file_sha256
from ..network.sparse4d import Sparse4D
from .interface import TensorSpec

NAME = "manifest.json"
VERSION = 1
FILES = {"onnx": "step.onnx", "aoti": "step.aoti.pt2", "pt2": "step.pt2", "tensorrt": "step.engine"}
"""Format -> the file that holds the graph."""


class ArtefactError(ValueError):
    """An exported step that cannot be used here; the message has the reason and what would fit."""


@dataclass(frozen=True)
class Manifest:
    """Everything a program needs to run the step without this package."""

    preset: str
    trained: bool
    weights_sha256: str  # of all parameters, see `weights_digest`
    format: str  # a key of FILES
    precision: str  # of the image encoder
    operator: str  # "portable" or "native"
    images: str  # "normalized" or "uint8"
    cameras: int  # interface.ANY_NUMBER: as many as come
    overlap: int | None  # portable operator: cameras that may see one point; None: all
    scene_reset: str
    device: str  # "cpu" or "cuda", for which compiled formats are
    config: dict[str, Any]  # the whole configuration of the model
    tracking_threshold: float
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    how_to_run: list[str]
    built_with: dict[str, str]  # versions, and what compiled code is bound to: processor, operator library
    files: dict[str, str] = field(default_factory=dict)  # name -> sha256
    accuracy: list[dict[str, Any]] = field(default_factory=list)  # against PyTorch, a row for each proof
    layers: list[dict[str, Any]] = field(default_factory=list)  # int8: what rounding each convolution alone does
    version: int = VERSION

    @property
    def file(self) -> str:
        return FILES[self.format]

    def model_config(self) -> Sparse4DConfig:
        return config_from_dict(self.config)


def described(specs: list[TensorSpec]) -> list[dict[str, Any]]:
    """Specifications as JSON has them."""
    return [asdict(spec) | {"shape": list(spec.shape)} for spec in specs]


def model_dict(config: Sparse4DConfig) -> dict[str, Any]:
    """The configuration as JSON gives it back, tuples as lists."""
    return json.loads(json.dumps(config_to_dict(config)))


def weights_digest(model: Sparse4D) -> str:
    """SHA-256 of all parameters and buffers with their names: of the numbers, not of the file that held them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def write_manifest(folder: pathlib.Path, manifest: Manifest) -> None:
    """As UTF-8 without \\u escapes, which the reader of examples/cpp does not know."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
    (folder / NAME).write_text(f"{text}\n", encoding="utf-8")


def read_manifest(folder: str | pathlib.Path) -> Manifest:
    """The manifest of a folder whose files are those that were written with it.

    Raises:
        ArtefactError: no such folder, no manifest, one of another version, or a file that was changed or lost.
    """
    folder = pathlib.Path(folder)
    path = folder / NAME
    if not path.is_file():
        raise ArtefactError(
            f"artefact: {folder} holds no {NAME}; expected a folder that `python -m sparse4d_core.export` wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.get("version")
        if version != VERSION:
            raise ArtefactError(f"artefact: {path} is of version {version}, expected {VERSION}; export the model again")
        manifest = Manifest(**values)
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise ArtefactError(f"artefact: {path} is damaged ({error}); export the model again") from error
    if manifest.format not in FILES or manifest.file not in manifest.files:
        raise ArtefactError(f"artefact: {path} has the unknown format {manifest.format!r}; export the model again")
    for name, expected in manifest.files.items():
        if not (folder / name).is_file():
            raise ArtefactError(f"artefact: {folder} lacks {name}, which belongs to it; export the model again")
        if file_sha256(folder / name) != expected:
            raise ArtefactError(f"artefact: {folder / name} is not what was exported; export the model again")
    return manifest
