"""What the Makefile would run, by its dry run."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def dry_run(*arguments: str, cwd: pathlib.Path = ROOT, **variables: str) -> subprocess.CompletedProcess:
    """`make -n -B`: every recipe, whatever is there already; as on a machine without a ROS 2 installation, unless the
    variables of the environment are those of one."""
    settings = ("ROS_DISTRO", "ROS", "AMENT_PREFIX_PATH", "PYTHON", "MAKEFLAGS", "MAKELEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    command = ["make", "-n", "-B", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment | variables, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments, environment, pins",
    [((), ".venv", "requirements/ros.txt"), (("ROS=jazzy",), ".venv-jazzy-wheels", "requirements/ros-jazzy.txt")],
    ids=["kilted", "jazzy"],
)
def test_each_distribution_has_its_environment(arguments, environment, pins):
    lines = dry_run("demo", *arguments).stdout.splitlines()
    installed = [line.split() for line in lines if " pip " in line]
    assert {words[0] for words in installed} == {f"{environment}/bin/python"}
    assert [words[-1] for words in installed if "ros" in words[-1]] == [pins]
    assert lines[-1].startswith(f"{environment}/bin/python -m sparse4d_ros.demo")


def test_builds_of_two_distributions_do_not_share_a_folder():
    kilted, jazzy = (
        {word for word in dry_run("test", *arguments).stdout.split() if word.startswith("out/")}
        for arguments in ((), ("ROS=jazzy",))
    )
    assert kilted and jazzy and kilted & jazzy == set()


def test_a_distribution_without_wheels_is_refused():
    run = dry_run("demo", "ROS=humble")
    assert run.returncode != 0
    assert "ROS=humble: there are wheels of kilted and jazzy" in run.stderr


@pytest.fixture
def sources(tmp_path):
    """A folder with what make reads, and no environment yet."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "underlay").mkdir()
    return tmp_path


def test_a_sourced_installation_is_used_or_make_says_why_not(sources):
    """`true` and `false` are as a Python that can import rclpy and one that cannot."""
    sourced = {"ROS_DISTRO": "humble", "AMENT_PREFIX_PATH": "/opt/ros/humble"}
    assert ".venv-humble" in dry_run("demo", "PYTHON=true", cwd=sources, **sourced).stdout.splitlines()[1]
    run = dry_run("demo", "PYTHON=false", cwd=sources, **sourced)
    assert run.returncode != 0 and run.stdout == ""
    assert "ROS 2 humble is sourced, but false cannot import its rclpy: call make PYTHON=/usr/bin/python3" in run.stderr
    for target in ("help", "gpu", "clean"):  # need no environment
        assert dry_run(target, "PYTHON=false", cwd=sources, **sourced).returncode == 0
    in_an_image = dry_run("demo", "PYTHON=false", cwd=sources, ROS_DISTRO="humble")  # that names it, nothing is sourced
    assert "requirements/ros.txt" in in_an_image.stdout


def test_an_environment_of_another_python_is_refused(sources):
    (sources / ".venv/bin").mkdir(parents=True)
    for name, version in (("ours", "3.11"), ("theirs", "3.12"), (".venv/bin/python", "3.11")):
        (sources / name).write_text(f"#!/bin/sh\necho {version}\n")
        (sources / name).chmod(0o755)
    assert dry_run("setup", cwd=sources).returncode == dry_run("setup", "PYTHON=./ours", cwd=sources).returncode == 0
    for run in (
        dry_run("setup", "PYTHON=./theirs", cwd=sources),
        dry_run("setup", cwd=sources, PYTHON="./theirs"),
    ):
        assert run.returncode != 0
        assert "PYTHON=./theirs: .venv has Python 3.11, this is 3.12: call make clean first" in run.stderr
    assert dry_run("clean", "PYTHON=./theirs", cwd=sources).returncode == 0


def test_measurements_give_every_fast_dds_its_profile():
    (line,) = [line for line in dry_run("bench").stdout.splitlines() if "benchmark.transport" in line]
    variables = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
    assert variables.keys() == {"FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"}
    assert {pathlib.Path(path) for path in variables.values()} == {ROOT / "config" / "fastdds_shm.xml"}


def test_a_folder_with_a_space_in_its_name(tmp_path):
    folder = tmp_path / "my robot"
    folder.mkdir()
    for name in ("Makefile", "setup.py"):
        shutil.copy(ROOT / name, folder)
    for name in ("requirements", "underlay"):
        shutil.copytree(ROOT / name, folder / name)
    (line,) = [line for line in dry_run("bench", cwd=folder).stdout.splitlines() if "benchmark.transport" in line]
    assignments = [word for word in shlex.split(line) if word.partition("=")[0].endswith("_PROFILES_FILE")]
    profile = str(folder / "config" / "fastdds_shm.xml")
    assert [word.partition("=")[2] for word in assignments] == [profile, profile]


def test_campaigns_leave_what_they_promise():
    (line,) = [line for line in dry_run("faults").stdout.splitlines() if "campaign.node_faults" in line]
    assert line.endswith("--out out/faults --table docs/faults.md")
    (line,) = [line for line in dry_run("soak", "MINUTES=2").stdout.splitlines() if "campaign.soak" in line]
    assert line.endswith("--minutes 2 --out out/soak")
