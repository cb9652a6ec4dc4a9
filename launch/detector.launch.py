"""The live detector: starts the node, which configures and activates itself; with rviz:=true also the display,
with live_view:=true a page in the browser.

    ros2 launch sparse4d_ros detector.launch.py model:=v3_r50 checkpoint:=sparse4dv3_r50.pth rviz:=true

Arguments: ros2 launch sparse4d_ros detector.launch.py --show-args. One that is not given leaves the value of the
parameter file.

The launch ends with the node, with a failure status if the node failed. With respawn:=true the node is started again
instead, and is active again once it has configured. An instance for each of two robots: another namespace:=, which
topics of the rig file follow that have no leading slash. Two instances on the same cameras: another name:=.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.logging import get_logger
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

CONFIG = Path(get_package_share_directory("sparse4d_ros")) / "config"
REFUSED = 2  # the node's exit status where a parameter's value cannot be used: starting it again would not help
RESPAWN_DELAY = 2.0  # s
UNALIKE = 0.75  # names less similar than this are not taken for a slip

ARGUMENTS = (
    ("params_file", str(CONFIG / "detector.yaml"), "parameters of the node"),
    ("qos_file", "", "more parameters, over those of params_file; for qos_overrides"),
    ("rig", "", "rig file: cameras, topics, frames"),
    ("model", "", "preset of the model; python -m sparse4d_core.models lists them"),
    ("checkpoint", "", "weights"),
    ("device", "", "cpu, cuda or cuda:N"),
    ("use_sim_time", "", "true: take the time from /clock"),
    ("autostart", "", "false: leave the node unconfigured, for a lifecycle manager or for `ros2 lifecycle set`"),
    ("name", "sparse4d", "of the node"),
    ("namespace", "", "of the node and of the display"),
    ("respawn", "false", "true: start the node again when it dies"),
    ("live_view", "false", "true: show it in a browser, at http://127.0.0.1:8080 (python -m sparse4d_ros.live_view)"),
    ("rviz", "false", "true: start rviz with a ready display"),
)
TEXTS = ("rig", "model", "checkpoint", "device")  # arguments that are parameters of the node
FLAGS = ("use_sim_time", "autostart")


def generate_launch_description() -> LaunchDescription:
    """Declares the arguments; what is started depends on which of them were given."""
    unset = dict.fromkeys((*TEXTS, *FLAGS), "; not given: as in params_file")
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text + unset.get(name, ""))
        for name, value, text in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])


def _start(context) -> list:
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    _name_slips(context.argv)
    page = [_live_view(given)] if _flag("live_view", given) else []
    return [_detector(given), *(_display(given) if _flag("rviz", given) else []), *page]


def _detector(given: dict[str, str]) -> Node:
    respawn = _flag("respawn", given)
    files = [_file("params_file", given), *([_file("qos_file", given)] if given["qos_file"] else [])]
    return Node(
        package="sparse4d_ros",
        executable="detector",
        name=given["name"],
        namespace=given["namespace"],
        output="screen",
        ros_arguments=["-p", "autostart:=true"],  # comes before the files, so a file can say false
        parameters=[*files, *([overrides] if (overrides := _overrides(given)) else [])],
        respawn=respawn,
        respawn_delay=RESPAWN_DELAY,
        on_exit=lambda event, context: _after(event.returncode, context, respawn),
    )


def _overrides(given: dict[str, str]) -> dict:
    """Parameters for the arguments that were given. A text stays one, also where it reads like a number."""
    texts = {name: ParameterValue(given[name], value_type=str) for name in TEXTS if given[name]}
    return texts | {name: _flag(name, given) for name in FLAGS if given[name]}


def _after(status: int, context, respawn: bool) -> list:
    """What follows the end of the node.

    Raises:
        RuntimeError: it failed and is not started again; nothing else gives the launch a failure status.
    """
    if context.is_shutdown or (respawn and status != REFUSED):
        return []
    if status == 0:
        return [Shutdown(reason="the detector has ended")]
    raise RuntimeError(f"the detector ended with status {status}; its last lines above have the reason")


def _display(given: dict[str, str]) -> list[Node]:
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        get_logger("rviz").error("rviz:=true, but the package rviz2 is not installed; going on without the display")
        return []
    outputs = ("markers", "track_states", "overlay")
    # rviz looks for the calibration beside the compressed image, one level too deep, and from the root namespace.
    calibration = ("/cam_front/image_rect/camera_info", "cam_front/camera_info")
    display = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=given["namespace"],
        arguments=["-d", str(CONFIG / "sparse4d.rviz")],
        parameters=[{"use_sim_time": bool(given["use_sim_time"]) and _flag("use_sim_time", given)}],
        remappings=[*((f"sparse4d/{output}", f"{given['name']}/{output}") for output in outputs), calibration],
    )
    return [display]


def _live_view(given: dict[str, str]) -> Node:
    detector = "/".join(("", *filter(None, given["namespace"].strip("/").split("/")), given["name"]))
    rig = ["--rig", path] if (path := given["rig"] or _rig_of_files(given, detector)) else []
    return Node(
        package="sparse4d_ros",
        executable="live_view",
        namespace=given["namespace"],
        arguments=["--detector", detector, *rig],
        output="screen",
    )


def _rig_of_files(given: dict[str, str], detector: str) -> str:
    """The node's parameter `rig` as its files have it; empty: they have none, and the nuScenes rig counts."""
    nodes: dict[str, dict] = {}  # in the order in which rcl meets them: the last that is the detector's counts
    for name in ("params_file", "qos_file"):
        content = yaml.safe_load(Path(given[name]).read_text(encoding="utf-8")) if given[name] else {}
        for node, parameters in _by_node(content):
            nodes.setdefault(node, {}).update(parameters)
    rigs = [values["rig"] for name, values in nodes.items() if "rig" in values and _names(name, detector)]
    return rigs[-1] if rigs else ""


def _names(name: str, node: str) -> bool:
    """Whether a name in a file, in which `*` is one word and `**` are any number of them, is that of a node."""
    words = {"/**": r"(/\w+)*", "/*": r"/\w+"}
    return bool(re.fullmatch("".join(words.get(f"/{part}", f"/{part}") for part in name.strip("/").split("/")), node))


def _by_node(content: dict | None, above: str = "") -> Iterator[tuple[str, dict]]:
    """Full names of nodes and their parameters, as rcl reads a file: names may be nested, or lack their first slash."""
    for key, value in (content or {}).items():
        if key == "ros__parameters":
            yield above, value or {}
        elif isinstance(value, dict):
            yield from _by_node(value, f"{above}/{str(key).strip('/')}")


def _file(name: str, given: dict[str, str]) -> str:
    if not Path(given[name]).is_file():
        raise FileNotFoundError(f"{name}: no such file: {given[name]}")
    return given[name]


def _flag(name: str, given: dict[str, str]) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if given[name].lower() not in values:
        raise ValueError(f"{name}: expected true or false, got {given[name]!r}")
    return values[given[name].lower()]


def _name_slips(argv: list[str]) -> None:
    """Launch takes any name on the command line; those of an including launch file are not ours to refuse."""
    known = [name for name, _, _ in ARGUMENTS]
    for name in (text.partition(":=")[0] for text in argv):
        if name not in known and (alike := get_close_matches(name, known, n=1, cutoff=UNALIKE)):
            get_logger("detector").warning(f"argument {name} is unknown and without effect; did you mean {alike[0]}?")
