"""Initial weights of the image encoder from other tasks: ImageNet, FCOS3D, nuImages detectors, DD3D.

Only a part of such a file is of use, so what was used and what was left is always reported.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .file import CheckpointError, read_checkpoint
from .weights import BACKBONE_PREFIXES, NECK_PREFIXES

_FIRST_LAYERS = ("conv1.weight", "stem.stem_1/conv.weight")


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
    state = backbone_state(file.state, prefix)
    own = backbone.state_dict()
    _check(path, state, own)
    used = [name for name in own if name in state]
    taken = {prefix + name for name in used} | {prefix + _older_name(name) for name in used}
    with torch.no_grad():
        for name in used:
            own[name].copy_(state[name])
    if neck is not None:
        for name, tensor in neck.state_dict().items():
            source = next((p + name for p in NECK_PREFIXES if p + name in file.state), None)
            if source is not None and file.state[source].shape == tensor.shape:
                tensor.copy_(file.state[source])
                used.append(f"neck.{name}")
                taken.add(source)
    left = Counter(name.split(".")[0] for name in file.state if name not in taken)
    return BackboneReport(prefix, tuple(used), tuple(name for name in own if name not in state), dict(left))


def find_prefix(state: dict[str, Tensor]) -> str | None:
    """What stands before the backbone's names in a file; None where there is no backbone."""
    return next((p for p in BACKBONE_PREFIXES if any(p + name in state for name in _FIRST_LAYERS)), None)


def backbone_state(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The backbone's part of a file under the names of our modules; classification layers are not part of it."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    parts = ("conv1.", "bn1.", "layer", "stem.", "stage")
    # Older mmdetection files have `conv2_offset` beside `conv2`.
    return {
        name.replace("conv2_offset.", "conv2.conv_offset."): tensor
        for name, tensor in inside.items()
        if name.startswith(parts)
    }


def _older_name(name: str) -> str:
    return name.replace("conv2.conv_offset.", "conv2_offset.")


def _check(path: str | os.PathLike, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    missing = [name for name in own if name not in state and not _may_be_missing(name)]
    extra = [name for name in state if name not in own and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"backbone: {path} holds {describe_backbone(state)}, the model has {describe_backbone(own)}: "
            f"{_list(missing, 'missing')}{_list(extra, 'not in the model')}{_list(shapes, 'of another shape')}"
        )


def _may_be_missing(name: str) -> bool:
    return ".conv_offset." in name or name.endswith("num_batches_tracked")


def _list(names: list[str], what: str) -> str:
    return f"{len(names)} {what} (first: {names[0]}); " if names else ""


def describe_backbone(state: dict[str, Tensor]) -> str:
    """In words, from the names alone: kind and depth."""
    if any(name.startswith("stem.") for name in state):
        modules = len({name.split(".")[1] for name in state if name.startswith("stage")})
        return f"a VoVNet with {modules} aggregation modules"
    blocks = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    bottleneck = any(name.endswith("conv3.weight") for name in state)
    depth = 2 + (3 if bottleneck else 2) * sum(blocks)
    deformable = " with deformable convolutions" if any("conv_offset" in name for name in state) else ""
    return f"a ResNet-{depth}{deformable}"
