"""Initial weights of the image encoder from other tasks: ImageNet, FCOS3D, nuImages detectors, DD3D.

Only a part of such a file is of use, so what was used and what was left is always reported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .file import CheckpointError, read_checkpoint
from .identity import describe_backbone, differences
from .reference_names import BACKBONE_PREFIXES, backbone_names, find_prefix, neck_names


@dataclass(frozen=True)
class BackboneReport:
    """Which weights were used and which were left."""

    prefix: str  # of the backbone's names in the file
    used: tuple[str, ...]  # names in the backbone and, where asked for, `neck.` names
    kept_initial: tuple[str, ...]  # offsets of deformable convolutions and counters that the file does not have
    left: dict[str, int]  # first part of the name -> tensors of the file that were not used

    def __str__(self) -> str:
        left = ", ".join(f"{name} ({count})" for name, count in sorted(self.left.items())) or "nothing"
        kept = f"; {len(self.kept_initial)} kept their initial values" if self.kept_initial else ""
        where = f"under {self.prefix!r}" if self.prefix else "at the top level"
        return f"used {len(self.used)} tensors found {where}{kept}; left: {left}"


def load_backbone(path: str | os.PathLike, backbone: nn.Module, neck: nn.Module | None = None) -> BackboneReport:
    """Fill a backbone, and where `neck` is given its pyramid as far as names and shapes agree.

    Every parameter of the backbone must be in the file with the right shape, and the file's backbone may not have
    more; only offset convolutions may be missing (they start at zero: no offset, every tap at half strength).

    Raises:
        CheckpointError: the file holds another backbone; nothing was changed.
    """
    file = read_checkpoint(path)
    prefix = find_prefix(file.state)
    if prefix is None:
        raise CheckpointError(
            f"backbone: {path} holds neither a ResNet (conv1.weight) nor a VoVNet (stem.stem_1/conv.weight), "
            f"bare or under {', '.join(p for p in BACKBONE_PREFIXES if p)}"
        )
    names, own = backbone_names(file.state, prefix), backbone.state_dict()
    _check(path, {name: file.state[theirs] for name, theirs in names.items()}, own)
    used = {name: theirs for name, theirs in names.items() if name in own}
    _copy(file.state, used, own)
    neck_used: dict[str, str] = {}
    if neck is not None:
        own_neck = neck.state_dict()
        neck_used = {
            name: theirs
            for name, theirs in neck_names(file.state).items()
            if name in own_neck and file.state[theirs].shape == own_neck[name].shape
        }
        _copy(file.state, neck_used, own_neck)
    taken = {*used.values(), *neck_used.values()}
    left = Counter(name.split(".")[0] for name in file.state if name not in taken)
    return BackboneReport(
        prefix,
        (*used, *(f"neck.{name}" for name in neck_used)),
        tuple(name for name in own if name not in used),
        dict(left),
    )


def _copy(source: Mapping[str, Tensor], names: Mapping[str, str], target: Mapping[str, Tensor]) -> None:
    """Into the tensors of `target`; names: theirs by ours."""
    with torch.no_grad():
        for name, theirs in names.items():
            target[name].copy_(source[theirs])


def _check(path: str | os.PathLike, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Refuses a file's backbone that is not the model's; offsets and counters may be missing, counters surplus."""
    wanted = {name: tensor for name, tensor in own.items() if name in state or not _may_be_missing(name)}
    given = {name: tensor for name, tensor in state.items() if name in own or not _is_counter(name)}
    if difference := differences(given, wanted):
        raise CheckpointError(
            f"backbone: {path} holds {describe_backbone(state)}, the model has {describe_backbone(own)}: {difference}"
        )


def _may_be_missing(name: str) -> bool:
    return ".conv_offset." in name or _is_counter(name)


def _is_counter(name: str) -> bool:
    """Of the batches that a batch norm has seen."""
    return name.endswith("num_batches_tracked")
