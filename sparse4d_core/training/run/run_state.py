"""What a run must continue with, as tensors, numbers and dictionaries that a checkpoint can hold without pickles:
the recurrent state of every stream, and the states of random generators.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from ...network.aggregation import CameraFeatures
from ...network.state import CachedInstances, PastFrame, TemporalState
from ..objective.denoising import CarriedQueries

_KINDS = {kind.__name__: kind for kind in (TemporalState, CachedInstances, CarriedQueries, PastFrame, CameraFeatures)}


def pack_state(value: Any) -> Any:
    """Nested dataclasses, tuples and lists as dictionaries and lists, their tensors on the host.

    Processes send it to each other: a tensor of one GPU would be rebuilt on that GPU in all of them, and each would
    open a context there.
    """
    if isinstance(value, torch.Tensor):
        return value.cpu()
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


def pack_random_state(rng: np.random.RandomState) -> dict[str, Any]:
    name, keys, position, has_gauss, cached = rng.get_state()
    return {
        "name": name,
        "keys": torch.from_numpy(keys.astype(np.int64)),
        "position": int(position),
        "has_gauss": int(has_gauss),
        "cached": float(cached),
    }


def unpack_random_state(rng: np.random.RandomState, state: dict[str, Any]) -> None:
    keys = state["keys"].numpy().astype(np.uint32)
    rng.set_state((state["name"], keys, state["position"], state["has_gauss"], state["cached"]))


def pack_torch(device: torch.device) -> dict[str, torch.Tensor]:
    """PyTorch's global generators: of the CPU, and of the GPU in use."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def unpack_torch(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
