"""What package.xml, setup.py and requirements/ promise."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

import pytest
import summary

ROOT = pathlib.Path(__file__).resolve().parents[1]
ROS_PACKAGE = re.compile(
    r"^(rclpy|cv_bridge|tf_transformations|launch|launch_ros|ament_index_python|\w+_msgs|std_srvs|\w+_interfaces)$"
)


def declared() -> set[str]:
    """Names in package.xml."""
    tags = ("depend", "exec_depend")
    return {entry.text for tag in tags for entry in xml.etree.ElementTree.parse(ROOT / "package.xml").iter(tag)}


def imported() -> set[str]:
    """Top-level names that the ROS side imports, launch files included."""
    names = set()
    for path in [*(ROOT / "sparse4d_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names


def requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-c"))]


def test_package_xml_declares_every_ros_package():
    used = set(filter(ROS_PACKAGE.match, imported()))
    assert {"rclpy", "sensor_msgs", "vision_msgs"} <= used
    assert used - declared() == set()


@pytest.mark.parametrize("name", ["runtime", "ros", "dev", "constraints"])
def test_every_requirement_is_pinned(name):
    exact = re.compile(r"^[A-Za-z0-9._-]+(\[\w+\])?==[0-9][\w.]*(; python_version [<>=]+ \"[0-9.]+\")?$")
    assert [line for line in requirements(name) if not exact.match(line)] == []


@pytest.mark.parametrize("name", ["runtime", "ros", "dev"])
def test_constraints_agree_with_the_pins(name):
    constraints = {line.lower() for line in requirements("constraints")}
    pins = {re.sub(r"\[\w+\]", "", line).lower() for line in requirements(name)}
    assert {pin for pin in pins if pin not in constraints} == set()


@pytest.mark.parametrize(
    "failed, skipped, status", [(0, 0, 0), (0, 2, 0), (1, 0, 1), (0, 5, 1)], ids=["all", "some", "failure", "none ran"]
)
def test_summary_counts_and_fails(tmp_path, failed, skipped, status):
    results = tmp_path / "pytest.xml"
    results.write_text(
        f'<testsuites><testsuite tests="5" failures="{failed}" errors="0" skipped="{skipped}"/></testsuites>'
    )
    run = subprocess.run([sys.executable, summary.__file__, str(results)], capture_output=True, text=True)
    assert run.stdout == f"{5 - failed - skipped} passed, {failed} failed, {skipped} skipped\n"
    assert run.returncode == status


def test_summary_fails_without_results(tmp_path):
    run = subprocess.run([sys.executable, summary.__file__, str(tmp_path / "none.xml")], capture_output=True, text=True)
    assert run.returncode == 1
    assert "No results" in run.stdout
