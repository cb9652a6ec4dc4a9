"""States of random generators as tensors and numbers, so that a checkpoint can hold them without executing anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


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
