"""Tasks through workers here: the same results wherever they run, failures by name, and clear words about clusters."""

from __future__ import annotations

import os
import socket
import sys
import threading

import pytest
from small_jobs import Squares

from sparse4d_core.evaluation.tasks import cluster_host, cluster_option, ray_address
from sparse4d_core.evaluation.tasks.cluster_host import CannotStart, Setup, program, run_on_host, sources_digest
from sparse4d_core.evaluation.tasks.local_workers import ThisMachine
from sparse4d_core.evaluation.tasks.task_run import Failure

SQUARES = Squares()


def results_at(place, numbers, job=SQUARES):
    with place.workers(job, "nothing is kept: go on with --resume") as workers:
        for number in numbers:
            workers.submit(number)
        return dict(workers.finished())


HERE, TWO = ThisMachine(["cpu"], 1), ThisMachine(["first", "second"], 2)


def test_processes_give_what_this_one_gives(tmp_path):
    alone = results_at(HERE, range(10))
    assert alone == results_at(TWO, range(10), Squares(str(tmp_path)))
    assert {name.partition("-")[0] for name in os.listdir(tmp_path)} == {"first", "second"}
    assert alone[9] == 81 and alone[7] == Failure("ValueError: seven is no number")


def test_a_fault_of_the_program_leaves_its_trace(caplog):
    assert results_at(HERE, [8, 3]) == {8: Failure("TypeError: a fault of the program"), 3: 9}
    assert 'raise TypeError("a fault of the program")' in caplog.text


def test_tasks_may_be_added_while_results_come():
    with HERE.workers(Squares(), "") as workers:
        workers.submit(2)
        found = {}
        for number, result in workers.finished():
            found[number] = result
            if result < 100:
                workers.submit(result)
    assert found == {2: 4, 4: 16, 16: 256}


def test_a_process_that_dies_ends_the_run():
    with pytest.raises(ChildProcessError, match="one of 2 died .* go on with --resume, perhaps with fewer --processes"):
        results_at(TWO, [13, 1, 2])


# --- Addresses of clusters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "host", "host:", ":6379", "ray://host:10001", "host:0", "host:99999", "a:b"])
def test_an_address_of_another_form(address):
    with pytest.raises(ValueError, match="^ray: expected auto, local or HOST:PORT, got "):
        ray_address.check_address(address)


def test_addresses():
    assert ray_address.split_address("10.0.0.1:6379") == ("10.0.0.1", 6379)
    assert ray_address.split_address("[::1]:6379") == ("::1", 6379)
    ray_address.check_address("auto")


@pytest.fixture
def listener():
    """A socket that listens, and a function that answers the first one to connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(content: bytes) -> str:
            def serve():
                connection, _ = server.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(content)

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{server.getsockname()[1]}"

        yield server, answer


SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100])


def test_what_answers_must_be_a_cluster(listener):
    _, answer = listener
    ray_address.check_address(answer(SETTINGS))
    for other in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH", b""):
        with pytest.raises(ValueError, match="is no Ray cluster; `ray start --head`"):
            ray_address.check_address(answer(other))


def test_nothing_answers(listener, monkeypatch):
    server, _ = listener
    monkeypatch.setattr(ray_address, "PATIENCE", 0.05)
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ValueError, match=f"ray: no cluster answers at {address} .*; `ray start --head`"):
        ray_address.check_address(address)  # it listens and says nothing
    server.close()
    with pytest.raises(ValueError, match=f"ray: no cluster answers at {address} .*refused"):
        ray_address.check_address(address)


def test_without_ray(monkeypatch):
    monkeypatch.delitem(sys.modules, "sparse4d_core.evaluation.tasks.ray_workers", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="ray: it is not installed; python -m pip install -r requirements/ray.txt"):
        cluster_option.connect("local", ["cpu"], None)


def test_devices_of_two_kinds():
    with pytest.raises(ValueError, match="devices: expected one kind with --ray, got cuda:0 cpu"):
        cluster_option.connect("auto", ["cuda:0", "cpu"], None)


# --- A host of a cluster ----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_host(monkeypatch):
    monkeypatch.setattr(cluster_host, "_worker", None)
    monkeypatch.setattr(cluster_host, "_worker_of", None)


def setup(name, job, folder, **other):
    return Setup(name, job, "cpu", str(folder), program("cpu") | other)


def test_a_host_loads_a_job_once(fresh_host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starts").mkdir()
    job = Squares("starts")  # relative: found because the host works in the folder of the command
    monkeypatch.chdir("/")
    asked = []

    def fetch():
        asked.append(1)
        return setup("run", job, tmp_path)

    assert [run_on_host("run", fetch, number) for number in (2, 3)] == [4, 9]
    assert len(asked) == 1 and len(os.listdir(tmp_path / "starts")) == 1
    failure = run_on_host("run", fetch, 7)
    assert failure == Failure(f"ValueError: seven is no number (on host {socket.gethostname()})")
    assert run_on_host("next", lambda: setup("next", Squares(), tmp_path), 5) == 25


def test_a_host_of_another_revision_is_refused(fresh_host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = run_on_host("run", lambda: setup("run", Squares(), tmp_path, torch="1.0"), 2)
    assert isinstance(given, CannotStart) and given.host == socket.gethostname()
    assert "its results would not be those of the host that collects them: torch: " in given.reason
    assert " and not 1.0" in given.reason
    assert run_on_host("run", lambda: setup("run", Squares(), tmp_path), 2) == 4, "a start that failed is tried again"


def test_a_job_that_cannot_start_is_refused(fresh_host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = run_on_host("run", lambda: setup("run", Squares("absent"), tmp_path), 2)
    assert (
        isinstance(given, CannotStart) and given.reason.startswith("FileNotFoundError: ") and "absent" in given.reason
    )


def test_the_digest_is_of_the_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sparse4d_core").mkdir(parents=True)
        (tmp_path / name / "sparse4d_core" / "module.py").write_text("x = 1\n")
    assert sources_digest(tmp_path / "one") == sources_digest(tmp_path / "two")
    (tmp_path / "two" / "sparse4d_core" / "module.py").write_text("x = 2\n")
    assert sources_digest(tmp_path / "one") != sources_digest(tmp_path / "two")
    before = sources_digest(tmp_path / "one")
    (tmp_path / "one" / "sparse4d_core" / "other.py").touch()
    assert sources_digest(tmp_path / "one") != before
