"""Where the compiled kernels are found: named by torch's version and the sources' content."""

from __future__ import annotations

import hashlib
import os
import pathlib

import torch

CSRC = pathlib.Path(__file__).resolve().parent / "csrc"
LIBRARY_NAME = "sparse4d_ops"


def source_files() -> list[pathlib.Path]:
    """The C++ and CUDA sources, in a fixed order."""
    return sorted(path for path in CSRC.rglob("*") if path.is_file())


def sources_key() -> str:
    """Names the build: torch's version and the sources' content, so a stale library is never loaded."""
    digest = hashlib.sha256()
    for path in source_files():
        digest.update(path.relative_to(CSRC).as_posix().encode() + path.read_bytes())
    return f"torch{torch.__version__}-{digest.hexdigest()[:12]}"


def build_roots() -> list[pathlib.Path]:
    """Where built libraries are looked for: the package folder, then the user's cache (read-only installations)."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return [CSRC.parent / "_build", cache / "sparse4d_ros" / "cuda_ops"]


def find_library() -> pathlib.Path | None:
    """The library built from these sources for this torch, or None."""
    for root in build_roots():
        library = root / sources_key() / f"{LIBRARY_NAME}.so"
        if library.is_file():
            return library
    return None
