"""Checkpoint files: what is in one, and how ours are written. Nothing in a file is ever executed.

A file of ours is `{"state_dict": ..., "meta": {...}, "config": {...}}`: weights and the configuration they belong to.
Published files are `{"state_dict": ..., "meta": ..., "optimizer": ...}` or a bare state dict.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ..atomic_write import atomic_write
from ..config import Sparse4DConfig


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message has the reason and what would fit."""


@dataclass(frozen=True)
class CheckpointFile:
    path: pathlib.Path
    state: dict[str, Tensor]
    meta: dict[str, Any]  # what the training program noted: epoch, versions, class names, ...
    config: Sparse4DConfig | None  # None in files of other programs
    wrapping: tuple[str, ...]  # top-level keys of the file; () for a bare state dict


def read_checkpoint(path: str | os.PathLike) -> CheckpointFile:
    """The tensors of a file, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: incomplete, no checkpoint at all, or it would run code.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: no file {path}")
    content = _load(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint: {path} holds a {type(content).__name__}, expected a dictionary of weights")
    wrapped = isinstance(content.get("state_dict", content.get("model")), dict)
    state = content.get("state_dict", content.get("model")) if wrapped else content
    tensors = {_plain_name(k): v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointError(f"checkpoint: {path} holds no weights; its keys are {_shorten(content)}")
    meta = content.get("meta") if wrapped else None
    config = config_from_dict(content["config"]) if wrapped and isinstance(content.get("config"), dict) else None
    return CheckpointFile(
        path, tensors, meta if isinstance(meta, dict) else {}, config, tuple(content) if wrapped else ()
    )


def write_checkpoint(path: str | os.PathLike, state: dict[str, Tensor], config: Sparse4DConfig, meta: dict) -> None:
    """Complete or not there at all.

    Raises:
        OSError: it could not be written, for example because the disk is full; what stood there still stands.
    """
    try:
        with atomic_write(path) as unfinished:
            torch.save({"state_dict": state, "meta": meta, "config": config_to_dict(config)}, unfinished)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(f"{path}: checkpoint could not be written ({error})") from error


def config_to_dict(config: Sparse4DConfig) -> dict[str, Any]:
    """Plain values only: JSON can hold it, and so can a file that is loaded without executing anything."""
    return asdict(config)


def config_from_dict(values: dict[str, Any]) -> Sparse4DConfig:
    """The inverse of `config_to_dict`; lists from JSON become tuples, fields that are missing take their defaults.

    Raises:
        CheckpointError: a field that this version does not have.
    """
    return _build(Sparse4DConfig, values)


def _build(kind: type, values: dict[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise CheckpointError(
            f"config: {kind.__name__} has no field {', '.join(unknown)}; the checkpoint comes from another version"
        )
    hints = get_type_hints(kind)
    try:
        return kind(**{name: _value(hints[name], value) for name, value in values.items()})
    except TypeError as error:
        raise CheckpointError(f"config: {error}") from error


def _value(hint: Any, value: Any) -> Any:
    nested = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
    if nested is not None and isinstance(value, dict):
        return _build(nested, value)
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _load(path: pathlib.Path) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
    try:
        with _numpy_scalars_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if start[:2] in (b"PK", b"\x80\x02"):  # a torch archive, or the older plain pickle
            raise CheckpointError(
                f"checkpoint: {path} holds Python objects besides tensors and plain values; loading them could run "
                f"code, so it is refused. Save the state dict alone, in a program you trust. ({_first_line(error)})"
            ) from error
        raise CheckpointError(f"checkpoint: {path} is not a checkpoint file; it begins with {start!r}") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"checkpoint: {path} ({path.stat().st_size} bytes) is damaged or incomplete; fetch or copy it again. "
            f"({_first_line(error)})"
        ) from error


def _numpy_scalars_allowed() -> contextlib.AbstractContextManager:
    """Numbers that training programs noted as NumPy scalars are data, not code; torch refuses them by default."""
    if not hasattr(torch.serialization, "safe_globals"):  # torch before 2.5
        return contextlib.nullcontext()
    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    return torch.serialization.safe_globals([np.dtype, *kinds, _scalar_function("core"), _scalar_function("_core")])


def _scalar_function(package: str) -> Callable:
    """NumPy's function that makes a scalar, under the name that files have: of NumPy 1 ("core") or 2 ("_core").

    A function of ours, because torch 2.5 takes no name beside a function: it reads the function's own.
    """
    make = np.float64(0).__reduce__()[0]

    def scalar(*arguments: Any) -> np.generic:
        return make(*arguments)

    scalar.__module__, scalar.__qualname__ = f"numpy.{package}.multiarray", "scalar"
    return scalar


def _plain_name(key: str) -> str:
    """Without what a wrapper for several GPUs or for compilation puts in front."""
    for prefix in ("module.", "_orig_mod."):
        key = key.removeprefix(prefix)
    return key


def _shorten(content: dict) -> str:
    keys = ", ".join(map(repr, list(content)[:5]))
    return keys + (", ..." if len(content) > 5 else "") if content else "none"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
