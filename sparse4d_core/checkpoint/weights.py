"""Checkpoints: the published ones (the reference implementation's names) and our own, both loaded strictly."""

from __future__ import annotations

import logging
import os
from typing import Any

from torch import Tensor

from ..config import Sparse4DConfig
from ..network.sparse4d import Sparse4D
from .file import CheckpointError, CheckpointFile, config_to_dict, read_checkpoint, write_checkpoint
from .identity import advice, differences
from .reference_names import our_names

log = logging.getLogger(__name__)


def load_checkpoint(path: str | os.PathLike, model: Sparse4D) -> CheckpointFile:
    """Load weights into `model`, every parameter and nothing else.

    Accepts published files (reference names, both layouts of v1) and our own. Nothing in the file is executed.

    Returns:
        what else the file holds: configuration, notes of the training program.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: damaged, unsafe, or of another model; the message names the preset that fits. The model keeps
            its weights.
    """
    file = read_checkpoint(path)
    load_file(file, model)
    return file


def load_file(file: CheckpointFile, model: Sparse4D) -> None:
    """The same with a file that was read already."""
    load_strictly(model, file.state, str(file.path))
    if file.config is not None:
        _warn_of_differences(file.config, model.config, file.path)


def save_checkpoint(path: str | os.PathLike, model: Sparse4D, meta: dict[str, Any] | None = None) -> None:
    """Weights under our names with the configuration they belong to; complete or not there at all."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(path, state, model.config, meta or {})


def load_strictly(model: Sparse4D, state: dict[str, Tensor], source: str) -> None:
    """`load_state_dict` whose error names the first differences and the preset that fits."""
    named = our_names(state, model.config)
    difference = differences(named, model.state_dict())
    if difference:
        raise CheckpointError(
            f"checkpoint: {source} does not fit {model.config.name}: {difference}. {advice(state, model.config)}"
        )
    model.load_state_dict(named)


def _warn_of_differences(saved: Sparse4DConfig, config: Sparse4DConfig, path: str | os.PathLike) -> None:
    """Weights of one shape can still expect other images or another step: poor results must not be the first sign."""
    ours, theirs = config_to_dict(config), config_to_dict(saved)
    ignored = {"name", "published", "assumptions", "min_separation"}  # the last one comes after the network
    changed = [f"{k}: {ours[k]} here, {theirs[k]} there" for k in ours if k not in ignored and ours[k] != theirs[k]]
    if changed:
        log.warning("checkpoint: %s was trained with another configuration (%s)", path, "; ".join(changed))
