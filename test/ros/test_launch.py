"""The launch files in a real launch system, where there is one."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_packaging import entry_points

rclpy = pytest.importorskip("rclpy")

from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120.0  # for anything to happen, on the slowest machine
FILES = {name: ROOT / "launch" / f"{name}.launch.py" for name in ("detector", "replay")}
NEEDS_LAUNCH = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch_ros is not installed: native installations of ROS 2 have it, there is no wheel of it",
)
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *arguments = sys.argv[1:]
source = PythonLaunchDescriptionSource(path)
include = IncludeLaunchDescription(source, launch_arguments=[argument.split(":=", 1) for argument in arguments])
service = LaunchService(argv=arguments)
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


class Launch:
    """A launch system in a process group of its own, and the lines that it printed."""

    def __init__(self, environment: dict[str, str], file: Path, *arguments: str):
        command = [sys.executable, "-c", RUN, str(file), *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def wait_for(self, pattern: str, times: int = 1) -> list[str]:
        """The lines with it, once there are so many."""
        found: list[str] = []

        def seen() -> bool:
            found[:] = [line for line in self.lines if re.search(pattern, line)]
            return len(found) >= times

        with self._changed:
            assert self._changed.wait_for(seen, SECONDS), f"no {pattern!r} in\n{''.join(self.lines)}"
        return found

    def pids(self, program: str = "detector") -> list[int]:
        """Of the processes of a program, in the order of their starts."""
        started = rf"{program}-\d+\]: process started with pid \[(\d+)\]"
        return [int(pid) for pid in re.findall(started, self.output())]

    def output(self) -> str:
        return "".join(self.lines)

    def interrupt(self) -> int:
        """As Ctrl-C in a terminal does: everybody gets it. Returns the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end()

    def end(self) -> int:
        """The exit status, once it has ended by itself."""
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def environment(tmp_path_factory, module_domain) -> dict[str, str]:
    """Variables of a ROS prefix that holds the package as its sources are."""
    prefix = tmp_path_factory.mktemp("prefix")
    share, programs = prefix / "share" / "sparse4d_ros", prefix / "lib" / "sparse4d_ros"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    for folder in (share, programs, index):
        folder.mkdir(parents=True)
    (index / "sparse4d_ros").touch()
    for name in ("launch", "config"):
        (share / name).symlink_to(ROOT / name)
    for name, target in entry_points().items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {target.split(":")[0]} "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return os.environ | {
        "AMENT_PREFIX_PATH": f"{prefix}{os.pathsep}{os.environ.get('AMENT_PREFIX_PATH', sys.prefix)}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "ROS_DOMAIN_ID": str(module_domain),
        "ROS_LOG_DIR": str(prefix / "log"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def launch(environment) -> Iterator[Callable[..., Launch]]:
    """Starts one of the two files, with the small model unless the arguments say otherwise."""
    started: list[Launch] = []

    def start(file: str, *arguments: str) -> Launch:
        model = () if any(text.startswith("params_file") for text in arguments) else (demo_file,)
        started.append(Launch(environment, FILES[file], *model, *arguments))
        return started[-1]

    demo_file = f"params_file:={ROOT / 'config' / 'demo.yaml'}"
    yield start
    for one in started:
        one.kill()


@pytest.fixture
def call(module_domain) -> Iterator[Callable]:
    """Calls a service and returns its response."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=module_domain)
    node = rclpy.create_node("caller", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def call(kind: type, name: str, request):
        client = node.create_client(kind, name)
        assert client.wait_for_service(SECONDS), name
        future = client.call_async(request)
        executor.spin_until_future_complete(future, SECONDS)
        assert future.done(), name
        return future.result()

    yield call
    node.destroy_node()
    rclpy.shutdown(context=context)


@NEEDS_LAUNCH
@pytest.mark.slow
def test_the_file_counts_where_no_argument_is_given(launch, call):
    run = launch("detector", "name:=front", "namespace:=robot", "use_sim_time:=true")
    (line,) = run.wait_for("active: 6 cameras")
    assert "[robot.front]" in line
    names = ["model", "temporal_stride", "use_sim_time", "autostart"]  # demo.yaml has the first two
    response = call(GetParameters, "/robot/front/get_parameters", GetParameters.Request(names=names))
    model, stride, sim_time, autostart = response.values
    assert (model.string_value, stride.double_value) == ("demo", 0.5)
    assert sim_time.bool_value and autostart.bool_value
    assert run.interrupt() == 0


@NEEDS_LAUNCH
@pytest.mark.slow
def test_a_text_that_reads_like_a_number_stays_a_text(launch):
    run = launch("detector", "checkpoint:=1000")
    run.wait_for("configure failed: .*1000")
    assert run.interrupt() == 0


@NEEDS_LAUNCH
@pytest.mark.slow
def test_a_manual_transition_is_not_followed_by_another(launch, call):
    """The node is left alone, and activates when it is told to: once."""
    run = launch("detector", "autostart:=false")
    steps = (
        (None, State.PRIMARY_STATE_UNCONFIGURED),
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
    )
    for transition, state in steps:
        if transition is not None:
            request = ChangeState.Request(transition=Transition(id=transition))
            assert call(ChangeState, "/sparse4d/change_state", request).success
        assert call(GetState, "/sparse4d/get_state", GetState.Request()).current_state.id == state
    assert run.interrupt() == 0
    assert len(run.wait_for("active: 6 cameras")) == 1


@NEEDS_LAUNCH
@pytest.mark.slow
@pytest.mark.parametrize("respawn", ["false", "true"])
def test_the_launch_fails_with_a_node_that_cannot_start(launch, respawn):
    run = launch("detector", "model:=nonsense", f"respawn:={respawn}")
    assert run.end() != 0
    assert "expected one of" in run.output() and "ended with status 2" in run.output()
    assert len(run.pids()) == 1


@NEEDS_LAUNCH
@pytest.mark.slow
def test_the_launch_fails_with_a_node_that_is_killed(launch):
    run = launch("detector")
    run.wait_for("active: 6 cameras")
    os.kill(run.pids()[0], signal.SIGKILL)
    assert run.end() != 0
    assert "ended with status -9" in run.output()


@NEEDS_LAUNCH
@pytest.mark.slow
def test_a_respawned_node_is_active_again(launch, call):
    run = launch("detector", "respawn:=true")
    run.wait_for("active: 6 cameras")
    os.kill(run.pids()[0], signal.SIGKILL)
    run.wait_for("active: 6 cameras", times=2)
    state = call(GetState, "/sparse4d/get_state", GetState.Request()).current_state.id
    assert state == State.PRIMARY_STATE_ACTIVE
    assert run.interrupt() == 0


@NEEDS_LAUNCH
@pytest.mark.slow
def test_the_live_view_serves_a_page_and_its_end_is_not_the_nodes(launch, call, tmp_path):
    """It shows the node that is launched, with the rig of its parameter file."""
    pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")
    rig = ROOT / "config" / "four_camera_rig.yaml"
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(f"/**: {{ros__parameters: {{model: demo, rig: {rig}}}}}")
    run = launch("detector", f"params_file:={parameters}", "name:=front", "namespace:=robot", "live_view:=true")
    (line,) = run.wait_for("live view: http")
    with urllib.request.urlopen(line.split("live view: ")[1].strip()) as page:
        assert b"<title>" in page.read()
    run.wait_for("active: 4 cameras")
    words = Path(f"/proc/{run.pids('live_view')[0]}/cmdline").read_bytes().decode().split("\0")
    assert (words[words.index("--detector") + 1], words[words.index("--rig") + 1]) == ("/robot/front", str(rig))
    os.kill(run.pids("live_view")[0], signal.SIGKILL)
    run.wait_for(r"live_view-\d+\]: process has died")
    state = call(GetState, "/robot/front/get_state", GetState.Request()).current_state.id
    assert state == State.PRIMARY_STATE_ACTIVE
    assert run.interrupt() == 0


@NEEDS_LAUNCH
@pytest.mark.parametrize(
    "arguments, message",
    [
        (("params_file:=/nowhere.yaml",), "params_file: no such file: /nowhere.yaml"),
        (("qos_file:=/nowhere.yaml",), "qos_file: no such file: /nowhere.yaml"),
        (("respawn:=perhaps",), "respawn: expected true or false, got 'perhaps'"),
        (("chekpoint:=a.pth", "respawn:=perhaps"), "argument chekpoint is unknown and without effect; did you mean"),
    ],
    ids=["params_file", "qos_file", "flag", "slip"],
)
def test_a_wrong_argument_is_named(launch, arguments, message):
    run = launch("detector", *arguments)
    assert run.end() != 0
    assert message in run.output()
    assert run.pids() == []


@NEEDS_LAUNCH
@pytest.mark.slow
def test_a_bag_is_played_to_its_end(launch, tiny_bag):
    run = launch("replay", f"bag:={tiny_bag}", "linger:=2.0")
    assert run.end() == 0
    assert "messages in" in run.output()
    (summary,) = re.findall(r"(\d+) sets processed", run.output())
    assert int(summary) > 0


@NEEDS_LAUNCH
@pytest.mark.slow
def test_a_bag_that_is_not_there_is_a_failure(launch):
    run = launch("replay", "bag:=/nowhere")
    assert run.end() != 0
    assert "the player ended with status 2" in run.output()
