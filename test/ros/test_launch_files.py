"""What can be read off the launch files where no launch system is installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from test_packaging import entry_points

rclpy = pytest.importorskip("rclpy")

from sparse4d_ros import bag_player  # noqa: E402
from sparse4d_ros.live_view import __main__ as live_view  # noqa: E402
from sparse4d_ros.parameters import NodeParameters  # noqa: E402

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
FILES = {name: ROOT / "launch" / f"{name}.launch.py" for name in ("detector", "replay")}


def assigned(file: str, name: str) -> ast.expr:
    tree = ast.parse(FILES[file].read_text())
    return next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )


def defaults(file: str) -> dict[str, str]:
    """Argument -> source text of its default."""
    return {ast.literal_eval(row.elts[0]): ast.unparse(row.elts[1]) for row in assigned(file, "ARGUMENTS").elts}


def test_no_default_overrides_the_parameter_file():
    texts, flags = (ast.literal_eval(assigned("detector", name)) for name in ("TEXTS", "FLAGS"))
    assert {*texts, *flags} <= {field.name for field in fields(NodeParameters)} | {"use_sim_time"}
    assert {defaults("detector")[name] for name in (*texts, *flags)} == {"''"}


def test_both_files_have_arguments_of_their_own():
    """replay.launch.py includes the other: one name is one argument."""
    assert defaults("detector").keys() & defaults("replay").keys() == set()


def rig_of_files(given: dict[str, str], detector: str) -> str:
    """The launch file's function; the file as a whole needs a launch system."""
    tree = ast.parse(FILES["detector"].read_text())
    names = ("_rig_of_files", "_by_node", "_names")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    scope = {"Iterator": Iterator, "Path": Path, "re": re, "yaml": yaml}
    exec(compile(ast.Module(functions, []), str(FILES["detector"]), "exec"), scope)
    return scope["_rig_of_files"](given, detector)


@pytest.mark.parametrize("namespace", ["", "robot1"])
@pytest.mark.parametrize(
    "files",
    [
        ["/**: {ros__parameters: {rig: R}}"],
        ["sparse4d: {ros__parameters: {rig: R}}"],
        ["/sparse4d: {ros__parameters: {rig: R}}"],
        ["/robot1/sparse4d: {ros__parameters: {rig: R}}"],
        ["robot1/sparse4d: {ros__parameters: {rig: R}}"],
        ["robot1: {sparse4d: {ros__parameters: {rig: R}}}"],
        ["robot2: {sparse4d: {ros__parameters: {rig: R}}}"],
        ["robot1: {sparse4d: {ros__parameters: {rig: R}}}\n/**: {ros__parameters: {rig: S}}"],
        ["sparse4d: {ros__parameters: {rig: R}}\nrobot1: {sparse4d: {ros__parameters: {model: demo}}}"],
        ["/**: {ros__parameters: {rig: R}}", "/**: {ros__parameters: {rig: S}}"],
        ["/**: {ros__parameters: {rig: R}}\nrobot1: {sparse4d: {ros__parameters: {rig: S}}}"],
        ["/**: {ros__parameters: {rig: R}}\nsparse4d: {ros__parameters: {rig: S}}", "/**: {ros__parameters: {rig: T}}"],
        ["/**: {ros__parameters: {rig: R}}", "robot1: {sparse4d: {ros__parameters: {model: demo}}}"],
        ["/**/sparse4d: {ros__parameters: {rig: R}}"],
        ["/*/sparse4d: {ros__parameters: {rig: R}}"],
        ["/robot1/**: {ros__parameters: {rig: R}}"],
        ["/robot1/*: {ros__parameters: {rig: R}}"],
        ["/*: {ros__parameters: {rig: R}}"],
        ["/**: {ros__parameters: {rig: R}, sparse4d: {ros__parameters: {rig: S}}}"],
    ],
)
def test_the_live_view_has_the_rig_that_the_node_reads(ros_domain, tmp_path, files, namespace):
    paths = [tmp_path / f"{k}.yaml" for k in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        path.write_text(text)
    words = ["--ros-args", *(word for path in paths for word in ("--params-file", str(path)))]
    context = rclpy.Context()
    rclpy.init(args=words, context=context, domain_id=ros_domain)
    try:
        node = rclpy.create_node("sparse4d", namespace=namespace, context=context, start_parameter_services=False)
        expected = node.declare_parameter("rig", "").value
        given = {"params_file": str(paths[0]), "qos_file": str(paths[1]) if paths[1:] else "", "name": "sparse4d"}
        assert rig_of_files(given, node.get_fully_qualified_name()) == expected
    finally:
        rclpy.shutdown(context=context)


@pytest.mark.parametrize("file", FILES)
def test_every_program_that_is_started_is_installed(file):
    source = FILES[file].read_text()
    started = re.findall(r'package="sparse4d_ros",\s*executable="(\w+)"', source)
    assert started and set(started) <= entry_points().keys()


def test_every_option_of_the_player_exists(capsys):
    options = set(re.findall(r'"(--[a-z-]+)"', FILES["replay"].read_text()))
    with pytest.raises(SystemExit):
        bag_player.main(["--help"])
    assert options and options <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_every_option_of_the_live_view_exists(capsys):
    source = FILES["detector"].read_text()
    options = set(re.findall(r'"(--[a-z-]+)"', source))
    with pytest.raises(SystemExit):
        live_view.main(["--help"])
    assert options == {"--detector", "--rig"} and options <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_the_view_names_the_package_that_it_lacks_with_its_version():
    lines = (ROOT / "requirements" / "view.txt").read_text().splitlines()
    (pin,) = (line for line in lines if line.startswith("viser"))
    assert f"pip install {pin} " in live_view.MISSING


def test_the_status_that_is_not_worth_a_respawn_is_that_of_a_refused_parameter(ros_domain):
    command = [sys.executable, "-m", "sparse4d_ros.node", "--ros-args", "-p", "model:=nonsense"]
    status = subprocess.run(command, cwd=ROOT, capture_output=True, env=os.environ | {"ROS_DOMAIN_ID": str(ros_domain)})
    assert status.returncode == ast.literal_eval(assigned("detector", "REFUSED"))
