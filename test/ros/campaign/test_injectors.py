"""Faults of machine and processes, on stand-ins for the node: they come, and they go again."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

pytest.importorskip("rclpy")
from lifecycle_msgs.msg import Transition

from sparse4d_core.types import Detections
from sparse4d_ros.bags.bag_io import read_messages
from sparse4d_ros.bags.box_record import BoxRecordWriter, SetRecord
from sparse4d_ros.campaign import node_faults, stream_bag
from sparse4d_ros.campaign.catalogue import machine_faults, process_faults
from sparse4d_ros.campaign.catalogue.fault import NotPossible, NotSurvived
from sparse4d_ros.perception.rig import load_rig


@pytest.fixture
def system(tmp_path):
    """In the place of the running system: a process that waits, and answers that are wanted."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    calls = []

    def change_state(transition: int) -> bool:
        calls.append(transition)
        return True

    yield SimpleNamespace(process=process, folder=tmp_path, calls=calls, change_state=change_state)
    process.kill()
    process.wait()


def state(system) -> str:
    return psutil.Process(system.process.pid).status()


def test_a_frozen_process_goes_on(system):
    with machine_faults.frozen(system):
        while state(system) != psutil.STATUS_STOPPED:
            os.sched_yield()
    while state(system) == psutil.STATUS_STOPPED:
        os.sched_yield()


def test_limits_are_lifted_again(system):
    pid, kind = system.process.pid, resource.RLIMIT_FSIZE
    before = resource.prlimit(pid, kind)
    with machine_faults.no_more_bytes(system):
        assert resource.prlimit(pid, kind) == (0, before[1])
    assert resource.prlimit(pid, kind) == before


def test_busy_processes_are_gone_at_the_end(system):
    def children() -> int:
        return len(psutil.Process().children())

    before = children()
    with machine_faults.busy_processors(system):
        assert children() == before + 3 * len(os.sched_getaffinity(0))
    assert children() == before


def test_a_shared_memory_that_others_use_is_not_filled(system, monkeypatch):
    monkeypatch.setattr(machine_faults, "SMALL", 0)
    with pytest.raises(NotPossible, match="is not this campaign's own"), machine_faults.no_shared_memory(system):
        pytest.fail("it was filled")


def test_the_campaign_has_its_own_shared_memory_only_where_it_can(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert node_faults.with_own_shared_memory([]) is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv(node_faults.OWN_SHARED_MEMORY, "1")
    assert node_faults.with_own_shared_memory([]) is None


def test_a_campaign_with_its_own_shared_memory_is_the_process_that_was_started(monkeypatch):
    """A parent in between would get the signals, and leave campaign and node running."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(node_faults.shutil, "which", lambda name: name)
    monkeypatch.setattr(node_faults.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    monkeypatch.delenv(node_faults.OWN_SHARED_MEMORY, raising=False)
    turned = []
    monkeypatch.setattr(os, "execvpe", lambda *words: turned.append(words))
    node_faults.with_own_shared_memory(["--only", "camera frozen"])
    ((program, command, environment),) = turned
    assert program == command[0] == "unshare" and command[-2:] == ["--only", "camera frozen"]
    assert environment[node_faults.OWN_SHARED_MEMORY] == "1"


def test_a_record_must_be_readable_up_to_its_last_line(tmp_path):
    path = tmp_path / "record.jsonl"
    empty = Detections(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64))
    with BoxRecordWriter(path) as file:
        file.write(SetRecord(1, "base_link", empty, empty))
        file.write(SetRecord(2, "base_link", empty, empty))
    path.write_text(path.read_text()[:-20])
    machine_faults.check_record(path)
    path.write_text(path.read_text()[:30])
    with pytest.raises(NotSurvived, match="holds no set"):
        machine_faults.check_record(path)


@pytest.mark.parametrize(("status", "survived"), [(-9, True), (0, False)])
def test_the_exit_status_of_an_ended_node_counts(system, status, survived):
    system.end_node = lambda how: system.process.send_signal(how) or system.process.wait()
    started = []
    system.start_node = lambda: started.append(True)
    inject = process_faults.restarted(signal.SIGKILL, 0, status)
    if survived:
        with inject(system):
            assert system.process.poll() == -9 and not started
    else:
        with pytest.raises(NotSurvived, match="exit status -9 after SIGKILL; expected 0"), inject(system):
            pass
    assert started == [True] * survived


def test_cycles(system):
    with process_faults.activated_often(system):
        pass
    assert Counter(system.calls) == {
        Transition.TRANSITION_DEACTIVATE: process_faults.CYCLES,
        Transition.TRANSITION_ACTIVATE: process_faults.CYCLES,
    }
    system.change_state = lambda transition: transition != Transition.TRANSITION_CONFIGURE
    with pytest.raises(NotSurvived, match="transition 1 failed"), process_faults.configured_often(system):
        pass


def test_parameters_that_are_taken_though_they_cannot_be(system):
    system.set_parameter = lambda name, value: (True, "")
    with pytest.raises(NotSurvived, match="was taken"), process_faults.parameters_refused(system):
        pass
    system.set_parameter = lambda name, value: (False, "out of range")
    with process_faults.parameters_refused(system):
        pass
    with pytest.raises(NotSurvived, match="score_threshold = 0.2: out of range"):
        with process_faults.parameters_changed(system):
            pass


def test_the_bag_for_the_player(tmp_path):
    rig = load_rig()
    bag = stream_bag.write_stream_bag(tmp_path / "bag", rig, (64, 48))
    counts = Counter(topic for topic, _, _ in read_messages(bag))
    sets = stream_bag.RATE * stream_bag.SECONDS
    assert counts == {
        "/tf_static": 1,
        "/tf": sets * len(rig.cameras),
        **{camera.image_topic: sets for camera in rig.cameras},
        **{camera.info_topic: sets for camera in rig.cameras},
    }
    assert stream_bag.write_stream_bag(bag, rig, (64, 48)) == bag  # anew
