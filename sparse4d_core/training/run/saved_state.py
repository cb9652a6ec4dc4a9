"""The recurrent state as nested dictionaries of tensors, for checkpoints of a run."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch

from ...network.aggregation import CameraFeatures
from ...network.state import CachedInstances, PastFrame, TemporalState
from ..objective.denoising import CarriedQueries

_KINDS = {kind.__name__: kind for kind in (TemporalState, CachedInstances, CarriedQueries, PastFrame, CameraFeatures)}


def pack_state(value: Any) -> Any:
    if is_dataclass(value):
        return {"kind": type(value).__name__, **{f.name: pack_state(getattr(value, f.name)) for f in fields(value)}}
    return [pack_state(item) for item in value] if isinstance(value, (list, tuple)) else value


def unpack_state(value: Any, device: torch.device) -> Any:
    """The inverse of `pack_state`, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return tuple(unpack_state(item, device) for item in value)
    if isinstance(value, dict):
        members = {name: unpack_state(item, device) for name, item in value.items() if name != "kind"}
        return _KINDS[value["kind"]](**members)
    return value
