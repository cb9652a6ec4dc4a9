"""Which model a set of weights belongs to, from names and shapes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ..config import PRESETS, Sparse4DConfig
from ..network.sparse4d import Sparse4D
from .reference_names import backbone_state, find_prefix, our_names


@dataclass(frozen=True)
class Identity:
    presets: tuple[str, ...]  # they fit, possibly with another number of anchors
    num_anchors: int | None  # None where the weights are no detector
    backbone: str | None  # in words
    closest: str | None = None  # where none fits: the preset that comes nearest, and what is in the way
    difference: str = ""

    def __str__(self) -> str:
        if self.presets:
            names = " or ".join(self.presets)
            usual = PRESETS[self.presets[0]].num_anchors
            return names if self.num_anchors == usual else f"{names} with num_anchors={self.num_anchors} (not {usual})"
        if self.num_anchors is None:
            return f"no detector, but {self.backbone}" if self.backbone else "no detector"
        return f"no preset; the closest is {self.closest}: {self.difference}"


def identify(state: dict[str, Tensor]) -> Identity:
    """Compare with every preset. `state` may carry our names or the reference's."""
    prefix = find_prefix(state)
    backbone = describe_backbone(backbone_state(state, prefix)) if prefix is not None else None
    num_anchors = _num_anchors(state)
    if num_anchors is None:
        return Identity((), None, backbone)
    found = {name: _difference(state, replace(config, num_anchors=num_anchors)) for name, config in PRESETS.items()}
    fitting = tuple(name for name, (count, _) in found.items() if count == 0)
    closest = min(found, key=lambda name: found[name][0])
    return Identity(fitting, num_anchors, backbone, None if fitting else closest, "" if fitting else found[closest][1])


def advice(state: dict[str, Tensor], config: Sparse4DConfig) -> str:
    """What to do with weights that do not fit `config`."""
    identity = identify(state)
    if identity.presets:
        return f"It fits the preset {identity}."
    if identity.num_anchors is None and identity.backbone:
        return f"It holds {identity.backbone} only: initial weights for training, not a detector."
    if identity.closest == config.name:
        return "No preset fits better."
    return f"It fits {identity}."


def differences(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Missing, unknown and misshapen entries in words; "" where there are none."""
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    kinds = (
        ("missing", [name for name in expected if name not in state]),
        ("unknown", [name for name in state if name not in expected]),
        ("of another shape", shapes),
    )
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in kinds
        if names
    )


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


def _num_anchors(state: dict[str, Tensor]) -> int | None:
    anchor = our_names(state, PRESETS["v3_r50"]).get("decoder.anchor")
    return None if anchor is None or anchor.ndim != 2 else len(anchor)


def _difference(state: dict[str, Tensor], config: Sparse4DConfig) -> tuple[int, str]:
    """How many entries differ, and in words which."""
    expected, named = _expected(config), our_names(state, config)
    count = len(expected.keys() ^ named.keys())
    count += sum(named[name].shape != tensor.shape for name, tensor in expected.items() if name in named)
    return count, differences(named, expected)


@cache
def _expected(config: Sparse4DConfig) -> dict[str, Tensor]:
    """Names and shapes of a model, without its memory."""
    with torch.device("meta"):
        return Sparse4D(config).state_dict()
