"""What package.xml, setup.py and requirements/ promise."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
import zipfile

import pytest
import summary
from test_commands import entry_points

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETS = ("runtime", "eval", "train", "export", "view", "ray", "ros", "ros-jazzy", "dev")
EXTRAS = ("runtime", "eval", "train", "export", "view", "ray", "ros")
CONSTRAINTS = ("constraints", "constraints-kilted", "constraints-jazzy")
# Packages of eval.txt, train.txt, export.txt, ray.txt, and what those alone pull in, by the names that Python imports.
NOT_AT_RUN_TIME = (
    "cachetools", "descartes", "fire", "matplotlib", "motmetrics", "nuscenes", "onnx", "onnxruntime", "onnxscript",
    "pandas", "pycocotools", "pyquaternion", "ray", "shapely", "sklearn", "tensorboard",
)  # fmt: skip
WITHOUT_DEVKIT = ("models", "checkpoint", "synthetic", "anchors", "export")  # commands of the model
PACKAGED = {  # package of runtime.txt -> rosdep key of the distribution's package
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "pillow": "python3-pil",
    "psutil": "python3-psutil",
    "pyyaml": "python3-yaml",
    "scipy": "python3-scipy",
    "setuptools": "python3-setuptools",
    "tqdm": "python3-tqdm",
    "transforms3d": "python3-transforms3d",
}
FROM_PIP_ALONE = {"torch", "rosbags"}
RUN_WITHOUT = """
import contextlib, importlib.abc, io, runpy, sys

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)

hidden, modules = (argument.split(",") for argument in sys.argv[1:])
sys.meta_path.insert(0, Hide())
for module in modules:
    sys.argv = [module, "--help"]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(module, end.code, len(output.getvalue()) > 100)
"""
ROS_PACKAGE = re.compile(
    r"^(rclpy|cv_bridge|tf_transformations|launch|launch_ros|ament_index_python|\w+_msgs|std_srvs|\w+_interfaces)$"
)


def declared() -> set[str]:
    """Names in package.xml."""
    tags = ("depend", "exec_depend")
    return {entry.text for tag in tags for entry in xml.etree.ElementTree.parse(ROOT / "package.xml").iter(tag)}


def imported() -> set[str]:
    """Top-level names that the ROS side imports, launch files included."""
    names = set()
    for path in [*(ROOT / "sparse4d_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names


def requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-c"))]


def package_names(name: str) -> set[str]:
    return {re.split(r"[\[=]", line)[0].lower() for line in requirements(name)}


def extras() -> dict[str, list[str]]:
    program = "import distutils.core, json; print(json.dumps(distutils.core.run_setup('setup.py').extras_require))"
    command = [sys.executable, "-W", "ignore", "-c", f"import setuptools; {program}"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> pathlib.Path:
    """The sources in a folder of their own, where building leaves its files."""
    skipped = shutil.ignore_patterns(
        "out", ".git", ".venv*", ".hypothesis", ".ruff_cache", "_build", "__pycache__", "build", "*.egg-info"
    )
    return pathlib.Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("sources") / "copy", ignore=skipped))


BUILD = {
    "sdist": "build_meta.build_sdist('dist')",
    # As pip: the metadata first, and the wheel with it.
    "wheel": "build_meta.build_wheel('dist', None, 'meta/' + build_meta.prepare_metadata_for_build_wheel('meta'))",
}


def build(copy: pathlib.Path, kind: str) -> pathlib.Path:
    """What `python -m build` and pip call; the file it made."""
    program = f"import os; from setuptools import build_meta; os.makedirs('meta', exist_ok=True); {BUILD[kind]}"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=copy, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (made,) = (copy / "dist").glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


def test_the_wheel_holds_what_runs_under_names_of_its_own(copy):
    with zipfile.ZipFile(build(copy, "wheel")) as wheel:
        names = wheel.namelist()
        scripts = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    programs = dict(re.findall(r"^(\S+) = (\S+)$", scripts, re.MULTILINE))
    assert programs == {f"sparse4d-{name.replace('_', '-')}": target for name, target in entry_points().items()}
    assert {"sparse4d-node", "sparse4d-demo", "sparse4d-bag-player"} <= programs.keys()
    inside = ["sparse4d_core/weights/demo.pt", "cuda_ops/csrc/cuda/kernels.cu", "cuda_ops/csrc/cpu/avx512.cpp"]
    shared = ["config/fastdds_shm.xml", "launch/detector.launch.py", "underlay/build.py", "package.xml"]
    shared += ["underlay/vision_msgs/msg/Detection3D.msg", "underlay/vision_msgs/CMakeLists.txt"]
    assert set(inside) <= set(names)
    assert {f"share/sparse4d_ros/{name}" for name in shared} <= {name.partition(".data/data/")[2] for name in names}
    assert not [name for name in names if name.startswith("test") or "/_build/" in name]
    needed = {line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line}
    required = {re.split(r"[<>=]", line.split()[1])[0].lower() for line in needed}
    assert required == package_names("runtime") - {"setuptools"}
    version = xml.etree.ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert f"\nVersion: {version}\n" in metadata
    sentence = (ROOT / "requirements" / "check.py").read_text()  # make installs on the same ones
    lowest, highest = re.search(r"Python 3\.(\d+) to 3\.(\d+) is needed", sentence).groups()
    (pythons,) = re.findall(r"^Requires-Python: (.*)$", metadata, re.MULTILINE)
    assert set(pythons.split(",")) == {f">=3.{lowest}", f"<3.{int(highest) + 1}"}


def test_the_source_distribution_builds_the_same(copy):
    """What git tracks and is not about git or this place is in it."""
    with tarfile.open(build(copy, "sdist")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a checkout: nothing says what belongs to the sources")
    left_out = (".ci/", ".github/", ".gitignore", ".pre-commit-config.yaml")
    assert {name for name in tracked.stdout.splitlines() if not name.startswith(left_out)} - names == set()


def test_package_xml_declares_every_ros_package():
    used = set(filter(ROS_PACKAGE.match, imported()))
    assert {"rclpy", "sensor_msgs", "vision_msgs"} <= used
    assert used - declared() == {"autoware_perception_msgs"}, "of no distribution: Autoware's workspace has it"


def test_package_xml_names_what_a_distribution_packages_and_nothing_that_pip_alone_has():
    """pip may not write into the system's Python: one such key, and `rosdep install` fails altogether."""
    assert package_names("runtime") == {*PACKAGED, *FROM_PIP_ALONE}
    assert set(PACKAGED.values()) <= declared()
    assert [key for key in declared() if key.endswith("-pip")] == []
    assert {"rviz2", "compressed_image_transport"} <= declared()


def test_node_and_tools_run_without_what_evaluation_and_training_need():
    modules = [
        target.split(":")[0]
        for name, target in entry_points().items()
        if name in WITHOUT_DEVKIT or not target.startswith("sparse4d_core.")
    ]
    assert len(modules) > 5
    command = [sys.executable, "-W", "ignore", "-c", RUN_WITHOUT, ",".join(NOT_AT_RUN_TIME), ",".join(modules)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.splitlines() == [f"{module} 0 True" for module in modules], run.stderr


def test_extras_are_the_requirement_files():
    found = extras()
    assert {name: found[name] for name in EXTRAS} == {name: requirements(name) for name in EXTRAS}
    assert found["test"]  # colcon tests packages that have it


@pytest.mark.parametrize("name", [*SETS, *CONSTRAINTS])
def test_every_requirement_is_pinned(name):
    exact = re.compile(r"^[A-Za-z0-9._-]+(\[\w+\])?==[0-9][\w.]*(; python_version [<>=]+ \"[0-9.]+\")?$")
    assert [line for line in requirements(name) if not exact.match(line)] == []


@pytest.mark.parametrize("name", SETS)
def test_constraints_agree_with_the_pins(name):
    used = re.findall(r"^-c (\S+)\.txt$", (ROOT / "requirements" / f"{name}.txt").read_text(), re.MULTILINE)
    constraints = {line.lower() for file in used for line in requirements(file)}
    pins = {re.sub(r"\[\w+\]", "", line).lower() for line in requirements(name)}
    assert {pin for pin in pins if pin not in constraints} == set()


@pytest.mark.parametrize(
    "failed, skipped, status", [(0, 0, 0), (0, 2, 0), (1, 0, 1), (0, 5, 1)], ids=["all", "some", "failure", "none ran"]
)
def test_summary_counts_and_fails(tmp_path, failed, skipped, status):
    results = tmp_path / "pytest.xml"
    results.write_text(
        f'<testsuites><testsuite tests="5" failures="{failed}" errors="0" skipped="{skipped}"/></testsuites>'
    )
    run = subprocess.run([sys.executable, summary.__file__, str(results)], capture_output=True, text=True)
    assert run.stdout == f"{5 - failed - skipped} passed, {failed} failed, {skipped} skipped\n"
    assert run.returncode == status


def test_summary_fails_without_results(tmp_path):
    run = subprocess.run([sys.executable, summary.__file__, str(tmp_path / "none.xml")], capture_output=True, text=True)
    assert run.returncode == 1
    assert "No results" in run.stdout


def test_pytest_starts_beside_the_plugins_of_a_ros_installation(tmp_path):
    """launch_testing and launch_testing_ros declare hooks that pytest 9 refuses; here are two with the same faults."""
    hooks = {
        "launch_testing": "def pytest_pycollect_makemodule(path, parent): pass",
        "launch_ros": "def pytest_launch_collect_makemodule(path, parent, entrypoint): pass",
    }
    for name, hook in hooks.items():
        (tmp_path / f"{name}_plugin.py").write_text(hook)
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[pytest11]\n{name} = {name}_plugin\n")
    (tmp_path / "test_one.py").write_text("def test_one(): pass")

    def run(configuration: str) -> str:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", configuration, "test_one.py"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""}  # colcon's are not for this run
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return result.stdout + result.stderr

    assert "1 passed" in run(str(ROOT / "pyproject.toml"))
    assert "PluginValidationError" in run(os.devnull)
