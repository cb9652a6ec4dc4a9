"""Installation for colcon and pip; the dependencies are declared in package.xml and pinned in requirements/."""

from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "sparse4d_ros"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


def pins(name):
    """The lines of a requirements file that name a package."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


setup(
    name=NAME,
    version="0.1.0",
    description="Camera-only 3D detection and tracking for ROS 2 with Sparse4D",
    maintainer="sparse4d_ros maintainers",
    maintainer_email="maintainers@example.org",
    license="Apache-2.0",
    packages=find_packages(
        include=[f"{top}{rest}" for top in (NAME, "sparse4d_core", "cuda_ops") for rest in ("", ".*")]
    ),
    package_data={"sparse4d_core": ["weights/*"], "cuda_ops": ["csrc/*/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{NAME}/config", sorted(glob("config/*"))),
    ],
    python_requires=">=3.10",
    install_requires=["setuptools"],
    extras_require={
        "test": ["pytest"],  # colcon runs the tests because of this line
        "runtime": pins("runtime"),  # where neither apt nor conda provides it
        "eval": pins("eval"),
        "train": pins("train"),
        "ros": pins("ros"),  # ROS 2 Kilted without an installation of it
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "node = sparse4d_ros.node:main",
            "detector = sparse4d_ros.node:main",  # as the launch files call the node
            "replay = sparse4d_ros.replay:main",
            "bag_player = sparse4d_ros.bag_player:main",
            "box_recorder = sparse4d_ros.box_recorder:main",
            "write_submission = sparse4d_ros.write_submission:main",
            "nuscenes_to_rosbag = sparse4d_ros.nuscenes_to_rosbag:main",
            "rosbag_to_nuscenes = sparse4d_ros.rosbag_to_nuscenes:main",
            "demo = sparse4d_ros.demo.__main__:main",
            "models = sparse4d_core.models:main",
            "checkpoint = sparse4d_core.checkpoint.__main__:main",
            "synthetic = sparse4d_core.data.synthetic.__main__:main",
            "anchors = sparse4d_core.data.anchors:main",
            "train = sparse4d_core.training.train:main",
            "plot = sparse4d_core.training.plot:main",
            "release = sparse4d_core.training.release:main",
            "evaluate = sparse4d_core.evaluation.evaluate:main",
            "build_operator = cuda_ops.build:main",
            "benchmark_operator = cuda_ops.benchmark:main",
            "benchmark_compilers = cuda_ops.benchmark_compilers:main",
            "benchmark_model = sparse4d_core.benchmark.__main__:main",
            "benchmark_presets = sparse4d_core.benchmark.preset_cost:main",
            "benchmark_gpu = sparse4d_core.benchmark.gpu:main",
            "benchmark_loader = sparse4d_core.benchmark.loader_throughput:main",
            "benchmark_transport = sparse4d_ros.benchmark.transport:main",
            "benchmark_intake = sparse4d_ros.benchmark.intake:main",
            "benchmark_preprocessing = sparse4d_ros.benchmark.preprocessing:main",
        ]
    },
)
