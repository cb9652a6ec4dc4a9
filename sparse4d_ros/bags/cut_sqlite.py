"""The rows of an sqlite3 bag that was cut off: with a journal that nobody ever applied, or without its last pages.

Readers of bags take the file alone, and so miss what stands in a write-ahead log, or read what a rollback journal would
take back. The files of the bag stay as they are.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.metadata import ReaderMetadata, parse_qos

JOURNALS = ("-wal", "-journal")
FORMATS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}


def journal_of(path: Path) -> Path | None:
    """The journal beside a database, if it has one with something in it."""
    for suffix in JOURNALS:
        journal = path.with_name(path.name + suffix)
        if journal.is_file() and journal.stat().st_size:
            return journal
    return None


class CutSqlite:
    """A storage for the reader of rosbags.

    Args:
        path: of the database. With a journal its messages come in the order of time; without, in that of recording,
            which needs no index, up to the first page that is missing.

    Raises:
        sqlite3.Error: there is not even a table of topics.
    """

    def __init__(self, path: Path):
        self._path, self._journal = path, journal_of(path)
        self._order = "timestamp" if self._journal else "id"
        self.metadata = ReaderMetadata(0, 2**63 - 1, 0, 0, None, None, None, None)
        with ExitStack() as stack:
            self._database = self._connect(stack)
            self.connections = self._read_topics()
            self._stack = stack.pop_all()  # from here on `close` does it

    def open(self) -> None:
        """Counts the messages."""
        count, first_ns, last_ns = 0, 2**63 - 1, -1
        for time_ns, *_ in self._rows("timestamp" if self._journal else "timestamp, data"):  # data: are they all there?
            count, first_ns, last_ns = count + 1, min(first_ns, time_ns), max(last_ns, time_ns)
        self.metadata = ReaderMetadata(
            last_ns + 1 - first_ns if count else 0, first_ns, last_ns + 1, count, None, None, None, None
        )

    def close(self) -> None:
        self._stack.close()

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, log time in nanoseconds, serialized message."""
        by_id = {connection.id: connection for connection in connections}
        for time_ns, topic, data in self._rows("timestamp, topic_id, data"):
            if topic in by_id and (start is None or time_ns >= start) and (stop is None or time_ns < stop):
                yield by_id[topic], time_ns, data

    def _connect(self, stack: ExitStack) -> sqlite3.Connection:
        """The stack closes it again."""
        if self._journal is None:
            uri = f"file:{quote(str(self._path))}?mode=ro&immutable=1"
            database = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            database.execute("PRAGMA writable_schema = ON")  # or a file without its last pages is refused
            return database
        # Whoever opens a database with a journal applies it, so this is done to a copy.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparse4d_ros_bag_")))
        for path in (self._path, self._journal):
            shutil.copyfile(path, folder / path.name)
        return stack.enter_context(closing(sqlite3.connect(folder / self._path.name)))

    def _read_topics(self) -> list[Connection]:
        columns = [row[1] for row in self._database.execute("PRAGMA table_info(topics)")]
        quality = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        definitions = self._read_definitions()
        topics = self._database.execute(f"SELECT id, name, type, serialization_format, {quality} FROM topics")
        return [
            Connection(
                number, name, kind, definitions.get(kind, MessageDefinition(MessageDefinitionFormat.NONE, "")), "", 0,
                ConnectionExtRosbag2(encoding, parse_qos(profiles)), self,
            )
            for number, name, kind, encoding, profiles in topics
        ]  # fmt: skip

    def _read_definitions(self) -> dict[str, MessageDefinition]:
        """Of the message types, where the bag has them."""
        if not self._database.execute("PRAGMA table_info(message_definitions)").fetchall():
            return {}
        rows = self._database.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        )
        return {
            kind: MessageDefinition(FORMATS[encoding], text) for kind, encoding, text in rows if encoding in FORMATS
        }

    def _rows(self, columns: str) -> Iterator[tuple]:
        """Rows of messages up to the first that is not whole."""
        rows = self._database.cursor()
        try:
            rows.execute(f"SELECT {columns} FROM messages ORDER BY {self._order}")
            row = rows.fetchone()
            while row is not None:
                yield row
                row = rows.fetchone()
        except sqlite3.DatabaseError:  # here the file ends
            return
