#!/bin/bash
# Runs a command in the workspace's environment.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source "/ws/src/sparse4d_ros/.venv-${ROS_DISTRO}/bin/activate"
source /ws/install/setup.bash
exec "$@"
