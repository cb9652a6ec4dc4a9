"""The live detector: starts the node, configures and activates it; with rviz:=true also the display.

    ros2 launch sparse4d_ros detector.launch.py model:=v3_r50 checkpoint:=sparse4dv3_r50.pth rviz:=true

Arguments: ros2 launch sparse4d_ros detector.launch.py --show-args
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

SHARE = Path(get_package_share_directory("sparse4d_ros"))


def generate_launch_description() -> LaunchDescription:
    """Arguments override the parameters of the file."""
    detector = LifecycleNode(
        package="sparse4d_ros",
        executable="detector",
        name="sparse4d",
        namespace="",
        output="screen",
        parameters=[LaunchConfiguration("params_file"), _overrides()],
    )
    configure = EmitEvent(
        event=ChangeState(
            lifecycle_node_matcher=matches_action(detector), transition_id=Transition.TRANSITION_CONFIGURE
        )
    )
    activate = EmitEvent(
        event=ChangeState(lifecycle_node_matcher=matches_action(detector), transition_id=Transition.TRANSITION_ACTIVATE)
    )
    activate_when_configured = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=detector, start_state="configuring", goal_state="inactive", entities=[activate]
        )
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(SHARE / "config" / "sparse4d.rviz")],
        parameters=[{"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*_arguments(), detector, activate_when_configured, configure, rviz])


def _arguments() -> list[DeclareLaunchArgument]:
    config = SHARE / "config"
    table = (
        ("params_file", str(config / "detector.yaml"), "parameters of the node"),
        ("rig", str(config / "nuscenes_rig.yaml"), "rig file: cameras, topics, frames"),
        ("model", "v3_r50", "preset of the model; python -m sparse4d_core.models lists them"),
        ("checkpoint", "", "weights; empty: those shipped with the preset"),
        ("device", "cpu", "cpu, cuda or cuda:N"),
        ("rviz", "false", "start rviz with a ready display"),
        ("use_sim_time", "false", "take the time from /clock"),
    )
    return [DeclareLaunchArgument(name, default_value=value, description=text) for name, value, text in table]


def _overrides() -> dict:
    texts = {name: ParameterValue(LaunchConfiguration(name), value_type=str) for name in ("rig", "model", "checkpoint")}
    return texts | {
        "device": ParameterValue(LaunchConfiguration("device"), value_type=str),
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        "autostart": False,  # the events above do it
    }
