"""Parameter names of other programs, to ours and back. No other file contains them.

In the reference implementation `head.layers.{k}` counts every entry of the operation list; here every decoder layer
names its parts. Backbones are called as in torchvision and mmdetection; only what stands before those names differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ..config import Sparse4DConfig

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

# --- Whole detectors --------------------------------------------------------------------------------------------------


def our_names(state: dict[str, Tensor], config: Sparse4DConfig) -> dict[str, Tensor]:
    """A state dict of either naming under our names."""
    return from_reference(state, config) if is_reference(state) else state


def is_reference(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(("img_backbone.", "head.")) for name in state)


def from_reference(state: dict[str, Tensor], config: Sparse4DConfig) -> dict[str, Tensor]:
    """Reference names to ours; both layouts of v1. Names without a counterpart stay as they are (and are reported)."""
    parts = dict(enumerate(_operations(config)))
    renamed = {our_name(name, parts): tensor for name, tensor in state.items()}
    renamed.pop("", None)
    for name, tensor in _fixed_points(config):
        renamed.setdefault(name, tensor)
    return renamed


def to_reference(state: dict[str, Tensor], config: Sparse4DConfig, layout: Layout = "original") -> dict[str, Tensor]:
    """Our names to the reference's, in the order in which its models list them (its optimizer counts on it).

    layout: of v1 models only; "later" is the one of the code base that v2 was published with.
    """
    by_part = {part: f"head.layers.{index}." for index, part in enumerate(_operations(config))}
    v1_original = config.generation == 1 and layout == "original"
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("kps_generator.fix_scale") and config.generation < 3:
            continue  # a constant before v3
        renamed[_reference_name(name, by_part, v1_original)] = tensor
    if config.generation == 3:
        renamed["head.instance_bank.anchor_handler.fix_scale"] = torch.zeros(1, 3)
    order = _ORIGINAL_ORDER if v1_original else _LATER_ORDER
    return {name: renamed[name] for name in sorted(renamed, key=lambda name: _rank(name, order))}


def our_name(name: str, parts: dict[int, str]) -> str:
    """One reference name; "" for what has no counterpart because nothing uses it.

    parts: place in the reference's operation list -> name of our module.
    """
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


def _rank(name: str, order: tuple[str, ...]) -> tuple[int, int, int]:
    """Place of an entry in the reference's state dict; entries of one place keep the order they have."""
    layer = _LAYER.fullmatch(name)
    rest = layer[2] if layer else name
    place = next((i for i, prefix in enumerate(order) if rest.startswith(prefix)), len(order))
    return (order.index("head.layers."), int(layer[1]), place) if layer else (place, 0, 0)


def _operations(config: Sparse4DConfig) -> Iterator[str]:
    """Our modules in the order of the reference's operation list."""
    for i in range(config.num_decoder_layers):
        layer = f"decoder.layers.{i}."
        if config.generation == 1:
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


# --- Image encoders of other tasks ------------------------------------------------------------------------------------

# Where a backbone lies in files of other tasks, most specific first: this family, DD3D, mmdetection, bare models.
BACKBONE_PREFIXES = ("img_backbone.", "backbone.bottom_up.", "backbone.", "")
_NECK_PREFIXES = ("img_neck.", "neck.")
_FIRST_LAYERS = ("conv1.weight", "stem.stem_1/conv.weight")
_BACKBONE_PARTS = ("conv1.", "bn1.", "layer", "stem.", "stage")


def find_prefix(state: dict[str, Tensor]) -> str | None:
    """What stands before the backbone's names in a file; None where there is no backbone."""
    return next((p for p in BACKBONE_PREFIXES if any(p + name in state for name in _FIRST_LAYERS)), None)


def backbone_names(state: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Our name -> the file's, for the backbone's part of a file; classification layers are not part of it."""
    inside = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    # Older mmdetection files have `conv2_offset` beside `conv2`.
    return {
        name.replace("conv2_offset.", "conv2.conv_offset."): theirs
        for name, theirs in inside.items()
        if name.startswith(_BACKBONE_PARTS)
    }


def backbone_state(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The backbone's part of a file under our names."""
    return {name: state[theirs] for name, theirs in backbone_names(state, prefix).items()}


def neck_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Our name -> the file's, for the feature pyramid in a file, if there is one."""
    prefix = next((p for p in _NECK_PREFIXES if any(name.startswith(p) for name in state)), None)
    return {} if prefix is None else {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
