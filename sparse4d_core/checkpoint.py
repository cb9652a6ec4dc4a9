"""Checkpoints: the published ones (the reference implementation's names) and our own, both loaded strictly.

This is the only file that knows the reference implementation's parameter names. There, `head.layers.{k}` counts every
entry of the operation list; here every decoder layer names its parts.
"""

from __future__ import annotations

import pathlib
import pickle
import re
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from .config import Sparse4DConfig
from .model import Sparse4D

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


class CheckpointError(ValueError):
    """A file that is no checkpoint of this model; the message says what it is and what fits."""


def load_checkpoint(path: str | pathlib.Path, model: Sparse4D) -> None:
    """Load weights into `model`, every parameter and nothing else.

    Accepts published files ({"meta", "state_dict", "optimizer"}, reference names) and our own ({"model": ...}).
    Only tensors and plain values are unpickled.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not a checkpoint, or one of another model.
    """
    state = read_state_dict(path)
    if is_reference(state):
        state = from_reference(state, model.config)
    load_strictly(model, state, str(path))


def read_state_dict(path: str | pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, whatever wraps them."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"checkpoint: {path} cannot be read as a file of tensors (truncated, or a pickle that runs code): {error}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"checkpoint: {path} holds no state dict; expected names mapped to tensors")
    return content


def load_strictly(model: Sparse4D, state: dict[str, Tensor], source: str) -> None:
    """`load_state_dict` whose error names the preset and the first differences."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(f"checkpoint: {source} is not a {model.config.name}: {'; '.join(problems)}")
    model.load_state_dict(state)


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
    """Our names to the reference's, as a file of the reference implementation has them.

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
    return renamed


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
