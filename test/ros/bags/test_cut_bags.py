"""Bags whose recording never came to its end: what is there is read, in order, and the rest is said to be missing."""

from __future__ import annotations

import io
import shutil
import sqlite3
import tempfile
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest

pytest.importorskip("rosbags")
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionFormat, CompressionMode, ReaderError, Writer
from rosbags.rosbag2.storage_mcap import McapReader

from sparse4d_ros.bags import cut_mcap
from sparse4d_ros.bags.bag_io import STORAGE, BagError, create_bag, read_messages, typestore
from sparse4d_ros.bags.cut_mcap import CHUNK as CHUNK_RECORD
from sparse4d_ros.bags.cut_mcap import DATA_END, MAGIC, MESSAGE_INDEX, CutMcap

COUNT = 12  # messages of a bag, on two topics in turn
CHUNK = 4  # messages of a chunk
COMPRESSION = {"zstd": CompressionMode.STORAGE, "message": CompressionMode.MESSAGE, "file": CompressionMode.FILE}
START_NS = 1_700_000_000_000_000_000


def text(number: int) -> str:
    return f"message {number} " + str(number) * 40


def write_bag(
    folder: Path, storage: str = "mcap", compression: str = "", first: int = 0, data: bytes | None = None
) -> Path:
    """A bag of short texts; its second topic begins in the second chunk.

    Args:
        compression: of the chunks (zstd, lz4), of each message, or of the whole file.
        first: number of its first text.
        data: of all messages; None: texts.
    """
    message_type = typestore().types["std_msgs/msg/String"]
    writer = Writer(folder, version=8, storage_plugin=STORAGE[storage])
    if compression in COMPRESSION:
        writer.set_compression(COMPRESSION[compression], CompressionFormat.ZSTD)
    with writer:
        if compression == "lz4":
            writer.storage.compression, writer.storage.compressor = "lz4", lz4.frame.compress
        topics = {}
        for number in range(first, first + COUNT):
            topic = f"/text_{number % 2 if number >= CHUNK else 0}"
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, message_type.__msgtype__, typestore=typestore())
            content = typestore().serialize_cdr(message_type(data=text(number)), message_type.__msgtype__)
            writer.write(topics[topic], START_NS + number * 1000, content if data is None else data)
            if storage == "mcap" and number % CHUNK == CHUNK - 1:
                writer.storage.close_chunk()
    return folder


def texts(bag: Path) -> list[str]:
    return [message.data for _, _, message in read_messages(bag)]


EVERYTHING = [text(number) for number in range(COUNT)]


WHOLE_BUT_FOR_ITS_END = "mcap.mcap was cut off; 12 messages, the last of 2023-11-14 22:13:20.000 UTC, can be read"


def storage_file(bag: Path) -> Path:
    (path,) = (path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    return path


def cut(bag: Path, target: Path, size: int) -> Path:
    """A copy of the bag without metadata and with so many bytes of its file."""
    target.mkdir()
    source = storage_file(bag)
    (target / source.name).write_bytes(source.read_bytes()[:size])
    return target


# ---------------------------------------------------------------------------------------------------------------- mcap


def mcap_texts(path: Path) -> list[bytes] | None:
    """Messages of a file without its end; None: not even a header is left."""
    try:
        reader = McapReader(CutMcap(path))
        reader.open()
    except (ReaderError, ValueError):
        return None
    found = [bytes(data) for _, _, data in reader.messages(reader.connections)]
    assert reader.metadata.message_count == len(found) == sum(c.msgcount for c in reader.connections)
    reader.close()
    return found


def records_of(content: bytes, without: tuple[int, ...] = (), chunks: bool = True) -> bytes:
    """The data of an mcap file without records of some kinds, and without chunks around what is in them."""
    file, kept = io.BytesIO(content), b""
    for opcode, start, stop in cut_mcap._whole_records(
        file, 0 if content[:1] != MAGIC[:1] else len(MAGIC), len(content)
    ):
        if opcode == DATA_END:
            break
        if opcode == CHUNK_RECORD and not chunks:
            chunk = cut_mcap._chunk_at(file, start, stop)
            kept += records_of(content[start + chunk.data_start : stop])
        elif opcode not in without:
            kept += content[start:stop]
    return kept


def chunk_starts(content: bytes) -> list[int]:
    records = cut_mcap._whole_records(io.BytesIO(content), len(MAGIC), len(content))
    return [start for opcode, start, _ in records if opcode == CHUNK_RECORD]


LAYOUTS = {
    "chunks": lambda content: content,
    "no indexes": lambda content: MAGIC + records_of(content, without=(MESSAGE_INDEX,)),
    "no chunks": lambda content: MAGIC + records_of(content, without=(MESSAGE_INDEX,), chunks=False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_mcap_file_cut_at_every_byte(tmp_path, layout):
    """What comes out is the beginning of what was recorded, and never less where more of the file is left."""
    content = LAYOUTS[layout](storage_file(write_bag(tmp_path / "bag")).read_bytes())
    end = content.rindex(text(COUNT - 1).encode()) + 200  # of the last message, and some of what comes then
    path = tmp_path / "cut.mcap"
    path.write_bytes(content[:end])
    everything, before = mcap_texts(path), COUNT
    assert len(everything) == COUNT
    for size in range(min(end, len(content)), 8, -1):
        with path.open("r+b") as file:
            file.truncate(size)
        found = mcap_texts(path)
        if found is None:
            assert size < 80
            break
        assert found == everything[: len(found)] and len(found) <= before
        before = len(found)
    assert before == 0


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_an_mcap_file_with_compressed_chunks_loses_the_chunk_at_the_cut_at_most(tmp_path, compression):
    content = storage_file(write_bag(tmp_path / "bag", compression=compression)).read_bytes()
    chunks = [
        start
        for code, start, _ in cut_mcap._whole_records(io.BytesIO(content), 8, len(content))
        if code == CHUNK_RECORD
    ]
    assert len(chunks) == COUNT // CHUNK
    path = tmp_path / "cut.mcap"
    path.write_bytes(content)
    everything = mcap_texts(path)
    for size in range(len(content), chunks[0], -37):
        with path.open("r+b") as file:
            file.truncate(size)
        found = mcap_texts(path)
        assert found == everything[: len(found)]
        assert len(found) >= CHUNK * (sum(start < size for start in chunks) - 1)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_cut_bag_is_read_as_far_as_it_goes(bags, data):
    """Of both storages, without metadata as a recorder leaves it that died: the messages are a prefix, or the bag is
    refused in a sentence."""
    bag = bags[data.draw(st.sampled_from(sorted(bags)))]
    size = data.draw(st.integers(0, storage_file(bag).stat().st_size))
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = texts(cut(bag, Path(folder) / "cut", size))
        except BagError as error:
            assert "cannot be read" in str(error)
        else:
            assert found == EVERYTHING[: len(found)]


@pytest.fixture(scope="module")
def bags(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bags")
    return {
        "mcap": write_bag(folder / "mcap"),
        "zstd": write_bag(folder / "zstd", compression="zstd"),
        "sqlite3": write_bag(folder / "sqlite3", "sqlite3"),
    }


def test_the_warning_has_how_much_is_left(bags, tmp_path, caplog):
    """Once, although a command opens a bag several times."""
    content = storage_file(bags["mcap"]).read_bytes()
    copy = cut(bags["mcap"], tmp_path / "cut", content.index(text(7).encode()) + 3)
    assert texts(copy) == texts(copy) == EVERYTHING[:7]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"bag: {copy}: metadata.yaml is missing, mcap.mcap was cut off; "
        "7 messages, the last of 2023-11-14 22:13:20.000 UTC, can be read"
    )
    assert sorted(path.name for path in copy.iterdir()) == ["mcap.mcap"]


def test_a_bag_whose_copying_was_cut_off(bags, tmp_path, caplog):
    """The metadata promise more than there is; a file can be named as well as its folder."""
    copy = Path(shutil.copytree(bags["mcap"], tmp_path / "copy"))
    path = storage_file(copy)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    assert texts(copy) == texts(path) == EVERYTHING
    assert [record.getMessage().split(": ")[2].split(";")[0] for record in caplog.records] == [
        "mcap.mcap was cut off"
    ] * 2


@pytest.mark.parametrize("metadata", [None, "", "rosbag2_bagfile_information:\n  version: 8\n  relat"])
def test_metadata_that_were_never_written(bags, tmp_path, caplog, metadata):
    copy = Path(shutil.copytree(bags["mcap"], tmp_path / "copy"))
    (copy / "metadata.yaml").unlink()
    if metadata is not None:
        (copy / "metadata.yaml").write_text(metadata)
    assert texts(copy) == EVERYTHING
    assert "12 messages" in caplog.text and "metadata" in caplog.text


def test_a_file_that_the_metadata_do_not_list_yet(tmp_path, caplog):
    """A recorder that splits its bag writes metadata for the files that it has ended."""
    bag = write_bag(tmp_path / "bag_0")
    first = storage_file(bag)
    later = write_bag(tmp_path / "bag_1", first=COUNT)
    shutil.copy(storage_file(later), bag)
    shutil.copy(first, bag / "notes.mcap")  # of another recording
    assert texts(bag) == EVERYTHING + [text(number) for number in range(COUNT, 2 * COUNT)]
    assert "metadata.yaml does not list bag_1.mcap; 24 messages" in caplog.text


@pytest.mark.parametrize("metadata", ["there", "missing"])
@pytest.mark.parametrize("left", [b"", bytes(4096), MAGIC], ids=["nothing", "zeros", "magic"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_last_file_with_nothing_in_it_does_not_cost_the_others(tmp_path, caplog, storage, left, metadata):
    bag = write_bag(tmp_path / "bag_0", storage)
    last = storage_file(bag).with_stem("bag_1")
    last.write_bytes(left)
    if metadata == "missing":
        (bag / "metadata.yaml").unlink()
    assert texts(bag) == EVERYTHING
    assert f"{last.name} holds nothing; 12 messages" in caplog.text
    last.with_stem("bag_0").write_bytes(left)
    with pytest.raises(BagError, match="cannot be read"):
        texts(bag)


def test_a_damaged_chunk_ends_the_reading(tmp_path, caplog):
    bag = write_bag(tmp_path / "bag", compression="zstd")
    path = storage_file(bag)
    content = bytearray(path.read_bytes())
    chunks = [
        start
        for code, start, _ in cut_mcap._whole_records(io.BytesIO(content), 8, len(content))
        if code == CHUNK_RECORD
    ]
    content[chunks[1] + 53 : chunks[1] + 63] = bytes(10)  # where the compressed data begin
    path.write_bytes(content)
    assert texts(bag) == EVERYTHING[:CHUNK]
    assert "is damaged" in caplog.text and f"{CHUNK} messages, the last of" in caplog.text


def test_nothing_left(bags, tmp_path):
    for size in (0, 5, 40):
        with pytest.raises(BagError, match="cannot be read"):
            next(read_messages(cut(bags["mcap"], tmp_path / str(size), size)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="neither metadata.yaml nor a file of type .mcap or .db3"):
        next(read_messages(tmp_path / "empty"))


def test_a_message_that_is_not_of_its_type(tmp_path):
    bag = write_bag(tmp_path / "bag", data=b"\x00\x01\x00\x00\xff")
    with pytest.raises(BagError, match="a message on /text_0 is no std_msgs/msg/String"):
        texts(bag)


# ------------------------------------------------------------------------------------------------------------- sqlite3


def write_more(bag: Path, first: int, journal_mode: str, count: int = 50) -> sqlite3.Connection:
    """Adds messages to an sqlite3 bag as a recorder that is at work."""
    database = sqlite3.connect(storage_file(bag), isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {journal_mode}")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("PRAGMA cache_size = 1")  # so that a transaction does not fit
    database.execute("BEGIN")
    message_type = typestore().types["std_msgs/msg/String"]
    for number in range(first, first + count):
        data = typestore().serialize_cdr(message_type(data=text(number)), message_type.__msgtype__)
        row = (1, START_NS + number * 1000, bytes(data))
        database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    return database


def power_lost(bag: Path, target: Path) -> Path:
    """The files as they are at this moment."""
    return Path(shutil.copytree(bag, target))


def test_a_write_ahead_log_that_was_never_applied(tmp_path, caplog):
    bag = write_bag(tmp_path / "bag", "sqlite3")
    database = write_more(bag, COUNT, "WAL")
    database.execute("COMMIT")
    copy = power_lost(bag, tmp_path / "copy")
    database.close()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert "bag.db3-wal" in before
    assert texts(copy) == EVERYTHING + [text(number) for number in range(COUNT, COUNT + 50)]
    assert "bag.db3 was cut off; 62 messages" in caplog.text
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_rollback_journal_takes_an_unfinished_transaction_back(tmp_path, caplog):
    bag = write_bag(tmp_path / "bag", "sqlite3")
    database = write_more(bag, COUNT, "DELETE", count=400)
    copy = power_lost(bag, tmp_path / "copy")
    database.close()
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert "bag.db3-journal" in before and text(COUNT + 1).encode() in before["bag.db3"]
    assert texts(copy) == EVERYTHING
    assert "bag.db3 was cut off; 12 messages" in caplog.text
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_an_sqlite3_file_without_its_last_pages(tmp_path):
    """Up to where a row, or the way to it, is missing."""
    bag = write_bag(tmp_path / "bag", "sqlite3")
    write_more(bag, COUNT, "OFF").execute("COMMIT").connection.close()
    counts = []
    for pages in range(storage_file(bag).stat().st_size // 4096 - 1, 0, -1):
        try:
            found = texts(cut(bag, tmp_path / f"{pages}", pages * 4096))
        except BagError as error:
            found = []
            assert "cannot be read" in str(error)
        assert found == [text(number) for number in range(len(found))]
        counts.append(len(found))
    assert counts == sorted(counts, reverse=True) and counts[0] > COUNT and counts[-1] == 0


# --------------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_compressed_messages_are_known_without_metadata(tmp_path, storage):
    bag = write_bag(tmp_path / "bag", storage, "message")
    assert texts(bag) == texts(storage_file(bag)) == EVERYTHING
    (bag / "metadata.yaml").unlink()
    assert texts(bag) == EVERYTHING


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("metadata", ["there", "missing"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_compressed_files_beside_the_one_that_was_being_written(tmp_path, temporary, caplog, storage, metadata):
    bag = write_bag(tmp_path / "bag_0", storage, "file")
    (packed,) = bag.glob("*.zstd")
    last = storage_file(write_bag(tmp_path / "bag_1", storage, first=COUNT))
    shutil.copy(last, bag)
    if metadata == "missing":
        (bag / "metadata.yaml").unlink()
    assert texts(bag) == EVERYTHING + [text(number) for number in range(COUNT, 2 * COUNT)]
    assert "24 messages" in caplog.text and not list(temporary.iterdir())
    packed.write_bytes(packed.read_bytes()[:10])
    assert texts(bag) == [text(number) for number in range(COUNT, 2 * COUNT)]
    assert f"{packed.name} holds nothing" in caplog.text


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_one_compressed_file(tmp_path, temporary, caplog, storage):
    """Nothing of it is missing. While it is being compressed both are there."""
    bag = write_bag(tmp_path / "bag", storage, "file")
    (packed,) = bag.glob("*.zstd")
    assert texts(bag) == texts(packed) == EVERYTHING and not caplog.text and not list(temporary.iterdir())
    shutil.copy(storage_file(write_bag(tmp_path / "other" / "bag", storage)), bag)
    (bag / "metadata.yaml").unlink()
    packed.write_bytes(packed.read_bytes()[:10])
    assert texts(bag) == EVERYTHING and "metadata.yaml is missing; 12 messages" in caplog.text


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("damage", ["none", "cut"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_memory_does_not_grow_with_the_bag(tmp_path, storage, damage):
    """32 MB of messages pass through less than a quarter of that."""
    bag, size = tmp_path / "bag", 2**18
    with create_bag(bag, storage) as writer:
        message_type = typestore().types["std_msgs/msg/String"]
        for number in range(128):
            writer.write("/text", START_NS + number, message_type(data="x" * size))
    if damage == "cut":
        bag = cut(bag, tmp_path / "cut", storage_file(bag).stat().st_size - 2**16)
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_messages(bag))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count >= 100
    assert peak < 128 * size / 4
