"""Measures how well the worker's stages overlap: sets per second and latency with stages that only wait.

    python -m sparse4d_ros.benchmark.throughput --prepare 25 --network 30 --publish 5

A network on a GPU leaves the processor alone while the host waits for it, and so does this one; what is measured is the
worker of the node: its threads, its choice of sets, its counts. The bound: 90 % of the rate of the slowest
stage, or of the cameras where these are slower.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import rclpy
from tqdm import tqdm

from sparse4d_core.benchmark import machine

from ..middleware import claimed_domain
from ..node import SWITCH_INTERVAL
from ..online.log_throttle import LogThrottle
from ..online.statistics import Statistics
from ..online.subscriptions import Arrival
from ..online.worker import Worker
from ..parameters import NodeParameters
from ..perception.rig import load_rig
from ..perception.synchronizer import Synchronizer
from ..units import NANOSECONDS

SHARE = 0.9  # of the rate of whatever is slowest, that the worker has to reach
WARM_UP = 10  # sets that are not counted


class WaitingStages:
    """Takes the place of the set processor and of the outputs: each stage takes its time and does nothing.

    Args:
        prepare, network, publish: seconds.
    """

    def __init__(self, prepare: float, network: float, publish: float):
        self._prepare, self._network, self._publish = prepare, network, publish
        self.on_gpu = False

    @property
    def rates(self) -> dict[str, float]:
        """Sets per second: of the slowest stage, and of the stages one after another."""
        stages = (self._prepare, self._network, self._publish)
        return {"slowest_stage": 1 / max(stages), "one_after_another": 1 / sum(stages)}

    def prepare(self, synced: Any) -> Any:
        time.sleep(self._prepare)
        return synced

    def run(self, prepared: Any) -> Any:
        time.sleep(self._network)
        return SimpleNamespace(reset=None, timings_ms={})

    def publish(self, processed: Any) -> dict[str, float]:
        time.sleep(self._publish)
        return {}

    def publish_overlay(self, processed: Any) -> None:
        return None


class Cameras:
    """Six cameras that all fire at once, in a thread; a context manager.

    Args:
        synchronizer: gets their images.
        rate: sets per second.
    """

    def __init__(self, synchronizer: Synchronizer, rate: float):
        self._synchronizer, self._period = synchronizer, 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)

    def __enter__(self) -> Cameras:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            stamp_ns = time.time_ns()
            for camera in self._synchronizer.cameras:
                self._synchronizer.add_image(camera, stamp_ns, Arrival(b"", time.monotonic()))
            due += self._period
            self._stop.wait(max(0.0, due - time.monotonic()))


def measure(stages: WaitingStages, rate: float, sets: int) -> dict[str, Any]:
    """Runs the worker on so many sets.

    Args:
        stages: what they go through.
        rate: sets per second that the cameras send.
        sets: to publish.
    """
    statistics = Statistics(window=None)
    synchronizer = Synchronizer(load_rig().names, slop_ns=0, timeout_ns=NANOSECONDS, require_info=False)
    with claimed_domain() as domain:
        rclpy.init(args=[], domain_id=domain)
        node = rclpy.create_node("throughput")
        log = LogThrottle(node.get_logger())
        worker = Worker(
            node, NodeParameters(look_ahead="always"), synchronizer, stages, stages, statistics, log, give_up=print
        )
        try:
            with Cameras(synchronizer, rate), tqdm(total=sets, desc="throughput", unit="set") as bar:
                _wait(statistics, WARM_UP)
                start, first = time.perf_counter(), statistics.processed
                while statistics.processed < first + sets:
                    _wait(statistics, statistics.processed + 1)
                    bar.update(min(statistics.processed - first, sets) - bar.n)
                seconds, done = time.perf_counter() - start, statistics.processed - first
        finally:
            worker.stop()
            node.destroy_node()
            rclpy.try_shutdown()
    return _report(stages, statistics, synchronizer, rate, done / seconds)


def _wait(statistics: Statistics, processed: int) -> None:
    while statistics.processed < processed:
        time.sleep(0.001)


def _report(
    stages: WaitingStages, statistics: Statistics, synchronizer: Synchronizer, offered: float, reached: float
) -> dict[str, Any]:
    latencies = statistics.measured("arrival_to_publish")[WARM_UP:]
    p50, p99 = np.percentile(latencies, (50, 99)).tolist()
    return {
        "sets_per_second": round(reached, 2),
        "rates_of_the_stages": {name: round(value, 2) for name, value in stages.rates.items()},
        "arrival_to_publish_ms": {"p50": round(p50, 2), "p99": round(p99, 2)},
        "sets_superseded": synchronizer.sets["superseded"],
        "prepared_sets_superseded": statistics.dropped["superseded"],
        "ok": reached >= SHARE * min(stages.rates["slowest_stage"], offered),
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m sparse4d_ros.benchmark.throughput",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    for stage, milliseconds in (("prepare", 25.0), ("network", 30.0), ("publish", 5.0)):
        text = "milliseconds of this stage (default: %(default)s)"
        parser.add_argument(f"--{stage}", type=float, default=milliseconds, metavar="MS", help=text)
    parser.add_argument("--rate", type=float, default=60.0, help="sets that come per second (default: %(default)s)")
    parser.add_argument("--sets", type=int, default=300, help="to publish (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="write the figures as JSON to this file")
    options = parser.parse_args(arguments)
    if min(options.prepare, options.network, options.publish, options.rate, options.sets) <= 0:
        parser.error("milliseconds, rate and sets: expected more than 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 where the bound does not hold."""
    options = parse_arguments(arguments)
    sys.setswitchinterval(SWITCH_INTERVAL)
    report = {"hardware": machine.describe(), "load_average": os.getloadavg()[0]}
    stages = WaitingStages(options.prepare * 1e-3, options.network * 1e-3, options.publish * 1e-3)
    report |= measure(stages, options.rate, options.sets)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
