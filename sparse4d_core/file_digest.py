"""SHA-256 of files, read in pieces: they may be larger than the memory."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable

PIECE = 1 << 20  # bytes


def file_sha256(path: pathlib.Path, progress: Callable[[int], object] | None = None) -> str:
    """In hexadecimal digits.

    Args:
        progress: called with the number of bytes of every piece.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()
