"""Files and folders that appear when they are complete: after an error or a full disk stands what stood there before.

with atomic_write("out/scores.npz") as unfinished:
    np.savez(unfinished, **arrays)
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields the path to write at; what stands there takes the place of `path` when the block ends without an error.

    The unfinished path has the name of `path` in a hidden folder beside it, so writers that look at the ending of a
    name work, and the last step is a rename within one file system. A file is on the disk before it is renamed. Missing
    parent folders are made. After an error nothing is left behind; after a power loss the hidden folder is.

    A link stays, and what it points to is replaced. A device or a pipe is written to directly.

    Args:
        path: file, whose former content is replaced, or folder, which must be empty or missing (the block makes the
            unfinished one).

    Raises:
        FileNotFoundError: the block wrote nothing.
        OSError: a folder that is not empty stands at `path`; or whatever the block meets, such as a full disk.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=target.parent) as folder:
        unfinished = Path(folder) / path.name
        yield unfinished
        if not unfinished.is_dir():
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(unfinished, target)


def check_vacant(out: Path) -> None:
    """For long work that ends in a folder by `atomic_write`, which would be refused its place only then.

    Raises:
        ValueError: what stands there is no empty folder.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"out: {out} exists and is no empty folder; choose another one")


def write_bytes(path: str | Path, content: bytes) -> None:
    """The bytes as they are, through `atomic_write`."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """The text as UTF-8, through `atomic_write`."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """The value as JSON and a newline, through `atomic_write`.

    Raises:
        TypeError: a value that JSON has no form for; nothing is written then.
    """
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=indent)
        file.write("\n")
