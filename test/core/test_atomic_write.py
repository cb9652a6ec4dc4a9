"""What is written whole or not at all."""

from __future__ import annotations

import json
import os
import stat

import pytest

from sparse4d_core.atomic_write import atomic_write, write_json, write_text


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "scores.npz"
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(b"new")
        assert unfinished.name == "scores.npz" and not path.exists()
    assert path.read_bytes() == b"new" and names(path.parent) == ["scores.npz"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interruption_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "results.json"
    path.write_text("before")
    with pytest.raises(type(error)), atomic_write(path) as unfinished:
        unfinished.write_text("half")
        raise error
    assert path.read_text() == "before" and names(tmp_path) == ["results.json"]


def test_a_folder_appears_with_all_its_files(tmp_path):
    path = tmp_path / "v1.0-mini"
    with atomic_write(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "scene.json").write_text("[]")
        assert not path.exists()
    assert names(path) == ["scene.json"] and names(tmp_path) == ["v1.0-mini"]
    with pytest.raises(OSError), atomic_write(path) as unfinished:
        unfinished.mkdir()
    assert names(path) == ["scene.json"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "nothing"):
        pass
    assert names(tmp_path) == []


def test_others_may_read_what_the_process_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "log.txt", "é\n")
    finally:
        os.umask(before)
    assert (tmp_path / "log.txt").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "log.txt").read_bytes() == "é\n".encode()


def test_a_pipe_is_written_to(tmp_path):
    """As a device is: it is not replaced by a file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(path, "new")
        assert os.read(reader, 100) == b"new"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode) and names(tmp_path) == ["pipe"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "store").mkdir()
    target, link = tmp_path / "store" / "first.json", tmp_path / "results.json"
    target.write_text("before")
    link.symlink_to(target)
    with atomic_write(link) as unfinished:
        unfinished.write_text("new")
        assert unfinished.name == "results.json" and target.read_text() == "before"
    assert link.is_symlink() and target.read_text() == "new"
    assert names(tmp_path / "store") == ["first.json"]


def test_json_without_a_form_changes_nothing(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and names(tmp_path) == ["results.json"]
