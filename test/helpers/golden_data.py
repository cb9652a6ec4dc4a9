"""Reading golden data, generating the weights they were recorded with, and comparing with a record of the error."""

from __future__ import annotations

import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

#: (file, array or case) -> (error, what is allowed) of the entry closest to its tolerance; for `--parity-report`.
ERRORS: dict[tuple[str, str], tuple[float, float]] = {}


class Golden:
    """One golden file: arrays by name, the test skips when the folder does not hold it."""

    def __init__(self, folder: pathlib.Path, name: str):
        candidates = (folder / f"{name}{suffix}" for suffix in (".npz", ".json"))
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            pytest.skip(f"{folder} holds no golden file {name}")
        self.folder, self.name = folder, name
        self.compared: set[str] = set()  # keys given to `check`
        self._data: Any = json.loads(path.read_text()) if path.suffix == ".json" else np.load(path, allow_pickle=False)

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self):
        return iter(self._data)

    def json(self, key: str) -> Any:
        return json.loads(str(self._data[key]))

    def tensor(self, key: str) -> torch.Tensor:
        """Half-precision arrays (features on disk) come back as float32."""
        array = self._data[key]
        return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)

    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._data if key.startswith(prefix)]

    def check(self, key: str, actual, atol: float, rtol: float = 0.0, expected=None, angle: bool = False) -> None:
        """Assert that `actual` equals the array `key` and record the largest error.

        angle: compare modulo 2 pi.
        """
        self.compared.add(key)
        expected = np.asarray(self._data[key] if expected is None else expected)
        actual = np.asarray(actual.detach().cpu() if isinstance(actual, torch.Tensor) else actual)
        assert actual.shape == expected.shape, f"{self.name}/{key}: shape {actual.shape}, expected {expected.shape}"
        if not np.issubdtype(expected.dtype, np.floating):
            wrong = int((actual != expected).sum())
            ERRORS[self.name, key] = (float(wrong), 0.0)
            assert wrong == 0, f"{self.name}/{key}: {wrong} of {expected.size} entries differ"
            return
        expected, actual = expected.astype(np.float64), actual.astype(np.float64)
        difference = actual - expected
        if angle:
            difference = (difference + np.pi) % (2 * np.pi) - np.pi
        both_nan = np.isnan(actual) & np.isnan(expected)
        error = np.where(both_nan | (actual == expected), 0.0, np.abs(difference))
        allowed = np.broadcast_to(atol + rtol * np.nan_to_num(np.abs(expected)), error.shape)
        if error.size:
            closest = int(np.argmax(error / np.maximum(allowed, np.finfo(np.float64).tiny)))
            ERRORS[self.name, key] = (float(error.flat[closest]), float(allowed.flat[closest]))
        bad = ~(error <= atol + rtol * np.abs(np.nan_to_num(expected)))
        assert not bad.any(), (
            f"{self.name}/{key}: {int(bad.sum())} of {bad.size} entries off, largest error {np.nanmax(error):.3g}, "
            f"tolerance {atol:g} + {rtol:g} * |expected|, first at {tuple(int(i) for i in np.argwhere(bad)[0])}"
        )


def golden_parameters(file: str, cases: Iterable[str]) -> list:
    """Parameters whose ids carry the golden file's name: `test_golden[blocks_v3-enc_cat]`."""
    return [pytest.param(file, case, id=f"{file}-{case}") for case in cases]


@functools.lru_cache(maxsize=1024)  # a model's; several recordings share one
def weight(
    key: str, shape: tuple[int, ...], seed: int, v1: bool = False, gain: Callable[[str], float | None] | None = None
) -> np.ndarray:
    """The value that the weight rule (golden README, section 2) gives to a parameter; float32."""
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()) + seed)).standard_normal(shape)
    last = key.rsplit(".", 1)[-1]
    if last == "running_mean":
        value = 0.1 * n
    elif last == "running_var":
        value = 1 + 0.1 * np.abs(n)
    elif last == "scale":
        value = 0.1 * (1 + 0.1 * n)
    elif last == "instance_feature" or "instance_feature.weight" in key:
        value = 0.5 * n
    elif len(shape) >= 2:
        value = _gain(key, v1, gain) * n / np.sqrt(np.prod(shape[1:]))
    elif last == "weight":
        value = (1 + 0.1 * n) * (0.2 if key.endswith("bn3.weight") else 1.0)
    elif key.endswith("fusion_layer.bias"):
        value = 0.01 * n
    elif key.endswith("cls_layers.6.bias"):
        value = -3.5 + 0.1 * n
    else:
        value = 0.1 * n
    return np.asarray(value, dtype=np.float64).astype(np.float32)


def _gain(key: str, v1: bool, extra: Callable[[str], float | None] | None) -> float:
    if extra is not None and (gain := extra(key)) is not None:
        return gain
    if key.endswith("conv_offset.weight"):
        return 0.5
    if key.endswith(("cls_layers.6.weight", "weights_fc.weight")):
        return 2.0
    return 1 / 58 if v1 and key == "img_backbone.conv1.weight" else 1.0


def fill(module: nn.Module, seed: int, prefix: str = "", **rule) -> nn.Module:
    """Give a block in isolation the weights of the rule, and evaluation mode; its names are the reference's."""
    state = {}
    for name, old in module.state_dict().items():
        last = name.rsplit(".", 1)[-1]
        if last in ("anchor", "fix_scale"):
            state[name] = old
        elif last == "num_batches_tracked":
            state[name] = torch.zeros_like(old)
        else:
            state[name] = torch.from_numpy(weight(prefix + name, tuple(old.shape), seed, **rule))
    module.load_state_dict(state)
    return module.eval()
