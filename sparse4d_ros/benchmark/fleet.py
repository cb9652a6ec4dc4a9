"""Bags, or scenes, in local processes and on a Ray cluster: throughput, and the same results when a host is killed.

    python -m sparse4d_ros.benchmark.fleet --tasks bags --count 12 --hosts 1 2 4 --out out/fleet.json

Renders scenes, writes each into a bag, and runs `evaluate_bags` on them as a user would: in one process, in several,
and on clusters whose hosts are processes of this machine with a core each. Then once more on two hosts, one of which is
killed (kill -9) while it works. With scenes it is `sparse4d_core.evaluation.run`, without scores. What each run gave
must be what the first one gave, byte by byte. Seconds are those of the whole command, its start and the loading of
models with it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse4d_core.atomic_write import write_json
from sparse4d_core.benchmark.machine import describe, summary
from sparse4d_core.command_line import OK, refuse
from sparse4d_core.data.nuscenes.tables import load_scenes
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.tasks.cluster_option import MISSING

from ..bags.bag_task import MEASURED
from ..nuscenes_to_rosbag import write_scenes

VERSION = "v1.0-mini"
SEED = 100_007
POLL = 0.1  # s


@dataclass(frozen=True)
class Run:
    where: str
    workers: int
    seconds: float  # of the command
    sets: int
    same: bool  # as the run in one process, byte by byte

    @property
    def sets_per_s(self) -> float:
        return self.sets / self.seconds


@dataclass(frozen=True)
class Work:
    """A command on the same tasks again and again."""

    words: Sequence[str]  # of the command, after `python -m`
    done: str  # pattern of the files that appear with each task
    content: Callable[[Path], dict[str, tuple[int, Any]]]  # by task: sets, and what they gave
    count: int  # tasks


def bags_of(world: Path, folder: Path, model: str) -> Work:
    """Writes a bag of each scene, without annotations."""
    bags = []
    for scene in (record["name"] for record in load_scenes(world, VERSION).scenes):
        bags.append(folder / scene)
        write_scenes(load_scenes(world, VERSION, [scene]), str(bags[-1]), annotations=False, progress=False)
    words = ["sparse4d_ros.evaluate_bags", *map(str, bags), "--model", model, "--torch-threads", "1"]
    return Work(words, f"*/{MEASURED}", bag_content, len(bags))


def bag_content(out: Path) -> dict[str, tuple[int, Any]]:
    """All but what a clock measured."""
    found: dict[str, tuple[int, Any]] = {}
    for measured in sorted(out.glob(f"*/{MEASURED}")):
        values = json.loads(measured.read_text())
        del values["step_ms"]
        found[measured.parent.name] = values["sets"], (values, (measured.parent / "boxes.jsonl").read_bytes())
    return found


def scenes_of(world: Path, model: str) -> Work:
    """Takes the annotations away, without which nothing is scored."""
    for table in ("sample_annotation", "instance"):
        write_json(world / VERSION / f"{table}.json", [])
    words = ["sparse4d_core.evaluation.run", "--dataroot", str(world), "--model", model, "--workers", "0"]
    return Work(words, "scenes/*.json", scene_content, len(load_scenes(world, VERSION).scenes))


def scene_content(out: Path) -> dict[str, tuple[int, Any]]:
    files = [out / name for name in ("results.json", "tracking.json")]
    whole = tuple(file.read_bytes() for file in files)
    scenes = {path.stem: path.read_bytes() for path in sorted(out.glob("scenes/*.json"))}
    return {name: (len(json.loads(text)["detection"]), (text, whole)) for name, text in scenes.items()}


def timed_command(words: Sequence[str], out: Path, meanwhile: Callable[[], Any]) -> float:
    """Seconds of a command; `meanwhile` is called again and again while it runs.

    Raises:
        OSError: it failed.
    """
    command = [sys.executable, "-m", *words, "--out", str(out)]
    began = time.perf_counter()
    with (out.parent / f"{out.name}.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                meanwhile()
                time.sleep(POLL)
        finally:
            process.kill()
        if process.returncode:
            log.seek(0)
            raise OSError(f"{words[0]} ended with status {process.returncode}: {log.read()[-2000:]}")
    return time.perf_counter() - began


class Benchmark:
    """Runs of the same work, each compared with the first."""

    def __init__(self, work: Work, folder: Path):
        self.work, self._folder = work, folder
        self._first: dict[str, Any] | None = None
        self.runs: list[Run] = []

    def run(self, where: str, workers: int, more: Sequence[str], meanwhile: Callable[[Path], Any] = lambda _: None):
        """
        Args:
            more: options of the command.
            meanwhile: given the folder of the results.
        """
        out = self._folder / f"results-{len(self.runs)}"
        seconds = timed_command([*self.work.words, *more], out, lambda: meanwhile(out))
        found = self.work.content(out)
        self._first = self._first or found
        same = found == self._first and len(found) == self.work.count
        self.runs.append(Run(where, workers, seconds, sum(sets for sets, _ in found.values()), same))
        tqdm.write(row(self.runs[-1], self.runs[0]))


def measure(benchmark: Benchmark, hosts: Sequence[int]) -> None:
    """All runs: one process, and for each number processes and hosts; in the end one with a host killed."""
    from sparse4d_core.benchmark.cluster_hosts import cluster_of  # Ray, an extra

    benchmark.run("one process", 1, [])
    for count in hosts:
        if count > 1:
            benchmark.run("processes", count, ["--processes", str(count)])
        with cluster_of(count) as cluster:
            benchmark.run("Ray, hosts", count, ["--ray", cluster.address])
    with cluster_of(2) as cluster:
        killed: list[float] = []

        def kill_one(out: Path) -> None:
            if not killed and any(out.glob(benchmark.work.done)):
                cluster.kill(0)
                killed.append(time.perf_counter())

        benchmark.run("Ray, one of two hosts killed", 2, ["--ray", cluster.address], kill_one)
        if not killed:
            raise OSError("no host was killed: the run was over before; take a larger --count")


HEADER = "| where | workers | seconds | sets/s | times one process | same bytes |\n|---|---|---|---|---|---|"


def row(run: Run, first: Run) -> str:
    times, same = run.sets_per_s / first.sets_per_s, "yes" if run.same else "NO"
    return f"| {run.where} | {run.workers} | {run.seconds:.1f} | {run.sets_per_s:.2f} | {times:.2f} | {same} |"


def render(world: Path, options: argparse.Namespace) -> None:
    """Key frames at 2 Hz."""
    rig = NUSCENES_RIG.resized(options.width, options.width * 9 // 16)
    workers = os.cpu_count() or 1
    render_dataset(
        world, options.count, SEED, duration=options.duration, rate=2, rig=rig, workers=workers, progress=True
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.benchmark.fleet",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="demo", help="preset (default %(default)s)")
    add("--tasks", default="bags", choices=("bags", "scenes"), help="default: %(default)s")
    add("--count", type=int, default=12, help="how many (default %(default)s)")
    add("--duration", type=float, default=8.0, help="seconds of each, with two sets a second (default %(default)s)")
    add("--width", type=int, default=704, help="of the images, pixels (default %(default)s)")
    add("--hosts", type=int, nargs="+", default=[1, 2, 4], help="numbers to try (default 1 2 4)")
    add("--out", type=Path, metavar="FILE.json", help="write the figures")
    options = parser.parse_args(arguments)
    if min(*options.hosts, options.count) < 1:
        parser.error("--hosts, --count: expected 1 or more")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
            folder = Path(scratch)
            render(folder / "world", options)
            world, model = folder / "world", options.model
            work = scenes_of(world, model) if options.tasks == "scenes" else bags_of(world, folder / "bags", model)
            benchmark = Benchmark(work, folder)
            print(f"{summary()}; load average {os.getloadavg()[0]:.1f}; {work.count} {options.tasks}\n\n{HEADER}")
            measure(benchmark, options.hosts)
        facts = describe() | {"load_average": os.getloadavg()[0], "tasks": options.tasks, "model": options.model}
        if options.out:
            rows = [asdict(run) | {"sets_per_s": run.sets_per_s} for run in benchmark.runs]
            write_json(options.out, {"facts": facts, "rows": rows}, indent=1)
        if not all(run.same for run in benchmark.runs):
            raise OSError("results differ from those of one process")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        return refuse("python -m sparse4d_ros.benchmark.fleet", ValueError(MISSING))
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_ros.benchmark.fleet", error)
    return OK


if __name__ == "__main__":
    sys.exit(main())
