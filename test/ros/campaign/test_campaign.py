"""Faults on a running node, and a look at what it needs: three faults and a few seconds of what `make faults` and
`make soak` do for long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import date

import pytest

pytest.importorskip("rclpy")
from sparse4d_ros.campaign.catalogue.fault import Fault, NotPossible, NotSurvived, Outcome, try_fault
from sparse4d_ros.campaign.fault_table import document
from sparse4d_ros.campaign.growth_verdict import Growth
from sparse4d_ros.campaign.node_faults import chosen, system_of
from sparse4d_ros.campaign.observer import growth
from sparse4d_ros.campaign.running_system import RunningSystem
from sparse4d_ros.campaign.soak import measure

NAMES = ("image truncated", "calibration of zeros", "parameters refused")


@pytest.fixture(scope="module")
def system(module_domain, tmp_path_factory) -> Iterator[RunningSystem]:
    with system_of(tmp_path_factory.mktemp("campaign"), module_domain) as system:
        yield system


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_faults_are_survived(system, name):
    (fault,) = chosen([name])
    outcome = try_fault(fault, system)
    assert outcome.survived and outcome.alive and outcome.recovery_s is not None, (outcome, system.log()[-3000:])
    assert not fault.causes or outcome.counted.keys() & set(fault.causes)


@pytest.mark.ros
@pytest.mark.slow
def test_what_is_not_survived_is_seen(system):
    @contextlib.contextmanager
    def fails(error: Exception):
        raise error
        yield

    fault = Fault("bad", "something", lambda _: fails(NotSurvived("a record is lost")))
    assert try_fault(fault, system).problem == "a record is lost"
    skipped = try_fault(replace(fault, inject=lambda _: fails(NotPossible("no root"))), system)
    assert skipped.skipped == "no root" and skipped.survived


@pytest.mark.ros
@pytest.mark.slow
def test_a_short_soak(system):
    """The last test of the system: it stops the streams."""
    run = measure(system, "jpeg", 3.0)
    assert len(run.samples) >= 2 and run.published >= 6
    assert (run.unexplained_images, run.unexplained_sets, run.growth) == (0, 0, Growth())
    last = run.samples[-1]
    assert last.sets > 0 and last.memory_mib > 50 and last.files > 5 and last.threads > 2
    assert 0 < last.latency_p50_ms <= last.latency_p99_ms and run.problems == []


def test_counters_that_began_anew_count_from_zero():
    assert growth({"a": 5, "b": 2, "c": 3}, {"a": 4, "b": 7, "c": 3}) == {"a": 1, "b": 2}


def test_the_table():
    outcomes = [
        Outcome(
            "cut", "half of it", True, ("sets_dropped.image_data",), {"sets.late": 9, "sets_dropped.image_data": 5}, 0.4
        ),
        Outcome("silent", "no images", True, ("'no images' in the diagnostics",), {"sets.complete": 7}, 0.5),
        Outcome("gone", "all of it", False, problem="the node ended with status 1"),
        Outcome("shm", "full", True, skipped="no root"),
    ]
    text = document(outcomes, date(2026, 1, 2), "2 cores of something")
    assert "2026-01-02" in text and "2 of 3 survived; 1 could not be tried there." in text
    assert "| cut | half of it | yes | `sets_dropped.image_data` 5, `sets.late` 9 | 0.4 s |" in text
    assert "| silent | no images | yes | 'no images' in the diagnostics | 0.5 s |" in text
    assert "| gone | all of it | no | the node ended with status 1 | NOT SURVIVED, never |" in text
    assert "| shm | full | not tried: no root | | |" in text
