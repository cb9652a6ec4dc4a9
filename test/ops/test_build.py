"""Building the operator: what an interrupted build leaves behind must not block the next one."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from cuda_ops import build


def test_lock_of_a_killed_build_is_removed(tmp_path):
    (tmp_path / "lock").touch()  # torch's, as a killed compilation leaves it
    with build._sole_builder(tmp_path):
        assert not (tmp_path / "lock").exists()


def _hold(folder, entered, seconds):
    with build._sole_builder(folder):
        entered.set()
        time.sleep(seconds)


@pytest.mark.parametrize("killed", [False, True])
def test_one_build_at_a_time(tmp_path, killed):
    context = multiprocessing.get_context("fork")  # starts at once, so that a second of waiting means something
    entered, second = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(tmp_path, entered, 600 if killed else 4), daemon=True)
    first.start()
    assert entered.wait(60)
    other = context.Process(target=_hold, args=(tmp_path, second, 0), daemon=True)
    other.start()
    assert not second.wait(1), "a second build entered the folder of a running one"
    if killed:
        first.kill()
    assert second.wait(60)
    first.join()
    other.join()
