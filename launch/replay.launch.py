"""A recorded drive through the same detector: plays a bag over ROS 2 and runs the node on it.

    ros2 launch sparse4d_ros replay.launch.py bag:=$PWD/bags/0061 model:=v3_r50 checkpoint:=... rviz:=true

All arguments of detector.launch.py apply. The launch ends with the bag.
"""

import shlex
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown, TimerAction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchDescription

DETECTOR = Path(get_package_share_directory("sparse4d_ros")) / "launch" / "detector.launch.py"

ARGUMENTS = (
    ("bag", None, "folder of a rosbag2, as nuscenes_to_rosbag writes it"),
    ("rate", "1.0", "2.0 plays twice as fast"),
    ("loops", "1", "times to play; 0: for ever"),
    ("topics", "", "play these topics only, separated by spaces"),
    ("max_gap", "2.0", "seconds of bag time; longer silences are shortened to it"),
    ("best_effort_images", "false", "true: publish images as camera drivers do"),
    ("wait", "120.0", "seconds that the player waits for the node, which loads its model meanwhile; 0: not at all"),
    ("linger", "5.0", "seconds from the end of the bag to that of the launch, for the last sets; below 0: stay"),
)


def generate_launch_description() -> LaunchDescription:
    """The player waits for the node's subscriptions, gives the time on /clock, and the node follows it."""
    declared = [DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in ARGUMENTS]
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(DETECTOR)), launch_arguments=[("use_sim_time", "true")]
    )
    return LaunchDescription([*declared, detector, OpaqueFunction(function=_player)])


def _player(context) -> list[Node]:
    given = {name: context.launch_configurations[name] for name, _, _ in ARGUMENTS}
    options = ["--rate", given["rate"], "--loops", given["loops"], "--max-gap", given["max_gap"]]
    options += ["--wait", given["wait"], "--clock"]
    options += ["--best-effort-images"] if given["best_effort_images"].lower() in ("true", "1") else []
    options += ["--topics", *topics] if (topics := shlex.split(given["topics"])) else []
    player = Node(
        package="sparse4d_ros",
        executable="bag_player",
        namespace=context.launch_configurations["namespace"],
        arguments=[given["bag"], *options],
        output="screen",
        on_exit=lambda event, context: _after(event.returncode, context, float(given["linger"])),
    )
    return [player]


def _after(status: int, context, linger: float) -> list:
    """What follows the end of the player.

    Raises:
        RuntimeError: it failed; nothing else gives the launch a failure status.
    """
    if context.is_shutdown:
        return []
    if status != 0:
        raise RuntimeError(f"the player ended with status {status}; its last lines above have the reason")
    return [] if linger < 0 else [TimerAction(period=linger, actions=[Shutdown(reason="the bag is played")])]
