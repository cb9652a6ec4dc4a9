"""Checkpoints: the published ones (the reference implementation's names) and our own, both loaded strictly.

This is the only file that knows the reference implementation's parameter names. There, `head.layers.{k}` counts every
entry of the operation list; here every decoder layer names its parts.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from ..config import Sparse4DConfig
from ..network.sparse4d import Sparse4D
from .file import CheckpointError, CheckpointFile, config_to_dict, read_checkpoint, write_checkpoint

__all__ = ["CheckpointError", "load_checkpoint", "read_checkpoint", "save_checkpoint"]

log = logging.getLogger(__name__)

Layout = Literal["original", "later"]

_TOP_LEVEL = (  # (reference, ours): the first match is taken, so longer prefixes come first
    ("img_backbone.", "backbone."),
    ("img_neck.", "neck."),
    ("depth_branch.", "depth_head."),
    ("head.instance_bank.anchor_handler.fix_scale", ""),  # three zeros, used by nothing
    ("head.instance_bank.anchor", "decoder.anchor"),
    ("head.instance_bank.instance_feature", "decoder.instance_feature"),
    ("head.anchor_encoder.", "decoder.anchor_encoder."),
    ("head.instance_feature.weight", "decoder.instance_feature"),
    ("head.anchor", "decoder.anchor"),
    ("head.", "decoder."),
)
_LAYER = re.compile(r"head\.layers\.(\d+)\.(.+)")

# Order of the reference's state dicts: top level, and inside an aggregation layer (after its key points).
_ENCODER = ("img_backbone.", "img_neck.")
_ORIGINAL_ORDER = (
    *_ENCODER, "head.anchor", "head.layers.", "head.instance_feature", "head.depth_module",
    "kps_generator.", "weights_fc.", "temp_module.", "output_proj.",
)  # fmt: skip
_LATER_ORDER = (
    *_ENCODER, "head.instance_bank.", "head.anchor_encoder.", "head.depth_module.",
    "head.layers.", "head.", "depth_branch.",
    "kps_generator.", "temp_module.", "output_proj.", "camera_encoder.", "weights_fc.",
)  # fmt: skip


# Where a backbone lies in files of other tasks, most specific first: this family, DD3D, mmdetection, bare models.
BACKBONE_PREFIXES = ("img_backbone.", "backbone.bottom_up.", "backbone.", "")
NECK_PREFIXES = ("img_neck.", "neck.")


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
    load_strictly(model, file.state, str(path))
    if file.config is not None:
        _warn_of_differences(file.config, model.config, path)
    return file


def save_checkpoint(path: str | os.PathLike, model: Sparse4D, meta: dict[str, Any] | None = None) -> None:
    """Weights under our names with the configuration they belong to; complete or not there at all."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(path, state, model.config, meta or {})


def load_strictly(model: Sparse4D, state: dict[str, Tensor], source: str) -> None:
    """`load_state_dict` whose error names the first differences and the preset that fits."""
    named = our_names(state, model.config)
    difference = differences(named, model.state_dict())
    if difference:
        from .identity import advice  # builds other models, so it comes after this module

        raise CheckpointError(
            f"checkpoint: {source} does not fit {model.config.name}: {difference}. {advice(state, model.config)}"
        )
    model.load_state_dict(named)


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


def _warn_of_differences(saved: Sparse4DConfig, config: Sparse4DConfig, path: str | os.PathLike) -> None:
    """Weights of one shape can still expect other images or another step; nobody may find that out by poor results."""
    ours, theirs = config_to_dict(config), config_to_dict(saved)
    ignored = {"name", "published", "assumptions"}
    changed = [f"{k}: {ours[k]} here, {theirs[k]} there" for k in ours if k not in ignored and ours[k] != theirs[k]]
    if changed:
        log.warning("checkpoint: %s was trained with another configuration (%s)", path, "; ".join(changed))


def our_names(state: dict[str, Tensor], config: Sparse4DConfig) -> dict[str, Tensor]:
    """A state dict of either naming under our names."""
    return from_reference(state, config) if is_reference(state) else state


def is_reference(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(("img_backbone.", "head.")) for name in state)


def from_reference(state: dict[str, Tensor], config: Sparse4DConfig) -> dict[str, Tensor]:
    """Reference names to ours; both layouts of v1. Names without a counterpart stay as they are (and are reported)."""
    parts = _operation_names(config)
    renamed = {our_name(name, parts): tensor for name, tensor in state.items()}
    renamed.pop("", None)
    for name, tensor in _fixed_points(config):
        renamed.setdefault(name, tensor)
    return renamed


def to_reference(state: dict[str, Tensor], config: Sparse4DConfig, layout: Layout = "original") -> dict[str, Tensor]:
    """Our names to the reference's, in the order in which its models list them (its optimizer counts on it).

    layout: of v1 models only; "later" is the one of the code base that v2 was published with.
    """
    by_part = {part: f"head.layers.{index}." for index, part in _operation_names(config).items()}
    v1_original = config.temporal is None and layout == "original"
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("kps_generator.fix_scale") and not config.decoupled_attention:
            continue  # a constant before v3
        renamed[_reference_name(name, by_part, v1_original)] = tensor
    if config.decoupled_attention:
        renamed["head.instance_bank.anchor_handler.fix_scale"] = torch.zeros(1, 3)
    order = _ORIGINAL_ORDER if v1_original else _LATER_ORDER
    return {name: renamed[name] for name in sorted(renamed, key=lambda name: _rank(name, order))}


def _rank(name: str, order: tuple[str, ...]) -> tuple[int, int, int]:
    """Place of an entry in the reference's state dict; entries of one place keep the order they have."""
    layer = _LAYER.fullmatch(name)
    rest = layer[2] if layer else name
    place = next((i for i, prefix in enumerate(order) if rest.startswith(prefix)), len(order))
    return (order.index("head.layers."), int(layer[1]), place) if layer else (place, 0, 0)


def our_name(name: str, parts: dict[int, str]) -> str:
    """One reference name; "" for what has no counterpart because nothing uses it."""
    layer = _LAYER.fullmatch(name)
    if layer and int(layer[1]) in parts:
        return f"{parts[int(layer[1])]}.{layer[2]}"
    for theirs, ours in _TOP_LEVEL:
        if name.startswith(theirs):
            return ours + name[len(theirs) :] if ours else ""
    return name


def _reference_name(name: str, by_part: dict[str, str], v1_original: bool) -> str:
    if name == "decoder.anchor":
        return "head.anchor" if v1_original else "head.instance_bank.anchor"
    if name == "decoder.instance_feature":
        return "head.instance_feature.weight" if v1_original else "head.instance_bank.instance_feature"
    matches = [part for part in by_part if name.startswith(part + ".")]
    if matches:
        part = max(matches, key=len)
        return by_part[part] + name[len(part) + 1 :]
    ours_to_theirs = {"backbone.": "img_backbone.", "neck.": "img_neck.", "depth_head.": "depth_branch."}
    for ours, theirs in (*ours_to_theirs.items(), ("decoder.", "head.")):
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _operation_names(config: Sparse4DConfig) -> dict[int, str]:
    """Place in the reference's operation list -> name of our module."""
    return dict(enumerate(_operations(config)))


def _operations(config: Sparse4DConfig) -> Iterator[str]:
    for i in range(config.num_decoder_layers):
        layer = f"decoder.layers.{i}."
        if config.temporal is None:
            parts = ("attention", "attention_norm", "aggregation", "ffn.pre_norm", "ffn", "norm", "refine")
        elif i < config.num_single_frame_layers:
            parts = ("aggregation", "ffn", "norm", "refine")
        else:
            parts = ("temporal_attention", "attention", "attention_norm", "aggregation", "ffn", "norm", "refine")
        for part in parts:
            yield layer + part


def _fixed_points(config: Sparse4DConfig) -> Iterator[tuple[str, Tensor]]:
    """The fixed key points, which checkpoints before v3 do not list."""
    points = torch.tensor(config.aggregation.fixed_points, dtype=torch.float32)
    for i in range(config.num_decoder_layers):
        yield f"decoder.layers.{i}.aggregation.kps_generator.fix_scale", points
