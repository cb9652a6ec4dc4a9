"""Reading and writing rosbag2 with the official message definitions; no ROS process involved.

A bag appears under its name only when it is complete: it is written to a hidden sibling folder and renamed at the end.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ..share import PARENT, share_folders
from ..units import NANOSECONDS
from .cut_bag import is_unfinished, open_cut_bag
from .cut_mcap import zstd

log = logging.getLogger(__name__)

STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
_BAG_VERSION = 8  # the newest metadata layout that every distribution from Humble on reads
_ZSTD = b"\x28\xb5\x2f\xfd"  # how zstd's data begin, and no serialized message
_FOREVER = QosTime(9223372036, 854775807)  # RMW_DURATION_INFINITE


class BagError(ValueError):
    """A bag that cannot be written or read as asked."""


@cache
def typestore() -> Typestore:
    """Message types by name: those of ROS 2 Humble (unchanged since) and vision_msgs as installed."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = {}
    for path in sorted(_definitions("vision_msgs").glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(encoding="utf-8"), f"vision_msgs/msg/{path.stem}"))
    store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
    return store


def _definitions(package: str) -> Path:
    """Folder of an interface package's .msg files: in a ROS installation, a virtual environment, or the sources."""
    folders = [folder / "msg" for folder in share_folders(package)]
    folders.append(PARENT / "underlay" / package / "msg")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise BagError(
        f"{package}: no message definitions in {', '.join(map(str, folders))}; install ros-<distro>-{package}"
    )


def quality_of_service(latched: bool = False, depth: int = 10) -> Qos:
    """Reliable, as publishers offer it; `latched` = transient local, so that late subscribers get it too."""
    return Qos(
        QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC, _FOREVER, False,
    )  # fmt: skip


class BagWriter:
    """Messages of rosbags' types into an open bag; topics are declared by their first message."""

    def __init__(self, writer: Writer, latched: Sequence[str] = ("/tf_static",)):
        self._writer, self._latched = writer, latched
        self._connections: dict[str, Any] = {}
        self.count = 0

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Append one message; the log time is the message's own stamp."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic,
                message.__msgtype__,
                typestore=typestore(),
                offered_qos_profiles=[quality_of_service(topic in self._latched)],
            )
        self._writer.write(self._connections[topic], stamp_ns, typestore().serialize_cdr(message, message.__msgtype__))
        self.count += 1


@contextmanager
def create_bag(out: str | Path, storage: str = "mcap", force: bool = False) -> Iterator[BagWriter]:
    """A bag folder that exists under its name only after everything was written.

    Args:
        out: folder to create.
        storage: mcap or sqlite3.
        force: replace an existing bag (at the end, when the new one is complete).

    Raises:
        BagError: `out` exists and `force` is not set, or exists and is no bag, or is a link; unknown storage.
    """
    out = Path(out).absolute()
    if storage not in STORAGE:
        raise BagError(f"storage: {storage!r}; expected one of {', '.join(STORAGE)}")
    check_replaceable(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        with Writer(scratch / out.name, version=_BAG_VERSION, storage_plugin=STORAGE[storage]) as writer:
            yield BagWriter(writer)
        if out.exists():
            shutil.rmtree(out)
        os.replace(scratch / out.name, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(out: Path, force: bool) -> None:
    """Refuse to overwrite a bag without `force`, and anything that is not a bag in any case.

    Raises:
        BagError: says so. A link is refused, too: a folder cannot take its place.
    """
    if out.is_symlink():
        raise BagError(f"out: {out} is a link; name the folder that it points to, {out.readlink()}")
    if not out.exists():
        return
    if not (out / "metadata.yaml").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise BagError(f"out: {out} exists and is not a bag; choose another name")
    if not force:
        raise BagError(f"out: {out} exists; choose another name or replace it with --force")


class BagReader:
    """An open bag. Where it is damaged, reading ends, with a warning; the bag's own message definitions are used where
    it has some.

    Attributes:
        connections: topics with their types and how they were offered, of rosbags.
        topics: name -> its type and counts, of rosbags.
    """

    def __init__(self, path: Path, reader: AnyReader):
        self._path, self._reader = path, reader
        self.connections, self.topics = list(reader.connections), reader.topics

    def messages(self, connections: Sequence[Connection] = ()) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, log time in nanoseconds, serialized message) in log order; no connections = all."""
        count, last_ns = 0, 0
        messages = map(_uncompressed, self._reader.messages(connections=connections))
        while True:
            try:
                row = next(messages, None)
            except Exception as error:  # the reader's errors have no common base
                _say(f"bag: {self._path} is damaged: {error}; {_extent(count, last_ns)} could be read")
                return
            if row is None:
                return
            count, last_ns = count + 1, row[1]
            yield row

    def deserialize(self, topic: str, data: bytes, message_type: str) -> Any:
        """
        Raises:
            BagError: the message is not of the type that the bag gives it.
        """
        try:
            return self._reader.deserialize(data, message_type)
        except Exception as error:
            raise BagError(f"bag: {self._path}: a message on {topic} is no {message_type}: {error}") from error


def _uncompressed(row: tuple[Connection, int, bytes]) -> tuple[Connection, int, bytes]:
    """Of a message recorded with --compression-mode message: in files without metadata rosbags leaves them packed."""
    connection, log_ns, data = row
    return connection, log_ns, zstd.decompress(data) if data[:4] == _ZSTD else data


@contextmanager
def open_bag(path: str | Path) -> Iterator[BagReader]:
    """An open reader. A bag that was cut off while it was recorded is read as far as it goes, with a warning.

    Raises:
        BagError: no such folder, not a bag, or nothing left of it.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"bag: {path} does not exist")
    with ExitStack() as stack:
        try:
            reader = _open(path, stack)
        except Exception as error:  # the reader's errors have no common base
            raise BagError(f"bag: {path} cannot be read: {error}") from error
        yield BagReader(path, reader)


def _open(path: Path, stack: ExitStack) -> AnyReader:
    """The stack closes it."""
    reason = None
    if not is_unfinished(path):
        try:
            return stack.enter_context(AnyReader([path], default_typestore=typestore()))
        except Exception as error:
            reason = error
    try:
        reader, missing = open_cut_bag(path, typestore(), stack)
    except Exception as error:
        raise error from reason
    damage = missing or reason
    if damage and not reader.message_count:
        raise BagError(f"{damage}; no message is left of it")
    if damage:
        _say(f"bag: {path}: {damage}; {_extent(reader.message_count, reader.end_time - 1)} can be read")
    return reader


@cache
def _say(text: str) -> None:
    """Once, however often a command opens the bag."""
    log.warning(text)


def _extent(count: int, last_ns: int) -> str:
    """`12 messages, the last of 2026-11-26 00:00:00.000 UTC,`"""
    if not count:
        return "no message"
    last = datetime.fromtimestamp(last_ns / NANOSECONDS, timezone.utc)
    return f"{count} messages, the last of {last:%Y-%m-%d %H:%M:%S}.{last.microsecond // 1000:03} UTC,"


def read_messages(path: str | Path, topics: Sequence[str] | None = None) -> Iterator[tuple[str, int, Any]]:
    """(topic, log time in nanoseconds, deserialized message) in log order; `topics` None = all."""
    with open_bag(path) as reader:
        connections = [c for c in reader.connections if topics is None or c.topic in topics]
        if not connections:
            return
        for connection, log_ns, data in reader.messages(connections=connections):
            yield connection.topic, log_ns, reader.deserialize(connection.topic, data, connection.msgtype)
