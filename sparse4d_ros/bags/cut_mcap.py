"""An mcap file that was cut off ► the same file with an end, made in memory; the file itself stays as it is.

A recorder writes the summary, which readers go by, at the very end. Here it is made from the records that are there,
and the chunk at the cut is replaced by one with its whole messages. Format: https://mcap.dev/spec
"""

from __future__ import annotations

import io
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX, STATISTICS, DATA_END = 2, 3, 4, 5, 6, 7, 8, 11, 15
HEAD = struct.Struct("<BQ")  # opcode, bytes that follow
CHUNK_HEAD = struct.Struct("<QQQII")  # first and last log time, bytes uncompressed, checksum, length of compression
MESSAGE_HEAD = struct.Struct("<HIQ")  # channel, sequence, log time
NO_TIME = 2**63 - 1  # first log time of a chunk without messages


class Chunk(NamedTuple):
    """A chunk record. Times in nanoseconds, offsets and sizes in bytes."""

    start: int
    length: int
    first_ns: int
    last_ns: int
    size: int
    compression: str
    compressed_size: int

    @property
    def data_start(self) -> int:
        return HEAD.size + CHUNK_HEAD.size + len(self.compression) + 8


class CutMcap:
    """A path, as the reader of rosbags takes one, of a file that has lost its end.

    Raises:
        ValueError: not an mcap file.
    """

    def __init__(self, path: Path):
        self._path, self.suffix = path, path.suffix
        self._schemas: dict[int, bytes] = {}  # id -> record
        self._channels: dict[int, bytes] = {}
        self._chunks: list[tuple[Chunk, Counter[int]]] = []  # with messages by channel
        self._counts: Counter[int] = Counter()  # channel -> messages of the file
        self._first_ns, self._last_ns = NO_TIME, 0
        with path.open("rb") as file:
            self._end, records = self._scan(file)
        self._tail = self._make_tail(records)

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        return True

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file up to the cut, and the end that it lacks."""
        return io.BufferedReader(_Continued(self._path.open(mode), self._end, self._tail))

    def _scan(self, file: BinaryIO) -> tuple[int, bytes]:
        """Takes all records in; where those end that can be used as they are, and those of the chunk behind them."""
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{self._path} does not begin as an mcap file does")
        chunk, counts, whole = None, Counter(), len(MAGIC)
        for opcode, start, stop in _whole_records(file, whole, size):
            whole = stop
            if opcode == MESSAGE_INDEX:
                counts += _count_of_index(file, start)
                continue
            if chunk is not None and not self._take_chunk(file, chunk, counts):
                return chunk.start, b""
            chunk, counts = None, Counter()
            if opcode in (DATA_END, FOOTER):
                return start, b""
            if opcode == CHUNK:
                chunk = _chunk_at(file, start, stop)
            else:
                self._take_record(file, opcode, start, stop)
        if size > whole and _byte_at(file, whole) == CHUNK:  # so the chunk before it is whole, with its indexes
            if chunk is not None and not self._take_chunk(file, chunk, counts):
                return chunk.start, b""
            return whole, self._rescue(file, whole, size)
        return (whole, b"") if chunk is None else (chunk.start, self._rescue(file, chunk.start, size))

    def _take_record(self, file: BinaryIO, opcode: int, start: int, stop: int) -> None:
        """A record outside of any chunk, or of a chunk in memory."""
        file.seek(start)
        if opcode in (SCHEMA, CHANNEL):
            record = file.read(stop - start)
            kept = self._schemas if opcode == SCHEMA else self._channels
            kept.setdefault(int.from_bytes(record[HEAD.size : HEAD.size + 2], "little"), record)
        elif opcode == MESSAGE:
            channel, _, time_ns = MESSAGE_HEAD.unpack(file.read(HEAD.size + MESSAGE_HEAD.size)[HEAD.size :])
            self._count(Counter({channel: 1}), time_ns, time_ns)

    def _count(self, counts: Counter[int], first_ns: int, last_ns: int) -> None:
        if counts:
            self._counts += counts
            self._first_ns, self._last_ns = min(self._first_ns, first_ns), max(self._last_ns, last_ns)

    def _take_chunk(self, file: BinaryIO, chunk: Chunk, counts: Counter[int]) -> bool:
        """A chunk with what its indexes count; it is opened only where it may have new channels. False: damaged."""
        if not counts or counts.keys() - self._channels.keys():
            content = _content(file, chunk, chunk.start + chunk.length)
            if len(content) != chunk.size:
                return False
            counts = self._take_content(content)[1]
        else:
            self._count(counts, chunk.first_ns, chunk.last_ns)
        self._chunks.append((chunk, counts))
        return True

    def _take_content(self, content: bytes) -> tuple[int, Counter[int]]:
        """The whole records of a chunk: where they end, and how many messages of each channel they are."""
        before, end, inner = self._counts.copy(), 0, io.BytesIO(content)
        for opcode, start, stop in _whole_records(inner, 0, len(content)):
            self._take_record(inner, opcode, start, stop)
            end = stop
        return end, self._counts - before

    def _rescue(self, file: BinaryIO, start: int, size: int) -> bytes:
        """The chunk at the cut, anew, with the records that are whole."""
        chunk = _chunk_at(file, start, size)
        if chunk is None:
            return b""
        content = _content(file, chunk, size)
        end, counts = self._take_content(content)
        data = CHUNK_HEAD.pack(chunk.first_ns, chunk.last_ns, end, 0, 0) + struct.pack("<Q", end) + content[:end]
        record = _record(CHUNK, data)
        self._chunks.append((Chunk(start, len(record), chunk.first_ns, chunk.last_ns, end, "", end), counts))
        return record

    def _make_tail(self, records: bytes) -> bytes:
        tail = records + _record(DATA_END, bytes(4))
        summary_start = self._end + len(tail)
        tail += b"".join([*self._schemas.values(), *self._channels.values()])
        tail += b"".join(_chunk_index(chunk, counts) for chunk, counts in self._chunks)
        counted = b"".join(struct.pack("<HQ", *entry) for entry in sorted(self._counts.items()))
        numbers = (self._counts.total(), len(self._schemas), len(self._channels), 0, 0, len(self._chunks))
        times = (self._first_ns, self._last_ns)
        tail += _record(STATISTICS, struct.pack("<QHIIIIQQI", *numbers, *times, len(counted)) + counted)
        return tail + _record(FOOTER, struct.pack("<QQI", summary_start, 0, 0)) + MAGIC


class _Continued(io.RawIOBase):
    """A file up to `length`, then `tail`."""

    def __init__(self, file: BinaryIO, length: int, tail: bytes):
        self._file, self._length, self._tail, self._position = file, length, tail, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length + len(self._tail)}
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer) -> int:
        beyond = self._position - self._length
        if beyond < 0:
            self._file.seek(self._position)
            data = self._file.read(min(len(buffer), -beyond))
        else:
            data = self._tail[beyond : beyond + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _whole_records(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(opcode, start, stop) of each record up to the first that is not whole. Between two, the file may be read."""
    while start + HEAD.size <= size:
        file.seek(start)
        opcode, length = HEAD.unpack(file.read(HEAD.size))
        stop = start + HEAD.size + length
        if opcode == 0 or stop > size:  # 0: a part of the file that was never written
            return
        yield opcode, start, stop
        start = stop


def _byte_at(file: BinaryIO, position: int) -> int:
    file.seek(position)
    return file.read(1)[0]


def _chunk_at(file: BinaryIO, start: int, stop: int) -> Chunk | None:
    """The chunk whose record begins at `start`; None if it is cut before its content."""
    file.seek(start)
    head = file.read(min(stop - start, HEAD.size + CHUNK_HEAD.size + 256))
    if len(head) < HEAD.size + CHUNK_HEAD.size:
        return None
    (length,) = struct.unpack_from("<Q", head, 1)
    first_ns, last_ns, size, _, name_length = CHUNK_HEAD.unpack_from(head, HEAD.size)
    name = head[HEAD.size + CHUNK_HEAD.size :][:name_length]
    rest = head[HEAD.size + CHUNK_HEAD.size + name_length :][:8]
    if len(rest) < 8:
        return None
    compression = name.decode(errors="replace")
    return Chunk(start, HEAD.size + length, first_ns, last_ns, size, compression, int.from_bytes(rest, "little"))


def _count_of_index(file: BinaryIO, start: int) -> Counter[int]:
    """Messages of the one channel that a message index is about: 16 bytes each."""
    file.seek(start + HEAD.size)
    channel, length = struct.unpack("<HI", file.read(6))
    return Counter({channel: length // 16})


def _content(file: BinaryIO, chunk: Chunk, size: int) -> bytes:
    """As much of a chunk's records as a file of this size gives; nothing if they are damaged."""
    start = chunk.start + chunk.data_start
    file.seek(start)
    data = file.read(max(0, min(chunk.compressed_size, size - start)))
    try:
        if chunk.compression == "zstd":
            return zstd.ZstdDecompressor().decompress(data)
        if chunk.compression == "lz4":
            return LZ4FrameDecompressor().decompress(data)
    except (zstd.ZstdError, RuntimeError):
        return b""
    return b"" if chunk.compression else data


def _record(opcode: int, content: bytes) -> bytes:
    return HEAD.pack(opcode, len(content)) + content


def _chunk_index(chunk: Chunk, counts: Counter[int]) -> bytes:
    """Its message indexes stand where the reader would look for their lengths alone, by which it counts messages."""
    offset, offsets = chunk.start + chunk.length, b""
    for channel, count in counts.items():
        offsets += struct.pack("<HQ", channel, offset)
        offset += HEAD.size + 6 + 16 * count
    head = struct.pack("<QQQQI", chunk.first_ns, chunk.last_ns, chunk.start, chunk.length, len(offsets))
    compression = chunk.compression.encode()
    middle = struct.pack("<QI", offset - chunk.start - chunk.length, len(compression)) + compression
    return _record(CHUNK_INDEX, head + offsets + middle + struct.pack("<QQ", chunk.compressed_size, chunk.size))
