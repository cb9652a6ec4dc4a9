"""A recorded drive through the same detector: plays a bag over ROS 2 and runs the node on it.

    ros2 launch sparse4d_ros replay.launch.py bag:=$PWD/bags/0061 model:=v3_r50 checkpoint:=... rviz:=true

All arguments of detector.launch.py apply.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage

from launch import LaunchDescription

DETECTOR = Path(get_package_share_directory("sparse4d_ros")) / "launch" / "detector.launch.py"


def generate_launch_description() -> LaunchDescription:
    """The player waits for the node's subscriptions, gives the time on /clock, and the node follows it."""
    arguments = [
        DeclareLaunchArgument("bag", description="folder of a rosbag2, as nuscenes_to_rosbag writes it"),
        DeclareLaunchArgument("rate", default_value="1.0", description="2.0 plays twice as fast"),
        DeclareLaunchArgument("loops", default_value="1", description="times to play; 0: for ever"),
    ]
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(DETECTOR)), launch_arguments=[("use_sim_time", "true")]
    )
    player = ExecuteProcess(
        cmd=[
            ExecutableInPackage(package="sparse4d_ros", executable="bag_player"), LaunchConfiguration("bag"),
            "--rate", LaunchConfiguration("rate"), "--loops", LaunchConfiguration("loops"), "--clock",
        ],
        output="screen",
    )  # fmt: skip
    return LaunchDescription([*arguments, detector, player])
