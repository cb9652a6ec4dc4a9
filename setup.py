"""Installation for colcon and pip; the dependencies are declared in package.xml and pinned in requirements/."""

import sys
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NAME = "sparse4d_ros"
REQUIREMENTS = Path(__file__).resolve().parent / "requirements"


def pins(name):
    """The lines of a requirements file that name a package."""
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-"))]


# A wheel, as pip builds and installs it, has no ROS around it: it says what it needs, its programs are called
# sparse4d-..., as `node` or `train` would hide others, and it carries the message definitions that no wheel has.
WHEEL = bool({"dist_info", "bdist_wheel", "editable_wheel"} & set(sys.argv))  # what pip asks for, one after the other
NEEDED = [  # what requirements/runtime.txt pins, as far as it has been tried
    "torch>=2.4",
    "numpy>=1.26,<2",
    "scipy>=1.11",
    "opencv-python-headless>=4.8",
    "pillow>=12",
    "tqdm>=4.60",
    "PyYAML>=6",
    "psutil>=5",
    "transforms3d>=0.4.2",
    "rosbags>=0.11,<0.12",
]


def program(line):
    """`bag_player = module:main` as the wheel has it."""
    name, target = line.split(" = ")
    return f"sparse4d-{name.replace('_', '-')} = {target}"


def folder_files(top):
    """Every file below a folder, by the folder of share/ that it goes to."""
    files = [path for path in sorted(Path(top).rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return [(f"share/{NAME}/{path.parent}", [str(path)]) for path in files]


PROGRAMS = [
    "node = sparse4d_ros.node:main",
    "detector = sparse4d_ros.node:main",  # as the launch files call the node
    "replay = sparse4d_ros.replay:main",
    "bag_player = sparse4d_ros.bag_player:main",
    "box_recorder = sparse4d_ros.box_recorder:main",
    "live_view = sparse4d_ros.live_view.__main__:main",
    "write_submission = sparse4d_ros.write_submission:main",
    "evaluate_bags = sparse4d_ros.evaluate_bags:main",
    "nuscenes_to_rosbag = sparse4d_ros.nuscenes_to_rosbag:main",
    "rosbag_to_nuscenes = sparse4d_ros.rosbag_to_nuscenes:main",
    "check_rig = sparse4d_ros.check_rig.__main__:main",
    "demo = sparse4d_ros.demo.__main__:main",
    "models = sparse4d_core.models:main",
    "checkpoint = sparse4d_core.checkpoint.__main__:main",
    "synthetic = sparse4d_core.data.synthetic.__main__:main",
    "anchors = sparse4d_core.data.anchors:main",
    "train = sparse4d_core.training.train:main",
    "plot = sparse4d_core.training.plot:main",
    "release = sparse4d_core.training.release:main",
    "export = sparse4d_core.export.__main__:main",
    "export_frames = sparse4d_core.export.frames:main",
    "tensorrt_engine = sparse4d_core.export.tensorrt_engine:main",
    "evaluate = sparse4d_core.evaluation.evaluate:main",
    "evaluate_dataset = sparse4d_core.evaluation.run:main",
    "criteria = sparse4d_core.evaluation.criteria:main",
    "robustness = sparse4d_core.evaluation.robustness.__main__:main",
    "model_sheet = sparse4d_core.evaluation.model_sheet.__main__:main",
    "rates = sparse4d_core.evaluation.rates.__main__:main",
    "build_operator = cuda_ops.build:main",
    "benchmark_operator = cuda_ops.benchmark:main",
    "benchmark_compilers = cuda_ops.benchmark_compilers:main",
    "benchmark_model = sparse4d_core.benchmark.__main__:main",
    "benchmark_presets = sparse4d_core.benchmark.preset_cost:main",
    "benchmark_gpu = sparse4d_core.benchmark.gpu:main",
    "benchmark_loader = sparse4d_core.benchmark.loader_throughput:main",
    "benchmark_scoring = sparse4d_core.benchmark.tracking_scoring:main",
    "benchmark_fleet = sparse4d_ros.benchmark.fleet:main",
    "benchmark_transport = sparse4d_ros.benchmark.transport:main",
    "benchmark_intake = sparse4d_ros.benchmark.intake:main",
    "faults = sparse4d_ros.campaign.node_faults:main",
    "soak = sparse4d_ros.campaign.soak:main",
    "recorded_rows = sparse4d_ros.campaign.recorded_rows:main",
    "benchmark_preprocessing = sparse4d_ros.benchmark.preprocessing:main",
    "benchmark_throughput = sparse4d_ros.benchmark.throughput:main",
    "benchmark_view = sparse4d_ros.benchmark.view_cost:main",
]

setup(
    name=NAME,
    version="0.2.0",
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
        *(folder_files("underlay") if WHEEL else []),
    ],
    python_requires=">=3.10,<3.13",
    install_requires=NEEDED if WHEEL else ["setuptools"],
    extras_require={
        "test": ["pytest"],  # colcon runs the tests because of this line
        "runtime": pins("runtime"),  # where neither apt nor conda provides it
        "eval": pins("eval"),
        "train": pins("train"),
        "export": pins("export"),
        "view": pins("view"),  # the live view's page
        "ray": pins("ray"),  # data sets and bags on a Ray cluster
        "ros": pins("ros"),  # ROS 2 Kilted without an installation of it
    },
    zip_safe=False,
    entry_points={"console_scripts": [program(line) for line in PROGRAMS] if WHEEL else PROGRAMS},
)
