"""What a detector sees and finds, in a browser: http://127.0.0.1:8080, without a network.

    python -m sparse4d_ros.live_view                                        # beside a running node
    python -m sparse4d_ros.live_view --bag BAG --record boxes.jsonl         # a recorded run, without ROS
    python -m sparse4d_ros.live_view --demo                                 # the demo: node and bag are started as well

Boxes with ids, velocities and trails; the cameras with their images; rate, latencies, drops and health; a pause with
the last 60 s. The page has no password: other machines see it only with --host.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from sparse4d_core.checkpoint.published import NoWeightsError

from ..bags.bag_io import BagError
from ..bags.box_record import BoxRecordError
from ..demo.programs import DemoError
from ..perception.rig import Rig, RigError, load_rig
from ..ros_arguments import split_ros_arguments
from .scene import Scene

HOST, PORT = "127.0.0.1", 8080
MISSING = "viser is not installed; it makes the page: python -m pip install -r requirements/view.txt"


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
    parser.add_argument("--demo", action="store_true", help="start the demo's node and bag as well")
    options = parser.parse_args(arguments)
    if (options.bag is None) != (options.record is None):
        parser.error("--bag and --record go together")
    if options.demo and options.bag:
        parser.error("--demo has a bag of its own")
    if options.rate <= 0:
        parser.error(f"--rate: expected a number above 0, got {options.rate:g}")
    return options


def run(options: argparse.Namespace, words: Sequence[str], done: threading.Event) -> None:
    """Serves the page until `done`, or until a recorded run that does not start over is at its end.

    Args:
        words: the command line with its ROS arguments.
    """
    from .browser.web_server import WebServer  # viser is only here for those who want the page

    rig = load_rig(options.rig)
    scene = Scene(rig.names)
    with contextlib.ExitStack() as stack:
        if options.bag:
            from .recorded_source import RecordedSource

            source = RecordedSource(options.bag, options.record, rig)
        else:
            if options.demo:
                from .demo_drive import demo_drive

                stack.enter_context(demo_drive())
            stack.enter_context(live(scene, rig, options.detector, words))
        server = stack.enter_context(WebServer(scene, options.host, options.port))
        print(f"live view: {server.url}", flush=True)
        if options.bag:
            source.play(scene, done, options.rate, options.loops)
        else:
            done.wait()


@contextlib.contextmanager
def live(scene: Scene, rig: Rig, detector: str, words: Sequence[str]) -> Iterator[None]:
    """Fills the scene from the topics, in threads of its own."""
    from .live_source import LiveSource

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
            print("not shown: " + ", ".join(f"{cause} {n}" for cause, n in sorted(source.skipped.items())))
        node.destroy_node()
        rclpy.try_shutdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, or without viser."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    words, own = split_ros_arguments(arguments)
    options = parse_arguments(own)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    try:
        run(options, words, done)
    except ModuleNotFoundError as error:
        if error.name != "viser":
            raise
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    except (BagError, BoxRecordError, NoWeightsError, RigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
