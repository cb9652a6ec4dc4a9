"""Container files: linted, and the same commands as the workflow. No image was ever built here: there is no engine."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from test_commands import ALIASES, COMMANDS

from sparse4d_core.checkpoint.published import SHIPPED, default_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCKERFILES = ("Dockerfile", "cuda.Dockerfile")
HADOLINT = shutil.which("hadolint", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("hadolint")


def text(name: str) -> str:
    return (ROOT / "docker" / name).read_text()


def steps(lines: str) -> list[str]:
    """The commands of a RUN instruction or of a shell script, without quotes."""
    joined = re.sub(r"\\\n", " ", lines)
    commands = [part for line in joined.splitlines() for part in line.removeprefix("RUN ").split("&&")]
    return [" ".join(command.replace('"', "").split()) for command in commands]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (requirements/dev.txt)")
@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name):
    run = subprocess.run([HADOLINT, str(ROOT / "docker" / name)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_made_as_the_workflow_makes_its_workspace(name):
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    (workspace,) = (step for step in jobs["native"]["steps"] if step.get("name") == "In a workspace")
    ours = steps(text(name).replace("${ROS_DISTRO}", "$ROS_DISTRO"))
    for command in steps(workspace["run"]):
        if not command.startswith("ros2 launch"):
            assert any(command in own for own in ours), f"{name} lacks: {command}"


def test_images_of_the_workflow_and_ours_are_the_same():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["cuda"]["container"] in text("cuda.Dockerfile")
    assert re.search(r"^FROM ros:\$\{ROS_DISTRO\}-ros-base$", text("Dockerfile"), re.MULTILINE)
    assert jobs["native"]["container"]["image"] == "ros:${{ matrix.distribution }}-ros-base"


def test_the_cuda_toolkit_is_the_one_that_the_pinned_torch_was_built_with():
    """With another major version cuda_ops.build compiles no CUDA kernels. torch's is that of its wheel on PyPI."""
    (torch,) = re.findall(r"^torch==(\S+)$", (ROOT / "requirements" / "runtime.txt").read_text(), re.MULTILINE)
    built_with = {"2.13.0": "13.0"}
    assert f"FROM nvidia/cuda:{built_with[torch]}." in text("cuda.Dockerfile")
    assert "assert find_library().architectures" in text("cuda.Dockerfile"), "or an image without kernels would pass"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_can_serve_the_live_view(name):
    assert "requirements/view.txt" in text(name)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_files_that_an_image_names_are_in_the_sources(name):
    named = re.findall(r"/ws/src/sparse4d_ros/([\w./-]+\.\w+)", text(name))
    assert {"config/fastdds_shm.xml", "docker/entrypoint.sh"} <= set(named)
    assert [path for path in named if not (ROOT / path).is_file()] == []


def interpolated(command: str, **variables: str) -> str:
    """As compose does it: ${NAME}, ${NAME:-without it} and ${NAME:+with it}, which may hold another."""
    within = re.compile(r"\$\{(\w+)(?::([-+])([^{}]*))?\}")

    def value(match: re.Match) -> str:
        name, sign, other = match.groups()
        given = variables.get(name, "")
        return (other if given else "") if sign == "+" else given or other or ""

    while within.search(command):
        command = within.sub(value, command)
    return command


@pytest.mark.parametrize(
    "variables", [{}, {"MODEL": "v3_r50", "CHECKPOINT": "/weights/v3_r50.pth"}], ids=["none", "all"]
)
def test_compose_starts_programs_that_exist(variables):
    services = yaml.safe_load(text("compose.yaml"))["services"]
    launch = (ROOT / "launch" / "detector.launch.py").read_text()
    words = shlex.split(interpolated(services["detector"]["command"], **variables))
    assert words[:4] == ["ros2", "launch", "sparse4d_ros", "detector.launch.py"]
    arguments = dict(word.split(":=", 1) for word in words[4:])
    assert all(f'("{name}"' in launch for name in arguments)
    assert all(arguments.values()), "ros2 launch refuses `name:=`"
    assert arguments == {name.lower(): value for name, value in variables.items()} or not variables
    assert services.keys() == {"detector", "view", "player"}
    for name in ("view", "player"):
        words = shlex.split(services[name]["command"])
        assert words[:3] == ["ros2", "run", "sparse4d_ros"] and words[3] in {*COMMANDS, *ALIASES}
    assert all(service["ipc"] == service["network_mode"] == "host" for service in services.values())
    assert all(
        (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        for service in services.values()
    )


def test_compose_brings_weights_to_where_a_models_name_is_looked_up(monkeypatch):
    """In an image, in which root runs; without WEIGHTS nothing is made in the checkout."""
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    shared = yaml.safe_load(text("compose.yaml"))["services"]["detector"]["volumes"]

    def mounted(**variables: str) -> dict[str, str]:
        mounts = [interpolated(volume, **variables).split(":") for volume in shared]
        return {target: source for source, target, access in mounts if access == "ro"}

    fetched = mounted(WEIGHTS="/home/me/.cache/sparse4d_ros/checkpoints")
    assert fetched[str(default_folder())] == fetched["/weights"] == "/home/me/.cache/sparse4d_ros/checkpoints"
    assert (ROOT / "docker" / mounted()[str(default_folder())]).resolve() == SHIPPED


def test_compose_says_what_it_takes():
    above, _, rest = text("compose.yaml").partition("x-common:")
    assert set(re.findall(r"\$\{(\w+)", rest)) <= set(re.findall(r"(\w+)=", above))


def test_the_entrypoint_is_a_script_that_bash_reads():
    path = ROOT / "docker" / "entrypoint.sh"
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0


def test_the_development_container_uses_the_image():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / settings["build"]["dockerfile"]).resolve() == ROOT / "docker" / "Dockerfile"
    targets = (ROOT / "Makefile").read_text()
    source, make = settings["postCreateCommand"].split(" && ")
    assert source == ". /opt/ros/$ROS_DISTRO/setup.sh", "or make would fetch ROS 2 from wheels beside the image's own"
    _, *wanted = make.split()
    assert all(re.search(rf"^{target}:", targets, re.MULTILINE) for target in wanted)
