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
    package_data={"sparse4d_core": ["weights/*"], "cuda_ops": ["csrc/*"]},
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
            "detector = sparse4d_ros.node:main",
            "replay = sparse4d_ros.replay:main",
            "bag_player = sparse4d_ros.bag_player:main",
            "nuscenes_to_rosbag = sparse4d_ros.nuscenes_to_rosbag:main",
            "rosbag_to_nuscenes = sparse4d_ros.rosbag_to_nuscenes:main",
            "recorder = sparse4d_ros.recorder:main",
            "score_record = sparse4d_ros.score_record:main",
            "demo = sparse4d_ros.demo.__main__:main",
            "synthetic = sparse4d_core.data.synthetic.__main__:main",
            "evaluate = sparse4d_core.evaluation.evaluate:main",
            "train = sparse4d_core.training.train:main",
        ]
    },
)
