"""Building the operator: what an interrupted build leaves behind must not block the next one."""

from __future__ import annotations

import multiprocessing

import pytest
from cuda_ops import build


def test_lock_of_a_killed_build_is_removed(tmp_path):
    (tmp_path / "lock").touch()  # torch's, as a killed compilation leaves it
    with build._sole_builder(tmp_path):
        assert not (tmp_path / "lock").exists()


def _hold(folder, entered, leave):
    with build._sole_builder(folder):
        entered.set()
        leave.wait(20)


@pytest.mark.parametrize("killed", [False, True])
def test_one_build_at_a_time(tmp_path, killed):
    context = multiprocessing.get_context("spawn")
    entered, leave, second = context.Event(), context.Event(), context.Event()
    first = context.Process(target=_hold, args=(tmp_path, entered, leave))
    first.start()
    assert entered.wait(60)
    other = context.Process(target=_hold, args=(tmp_path, second, leave))
    other.start()
    assert not second.wait(0.5), "a second build entered the folder of a running one"
    if killed:
        first.kill()
    else:
        leave.set()
    assert second.wait(60)
    leave.set()
    first.join()
    other.join()
