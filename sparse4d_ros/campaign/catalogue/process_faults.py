"""Faults of the processes around the node and of itself: killed, restarted, reconfigured, cycled."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator

from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import Trigger
from vision_msgs.msg import Detection3DArray

from ..running_system import DETECTOR, RunningSystem
from ..stream_bag import write_stream_bag
from .fault import Fault, NotSurvived
from .machine_faults import WAIT_SECONDS, check_record

CYCLES = 100
STOPS = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
STARTS = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)


def restarted(how: signal.Signals, seed: int, status: int):
    """The node is ended at a random moment, must have this exit status, and is started again as a launch would."""

    @contextlib.contextmanager
    def inject(system: RunningSystem) -> Iterator[None]:
        time.sleep(random.Random(seed).uniform(0.0, 0.4))  # two periods of the cameras
        found = system.end_node(how)
        yield
        if found != status:
            raise NotSurvived(f"exit status {found} after {how.name}; expected {status}")
        system.start_node()

    return inject


@contextlib.contextmanager
def recorder_killed(system: RunningSystem) -> Iterator[None]:
    """In the middle of its work, and another one after it; what the first has written can be read."""
    for number in (1, 2):
        path = system.folder / f"killed_{number}.jsonl"
        with system.processes.background(f"recorder_{number}", "sparse4d_ros.box_recorder", "--out", path) as recorder:
            if not system.observer.wait_for(lambda p=path: p.is_file() and p.stat().st_size > 0, WAIT_SECONDS):
                raise NotSurvived("the recorder records nothing")
            if number == 1:
                recorder.kill()
                recorder.wait(WAIT_SECONDS)
        check_record(path)
    yield


@contextlib.contextmanager
def player_killed_and_restarted(system: RunningSystem) -> Iterator[None]:
    """A bag instead of the cameras: its player is killed and started again, so that time jumps back."""
    bag = write_stream_bag(system.folder / "stream_bag", system.rig, system.size_wh)
    system.streams.paused.set()
    try:
        for number in (1, 2):
            log = system.folder / f"played_{number}.jsonl"
            words = ["sparse4d_ros.bag_player", bag, "--loops", 0, "--log", log]
            with system.processes.background(f"player_{number}", *words) as player:
                if not system.observer.wait_for(lambda p=log: p.is_file() and p.stat().st_size > 0, WAIT_SECONDS):
                    raise NotSurvived("the player plays nothing")
                time.sleep(2.0)
                if number == 1:
                    player.kill()
                    player.wait(WAIT_SECONDS)
                else:
                    yield
    finally:
        system.streams.paused.clear()


# ------------------------------------------------------------------------------------- lifecycle, services, parameters


def change(system: RunningSystem, *transitions: int) -> None:
    for transition in transitions:
        if not system.change_state(transition):
            raise NotSurvived(f"transition {transition} failed")


@contextlib.contextmanager
def activated_often(system: RunningSystem) -> Iterator[None]:
    """While data flow."""
    for _ in range(CYCLES):
        change(system, STOPS[0], STARTS[1])
    yield


@contextlib.contextmanager
def configured_often(system: RunningSystem) -> Iterator[None]:
    for _ in range(5):
        change(system, *STOPS, *STARTS)
    yield


@contextlib.contextmanager
def configured_wrongly(system: RunningSystem) -> Iterator[None]:
    """A checkpoint that is not there: the node stays unconfigured, says why, and can be configured after that."""
    change(system, *STOPS)
    system.set_parameter("checkpoint", "no/such/file.pt")
    if system.change_state(STARTS[0]):
        raise NotSurvived("configured with a checkpoint that is not there")
    yield
    system.set_parameter("checkpoint", "")
    change(system, *STARTS)


@contextlib.contextmanager
def reset_often(system: RunningSystem) -> Iterator[None]:
    for _ in range(50):
        if not system.call(Trigger, "reset", Trigger.Request()).success:
            raise NotSurvived("reset failed")
    yield


LIVE = (("score_threshold", 0.2), ("overlay_width", 320), ("overlay_quality", 50))
REFUSED = (("score_threshold", 1.5), ("model", "v9"), ("sync_slop", 0.01), ("overlay_width", "wide"))


@contextlib.contextmanager
def parameters_changed(system: RunningSystem) -> Iterator[None]:
    """Those that may change while the node is active do, again and again."""
    before = (("score_threshold", 0.0), ("overlay_width", 480), ("overlay_quality", 80))
    for name, value in (LIVE + before) * 20:
        accepted, reason = system.set_parameter(name, value)
        if not accepted:
            raise NotSurvived(f"{name} = {value}: {reason}")
    yield


@contextlib.contextmanager
def parameters_refused(system: RunningSystem) -> Iterator[None]:
    """Values that cannot be are refused with a reason."""
    for name, value in REFUSED:
        accepted, reason = system.set_parameter(name, value)
        if accepted or not reason:
            raise NotSurvived(f"{name} = {value} was taken, or refused without a reason")
    yield


@contextlib.contextmanager
def visitors(system: RunningSystem) -> Iterator[None]:
    """Subscribers to boxes and overlay, too slow for what they get, come and go."""
    for _ in range(10):
        topics = ((Detection3DArray, "detections"), (CompressedImage, "overlay/compressed"))
        subscriptions = [
            system.node.create_subscription(kind, f"{DETECTOR}/{topic}", lambda _: None, QoSProfile(depth=1))
            for kind, topic in topics
        ]
        time.sleep(0.3)
        for subscription in subscriptions:
            system.node.destroy_subscription(subscription)
    yield


PROCESS_FAULTS = (
    *(
        Fault(f"node killed ({k})", "SIGKILL at a random moment, started again", restarted(signal.SIGKILL, k, -9))
        for k in (1, 2, 3)
    ),
    Fault("node terminated", "SIGTERM at a random moment, started again", restarted(signal.SIGTERM, 4, 0)),
    Fault("node interrupted", "SIGINT at a random moment, started again", restarted(signal.SIGINT, 5, 0)),
    Fault("recorder killed", "SIGKILL, and started again", recorder_killed),
    Fault(
        "player killed",
        "SIGKILL, and started again: time jumps back",
        player_killed_and_restarted,
        (
            "images_dropped.time_jump",
            "resets.time jumped back",
            "resets.time went back",
            "resets.transforms jumped back in time",
        ),
    ),
    Fault("activated 100 times", "deactivated and activated while data flow", activated_often),
    Fault("configured 5 times", "down to unconfigured and up again while data flow", configured_often),
    Fault("configured wrongly", "with a checkpoint that is not there", configured_wrongly),
    Fault("reset 50 times", "the service ~/reset", reset_often, ("resets.asked for",)),
    Fault("parameters changed", "120 changes while active", parameters_changed),
    Fault("parameters refused", "values that cannot be", parameters_refused),
    Fault("visitors", "subscribers to boxes and overlay come and go", visitors),
)
