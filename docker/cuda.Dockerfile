# The same on an NVIDIA GPU: CUDA's compiler for the kernels, ROS 2 from its own packages, torch with CUDA from PyPI.
#
#   docker build -f docker/cuda.Dockerfile -t sparse4d_ros:cuda .
#   docker run --rm --gpus all --network host --ipc host sparse4d_ros:cuda \
#       ros2 launch sparse4d_ros detector.launch.py model:=demo device:=cuda
# CUDA as the pinned torch has it: the kernels are compiled by a toolkit of the same number, or not at all.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

ARG ROS_DISTRO=jazzy
# The GPUs that the kernels are compiled for: at build time none is at hand. docs/performance.md, 'On a GPU'.
ARG TORCH_CUDA_ARCH_LIST="8.0 8.6 8.7 8.9 9.0 10.0 12.0+PTX"
ENV ROS_DISTRO=${ROS_DISTRO} LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions are those of the distribution, which the image's tag names.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl gnupg \
    && curl -fsSL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key \
        -o /usr/share/keyrings/ros-archive-keyring.gpg \
    && echo "deb [signed-by=/usr/share/keyrings/ros-archive-keyring.gpg] http://packages.ros.org/ros2/ubuntu noble main" \
        > /etc/apt/sources.list.d/ros2.list \
    && apt-get update \
    && apt-get install -y --no-install-recommends "ros-${ROS_DISTRO}-ros-base" python3-colcon-common-extensions \
        python3-rosdep g++ make python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && rosdep init

WORKDIR /ws
COPY . src/sparse4d_ros
RUN source "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && apt-get update \
    && rosdep update --rosdistro "${ROS_DISTRO}" \
    && rosdep install --from-paths src --ignore-src -y --skip-keys "rviz2 compressed_image_transport" \
    && rm -rf /var/lib/apt/lists/* \
    && make -C src/sparse4d_ros setup \
    && "src/sparse4d_ros/.venv-${ROS_DISTRO}/bin/pip" install --no-cache-dir \
        --requirement src/sparse4d_ros/requirements/view.txt
RUN source "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && source "src/sparse4d_ros/.venv-${ROS_DISTRO}/bin/activate" \
    && python "$(command -v colcon)" build \
    && source install/setup.bash \
    && TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST}" python -m cuda_ops.build \
    && python -c "from cuda_ops.library import find_library; assert find_library().architectures, 'no CUDA kernels'"

ENV FASTDDS_DEFAULT_PROFILES_FILE=/ws/src/sparse4d_ros/config/fastdds_shm.xml \
    FASTRTPS_DEFAULT_PROFILES_FILE=/ws/src/sparse4d_ros/config/fastdds_shm.xml
ENTRYPOINT ["/ws/src/sparse4d_ros/docker/entrypoint.sh"]
CMD ["ros2", "launch", "sparse4d_ros", "detector.launch.py", "--show-args"]
