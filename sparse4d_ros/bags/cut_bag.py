"""Bags whose recording never came to its end: read from their files, as far as these go."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys.store import Typestore

from .cut_mcap import CutMcap, zstd
from .cut_sqlite import CutSqlite, journal_of

SUFFIXES = (".mcap", ".db3")
PACKED = ".zstd"  # behind these: a file that was recorded with --compression-mode file
METADATA = "metadata.yaml"


def is_unfinished(bag: Path) -> bool:
    """Whether the reader of rosbags would miss something: a file that is not listed, a journal, or that a single file
    is packed, which it knows of listed ones alone."""
    files = _files(bag)
    return any(map(journal_of, files)) or bool(_unlisted(bag, files)) or bag.suffix == PACKED


def open_cut_bag(bag: Path, typestore: Typestore, stack: ExitStack) -> tuple[AnyReader, str]:
    """An open reader of what is there, and what is missing; empty: nothing is. A file of which nothing is left does not
    cost the others.

    Args:
        stack: closes the reader, and removes what was unpacked for it.

    Raises:
        Exception: nothing is; the errors of rosbags and sqlite3 have no common base.
    """
    files, missing = _files(bag), []
    if not files:
        raise ValueError(f"neither {METADATA} nor a file of type {' or '.join(SUFFIXES)}")
    if bag.is_dir() and not (bag / METADATA).is_file():
        missing.append(f"{METADATA} is missing")
    missing += [f"{METADATA} does not list {path.name}" for path in _unlisted(bag, files)]
    parts, reason = [], None
    for path in files:
        unpacked = _unpacked(path, stack)
        whole = _is_whole(unpacked)
        try:
            parts.append(Reader(unpacked) if whole else _cut_reader(unpacked))
        except (ReaderError, ValueError, sqlite3.Error) as error:
            missing.append(f"{path.name} holds nothing")
            reason = error
            continue
        if not whole:
            missing.append(f"{path.name} was cut off")
    if not parts:
        raise reason
    reader = AnyReader([part.path for part in parts], default_typestore=typestore)
    reader.readers = parts
    stack.enter_context(reader)
    return reader, ", ".join(missing)


def _files(bag: Path) -> list[Path]:
    """The files with the messages of a bag: in its folder, of one recording where the metadata tell which; or the one
    that was named."""
    if not bag.is_dir():
        return [bag]
    files = sorted(path for path in bag.iterdir() if path.name.removesuffix(PACKED).endswith(SUFFIXES))
    # A recorder removes a file once it is packed: where both are there, the packed one may not be complete.
    files = [path for path in files if path.suffix != PACKED or path.with_suffix("") not in files]
    listed = {_recording(path) for path in files if path.name in _metadata(bag)}
    return [path for path in files if not listed or _recording(path) in listed]


def _unlisted(bag: Path, files: list[Path]) -> list[Path]:
    """Those that the metadata, where there are any, lack: a recorder may write them for each file that it ends."""
    there = bag.is_dir() and (bag / METADATA).is_file()
    return [path for path in files if there and path.name not in _metadata(bag)]


def _metadata(bag: Path) -> str:
    path = bag / METADATA
    return path.read_text(errors="replace") if path.is_file() else ""


def _recording(path: Path) -> str:
    """What the names of its files have in common: they are numbered."""
    return re.sub(r"_\d+(\.\w+)$", r"\1", path.name.removesuffix(PACKED))


def _unpacked(path: Path, stack: ExitStack) -> Path:
    """The file, or a copy without compression that the stack removes; of a cut one as much as can be unpacked."""
    if path.suffix != PACKED:
        return path
    copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparse4d_ros_bag_"))) / path.stem
    with copy.open("wb") as file, suppress(EOFError, zstd.ZstdError), zstd.open(path) as packed:
        shutil.copyfileobj(packed, file)
    return copy


def _is_whole(path: Path) -> bool:
    """Whether the reader of rosbags can be left alone with the file."""
    if journal_of(path):
        return False
    storage = Reader(path)
    try:
        storage.open()
    except Exception:  # whatever it finds missing first
        return False
    storage.close()
    return True


def _cut_reader(path: Path) -> Reader:
    """A reader, closed, of what is left of a file.

    Raises:
        ReaderError, ValueError, sqlite3.Error: nothing is.
    """
    if path.suffix == ".mcap":
        reader = Reader(CutMcap(path))
        reader.open()  # fails where not even the header is there
        reader.close()
    else:
        reader = Reader(path)
        reader.storage = CutSqlite(path)
    return reader
