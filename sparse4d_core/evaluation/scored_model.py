"""What every command that scores a model over a data set is asked for, and how it names that in its folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.file import read_checkpoint
from ..checkpoint.published import find_weights
from ..config import Sparse4DConfig, preset
from ..data.nuscenes.dataset import NuScenesDataset
from ..file_digest import file_sha256
from ..inference.pipeline import as_trained
from ..types import CLASS_NAMES


def add_model_and_data(parser: argparse.ArgumentParser, data: str = "data set in nuScenes format") -> None:
    """The options --model, --checkpoint, --dataroot and --version.

    Args:
        data: what the data set has to be, for the help.
    """
    add = parser.add_argument
    add("--model", required=True, help="preset (python -m sparse4d_core.models lists them)")
    add("--checkpoint", type=Path, help="weights (default: those that ship with the preset or were fetched)")
    add("--dataroot", type=Path, required=True, help=data)
    add("--version", default="v1.0-mini", help="folder of the tables (default %(default)s)")


def trained_weights(options: argparse.Namespace) -> Path:
    """The file of weights that was asked for, or the preset's.

    Raises:
        ValueError, FileNotFoundError: there is none.
    """
    checkpoint = options.checkpoint or Path(find_weights(options.model))
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint: no file {checkpoint}")
    return checkpoint


def unscored(config: Sparse4DConfig, data: NuScenesDataset) -> str:
    """Why the devkit cannot score such results; "" where it can."""
    if not np.isin(data.index.class_names, CLASS_NAMES).any():
        return "the data set has no annotations of classes that nuScenes scores"
    if own := [name for name in config.class_names if name not in CLASS_NAMES]:
        return f"the model has classes that nuScenes does not score: {', '.join(own)}"
    return ""


def scored_settings(options: argparse.Namespace, checkpoint: Path, data: NuScenesDataset) -> dict[str, Any]:
    """Model, weights and scenes of a table of scores, for its folder.

    Raises:
        ValueError: the devkit cannot score what the model finds there.
    """
    if reason := unscored(as_trained(read_checkpoint(checkpoint), preset(options.model)), data):
        raise ValueError(f"{checkpoint.name}: cannot be scored: {reason}")
    return {
        "model": preset(options.model).name,
        "checkpoint": checkpoint.name,
        "sha256": file_sha256(checkpoint),
        "dataroot": str(options.dataroot.resolve()),
        "version": options.version,
        "scenes": data.index.scene_names.tolist(),
        "tracking": not options.no_tracking,
    }
