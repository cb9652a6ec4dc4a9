"""What a detector sees and finds, in a browser: http://127.0.0.1:8080, without a network.

    python -m sparse4d_ros.live_view                                        # beside a running node
    python -m sparse4d_ros.live_view --bag BAG --record boxes.jsonl         # a recorded run, without ROS
    python -m sparse4d_ros.live_view --demo                                 # the demo: node and bag are started as well
    python -m sparse4d_ros.live_view --bag BAG --record boxes.jsonl --save drive.html       # the run as one file

Boxes with ids, velocities and trails; the cameras with their images; rate, latencies, drops and health; a pause with
the last 60 s. The page has no password: other machines see it only with --host.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from sparse4d_core.checkpoint.published import NoWeightsError
from sparse4d_core.command_line import interrupted
from sparse4d_core.interrupts import StopRequest, stop_requests

from ..bags.bag_io import BagError
from ..bags.box_record import BoxRecordError
from ..demo.programs import DemoError
from ..middleware import NoDomainError
from ..parameters import add_sync_slop
from ..perception.rig import Rig, RigError, load_rig
from ..ros_arguments import split_ros_arguments
from .recorded_source import RecordedSource
from .scene import NothingToSaveError, Scene

HOST, PORT = "127.0.0.1", 8080
NICE_INCREMENT = 15  # the node's threads have 0, unless its worker_nice_increment says more: whoever looks on waits
SAVE = "write a file that any browser plays: a recorded run at once and whole; else, at the end, the last 60 s"
MISSING = "viser is not installed; it makes the page: pip install viser==1.1.0 (pinned in requirements/view.txt)"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line without its ROS arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.live_view", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--host", default=HOST, help="address to listen on; 0.0.0.0 for other machines (%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="the next free one if it is taken (%(default)s)")
    parser.add_argument("--rig", default="", help="rig file (default: the nuScenes rig)")
    parser.add_argument("--detector", default="/sparse4d", help="name of the detector's node (%(default)s)")
    parser.add_argument("--bag", type=Path, help="show a recorded run: the folder of its bag")
    parser.add_argument("--record", type=Path, help="and its boxes, as box_recorder or replay wrote them")
    parser.add_argument("--rate", type=float, default=1.0, help="of a recorded run; 2: twice as fast (%(default)s)")
    parser.add_argument("--loops", type=int, default=0, help="of a recorded run; 0: for ever (%(default)s)")
    add_sync_slop(parser)
    parser.add_argument("--demo", action="store_true", help="start the demo's node and bag as well")
    parser.add_argument("--save", type=Path, metavar="FILE.html", help=SAVE)
    options = parser.parse_args(arguments)
    if (options.bag is None) != (options.record is None):
        parser.error("--bag and --record go together")
    if options.demo and options.bag:
        parser.error("--demo has a bag of its own")
    if options.save and options.save.is_dir():
        parser.error(f"--save: expected a file, {options.save} is a folder")
    if options.rate <= 0:
        parser.error(f"--rate: expected a number above 0, got {options.rate:g}")
    return options


def run(
    options: argparse.Namespace,
    rig: Rig,
    words: Sequence[str],
    stop: StopRequest,
    drive: contextlib.AbstractContextManager[None] | None = None,
) -> None:
    """Serves the page until asked to end, or until a recorded run that does not start over is at its end; or saves it.

    Args:
        rig: of the detector, or of the bag.
        words: the command line with its ROS arguments.
        drive: runs while the page is served.

    Raises:
        NothingToSaveError: there is no set to save.
    """
    from .browser.saved_page import save_page  # viser is only here for those who want the page

    recorded = RecordedSource(options.bag, options.record, rig, options.sync_slop) if options.bag else None
    if recorded and options.save:
        scene = Scene(rig.names, seconds=math.inf)
        recorded.load(scene, stop)
    else:
        scene = Scene(rig.names)
        with drive or contextlib.nullcontext():
            serve(scene, recorded, rig, options, words, stop)
    if options.save:
        saved = save_page(scene.held(), options.save)
        print(f"{options.save}: {saved.moments} sets, {saved.seconds:.1f} s, {saved.size / 2**20:.1f} MiB", flush=True)


def serve(
    scene: Scene,
    recorded: RecordedSource | None,
    rig: Rig,
    options: argparse.Namespace,
    words: Sequence[str],
    stop: StopRequest,
) -> None:
    """Shows the recorded run, or without one what the detector publishes, until asked to end or the end of the run."""
    from .browser.web_server import WebServer

    with contextlib.ExitStack() as stack:
        if recorded is None:
            stack.enter_context(live(scene, rig, options.detector, words))
        server = stack.enter_context(WebServer(scene, options.host, options.port))
        print(f"live view: {server.url}", flush=True)
        if recorded:
            recorded.play(scene, stop, options.rate, options.loops)
        else:
            stop.wait()


@contextlib.contextmanager
def live(scene: Scene, rig: Rig, detector: str, words: Sequence[str]) -> Iterator[None]:
    """Fills the scene from the topics, in threads of its own."""
    from .live_source import LiveSource

    os.nice(NICE_INCREMENT)  # this thread, and those that it starts from here on
    rclpy.init(args=list(words), signal_handler_options=rclpy.SignalHandlerOptions.NO)
    node = rclpy.create_node("live_view")
    source = LiveSource(node, scene, rig, detector)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, name="executor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()
        source.close()
        if source.skipped:
            print("not shown, or in part: " + ", ".join(f"{cause} {n}" for cause, n in sorted(source.skipped.items())))
        node.destroy_node()
        rclpy.try_shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, or without viser; 1 if the demo fails,
    130 if that is interrupted while it is prepared."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    words, own = split_ros_arguments(arguments)
    options = parse_arguments(own)
    if find_spec("viser") is None:  # before minutes of rendering
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    try:
        with contextlib.ExitStack() as stack:
            drive = None
            rig = load_rig(options.rig)  # a wrong one is told before minutes of rendering, too
            if options.demo:
                from .demo_drive import prepared_demo

                drive = stack.enter_context(prepared_demo())  # signals interrupt it: it has no look at a request
            stop = stack.enter_context(stop_requests())
            run(options, rig, words, stop, drive)
    except (BagError, BoxRecordError, NothingToSaveError, NoWeightsError, RigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (DemoError, NoDomainError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted()
    return 0


if __name__ == "__main__":
    sys.exit(main())
