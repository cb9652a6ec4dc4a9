"""Domains that processes claim for themselves, beside those of other users."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
from sparse4d_ros import middleware
from sparse4d_ros.demo import __main__ as demo
from sparse4d_ros.live_view import __main__ as live_view
from sparse4d_ros.middleware import claimed_domain

NOBODY = 65534


@pytest.fixture
def folder(monkeypatch) -> Iterator[Path]:
    """Where the files lie, in a place that every user can come to; it is not there yet."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", place)
        monkeypatch.setattr(middleware, "DOMAINS", range(20, 22))
        yield Path(place) / "sparse4d_ros_domains"


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Where the tests run as root, who may write everywhere: as a user who may not."""
    user = os.geteuid()
    try:
        os.seteuid(user or NOBODY)
    except OSError:
        pytest.skip("root cannot become another user here")
    try:
        yield
    finally:
        os.seteuid(user)


def test_each_has_a_domain_of_its_own(folder):
    for _ in range(2):  # also when they were given back
        with claimed_domain() as one, claimed_domain() as other:
            assert {one, other} == {20, 21}
            with pytest.raises(RuntimeError, match="20 to 21 are all claimed"), claimed_domain():
                pass


@pytest.mark.parametrize("program", [demo, live_view], ids=["demo", "live view"])
def test_programs_tell_in_a_sentence_that_there_is_none(folder, monkeypatch, capsys, program):
    if program is live_view:
        pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")
    monkeypatch.chdir(folder.parent)  # theirs are below it
    words = [] if program is demo else ["--demo"]
    with claimed_domain(), claimed_domain():
        assert program.main(words) == 1
    assert "20 to 21 are all claimed" in capsys.readouterr().err


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_made_is_for_all_users(folder, umask):
    before = os.umask(umask)
    try:
        with claimed_domain() as domain:
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / str(domain)).stat().st_mode) == 0o644


def test_a_folder_that_was_there_keeps_its_mode(folder):
    folder.mkdir(mode=0o700)
    with claimed_domain():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_of_another_user_can_be_locked(folder):
    with claimed_domain(), claimed_domain():
        pass
    for file in folder.iterdir():
        file.chmod(0o444)
    with as_nobody(), claimed_domain(), claimed_domain():
        pass
    with claimed_domain() as one, as_nobody(), claimed_domain() as other:
        assert one != other
        with pytest.raises(RuntimeError, match="all claimed"), claimed_domain():
            pass


def test_a_folder_that_another_user_keeps_for_himself_is_called_so(folder):
    folder.mkdir(mode=0o555)
    with as_nobody(), pytest.raises(RuntimeError, match="no ROS domain can be claimed: .*ermission denied"):
        with claimed_domain():
            pass
