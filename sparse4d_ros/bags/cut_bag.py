"""Bags whose recording never came to its end: read from their files, as far as these go."""

from __future__ import annotations

import re
from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from rosbags.typesys.store import Typestore

from .cut_mcap import CutMcap
from .cut_sqlite import CutSqlite, journal_of

SUFFIXES = (".mcap", ".db3")
METADATA = "metadata.yaml"


def is_unfinished(bag: Path) -> bool:
    """Whether reading the bag by its metadata would miss something: a file that is not listed, or a journal."""
    files = _files(bag)
    return any(map(journal_of, files)) or bool(_unlisted(bag, files))


def open_cut_bag(bag: Path, typestore: Typestore) -> tuple[AnyReader, str]:
    """An open reader of what is there, and what is not.

    Raises:
        Exception: nothing is; the errors of rosbags and sqlite3 have no common base.
    """
    files, missing = _files(bag), []
    if not files:
        raise ValueError(f"neither {METADATA} nor a file of type {' or '.join(SUFFIXES)}")
    if bag.is_dir() and not (bag / METADATA).is_file():
        missing.append(f"{METADATA} is missing")
    missing += [f"{METADATA} does not list {path.name}" for path in _unlisted(bag, files)]
    whole = {path: _is_whole(path) for path in files}
    missing += [f"{path.name} was cut off" for path in files if not whole[path]]
    paths = [path if whole[path] or path.suffix != ".mcap" else CutMcap(path) for path in files]
    reader = AnyReader(paths, default_typestore=typestore)
    for path, part in zip(files, reader.readers, strict=True):
        if path.suffix == ".db3" and not whole[path]:
            part.storage = CutSqlite(path)
    reader.open()
    return reader, ", ".join(missing)


def _files(bag: Path) -> list[Path]:
    """The files with the messages of a bag: in its folder, of one recording where the metadata tell which; or the one
    that was named."""
    if not bag.is_dir():
        return [bag]
    files = sorted(path for path in bag.iterdir() if path.suffix in SUFFIXES)
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
    return re.sub(r"_\d+$", "", path.stem) + path.suffix


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
