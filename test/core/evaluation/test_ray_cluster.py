"""A Ray cluster of several hosts, here processes of one machine, of which one is killed at work."""

from __future__ import annotations

import threading
import time

import pytest
from small_jobs import Squares, Waiting

from sparse4d_core.evaluation.tasks.local_workers import ThisMachine
from sparse4d_core.evaluation.tasks.task_run import Failure

pytest.importorskip("ray", reason="ray is not installed (requirements/ray.txt)")
from sparse4d_core.benchmark.cluster_hosts import cluster_of
from sparse4d_core.evaluation.tasks.ray_workers import RayCluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing, and two hosts with room for one task each."""
    with cluster_of(2) as made:
        yield made


def results_at(place, job, numbers):
    with place.workers(job, "nothing is kept") as workers:
        for number in numbers:
            workers.submit(number)
        found = list(workers.finished())
    assert len(found) == len(numbers), "a task has two results, or none"
    return dict(found)


def test_what_a_cluster_gives(cluster):
    """What this process gives, but that failures name the host."""
    expected = results_at(ThisMachine(["cpu"], 1), Squares(), range(10))
    found = results_at(RayCluster.connect(cluster.address), Squares(), range(10))
    failed = {number for number, result in expected.items() if isinstance(result, Failure)}
    assert failed == {7, 8} and all(
        found[number].reason.startswith(f"{expected[number].reason} (on host ") for number in failed
    )
    assert all(found[number] == expected[number] for number in expected.keys() - failed)


def kill_when_two_work(cluster, folder):
    """A host, without a warning, while it has one of two tasks; lets the tasks end then."""
    until = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    cluster.kill(0)
    (folder / "go").touch()


def test_a_host_that_is_killed(cluster, tmp_path):
    """Its task is done by the other one: no task is lost, and none has two results."""
    place = RayCluster.connect(cluster.address)
    killer = threading.Thread(target=kill_when_two_work, args=(cluster, tmp_path))
    killer.start()
    assert results_at(place, Waiting(tmp_path), range(5)) == {number: 2 * number for number in range(5)}
    killer.join()
    attempts = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir() if path.name != "go")
    assert len(attempts) == 6 and set(attempts) == {"0", "1", "2", "3", "4"}, "one task is done a second time"


def test_a_job_that_no_host_can_start(cluster, tmp_path):
    with pytest.raises(
        ChildProcessError, match="ray: host .* cannot do this work: FileNotFoundError: .*; nothing is kept"
    ):
        results_at(RayCluster.connect(cluster.address), Squares(str(tmp_path / "absent")), range(2))
