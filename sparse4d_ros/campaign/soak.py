"""Runs the node for long under full-size images, and looks whether it grows.

    python -m sparse4d_ros.campaign.soak --minutes 60 --out out/soak

Half of the time with six raw 1600x900 streams at 10 Hz, half with JPEGs. OUT/soak.json has memory, file descriptors,
threads, latency and drops by cause over time, OUT/soak.png draws them. Passed if, after five minutes, resident memory
grows by less than 1 MiB in ten minutes, and nothing that came in was lost without a cause.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from sparse4d_core.atomic_write import write_json
from sparse4d_core.benchmark import machine
from sparse4d_core.command_line import interrupted

from ..middleware import claimed_domain
from ..perception.rig import Rig, load_rig
from ..ros_arguments import Yaml
from .growth_verdict import Growth, growth
from .resources import Sample, take_sample, unexplained
from .running_system import CampaignError, RunningSystem
from .soak_picture import draw

RATE = 10.0  # sets a second
SIZE_WH = (1600, 900)  # pixels
MOST_SAMPLES = 600  # of one kind of images
PARAMETERS = {"model": "demo", "image_reliability": "reliable", "resize": "torch"}  # what keeps up best on two cores
KINDS = ("raw", "jpeg")


@dataclass(frozen=True)
class Run:
    """What came of one kind of images."""

    images: str
    published: int  # images, after the node had given its first output
    lost_in_transport: int  # of these; the node never saw them
    unexplained_images: int
    unexplained_sets: int
    growth: Growth
    samples: tuple[Sample, ...]

    @property
    def problems(self) -> list[str]:
        """Empty: passed."""
        found = list(self.growth.problems)
        if self.unexplained_images or self.unexplained_sets:
            found.append(f"lost without a cause: {self.unexplained_images} images, {self.unexplained_sets} sets")
        if not self.samples or not self.samples[-1].sets:
            found.append("no set was processed")
        return found


def soak(images: str, seconds: float, folder: Path, parameters: Mapping[str, Any]) -> Run:
    """One node under one kind of images.

    Raises:
        CampaignError: it does not come up, or ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = write_rig(images, folder)
    with (
        claimed_domain() as domain,
        RunningSystem(folder, domain, load_rig(path), RATE, SIZE_WH, {**parameters, "rig": path}, large=True) as system,
    ):
        return measure(system, images, seconds)


def measure(system: RunningSystem, images: str, seconds: float) -> Run:
    """Watches a system that runs, and stops its streams.

    Raises:
        CampaignError: the node ends.
    """
    published, received = _counts(system)
    system.streams.paused.clear()
    samples = _watch(system, seconds, images)
    published, received = (after - before for after, before in zip(_counts(system), (published, received), strict=True))
    lost = unexplained(system.observer)
    return Run(images, published, published - received, *lost, growth(samples), tuple(samples))


def _counts(system: RunningSystem) -> tuple[int, int]:
    """Images published, and received, so far. The streams pause: what diagnostics tell is up to a second old."""
    system.streams.paused.set()
    _drain(system)
    received = int(system.observer.values("synchronization").get("images_received", 0))
    return system.streams.sets * len(system.rig.cameras), received


def write_rig(images: str, folder: Path) -> Path:
    """The rig of nuScenes with raw or compressed images, as a file for the node."""
    rig: Rig = load_rig()
    ending = "" if images == "raw" else "/compressed"
    topics = [f"  - {{name: {c.name}, image_topic: /{c.name}/image_rect{ending}}}\n" for c in rig.cameras]
    path = folder / "rig.yaml"
    path.write_text("cameras:\n" + "".join(topics), encoding="utf-8")
    return path


def _watch(system: RunningSystem, seconds: float, name: str) -> list[Sample]:
    process, samples, start = psutil.Process(system.process.pid), [], time.monotonic()
    period = max(1.0, seconds / MOST_SAMPLES)
    with tqdm(total=round(seconds), unit="s", desc=name, disable=None) as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            if not system.alive:
                raise CampaignError(f"the node ended with status {system.process.poll()} after {elapsed:.0f} s")
            samples.append(take_sample(process, system.observer, elapsed))
            bar.update(int(elapsed) - bar.n)
            time.sleep(min(period, max(0.0, start + seconds - time.monotonic())))
    return samples


def _drain(system: RunningSystem) -> None:
    """Until the counters stand still, so that no set is on its way."""
    before: list[Any] = [None]

    def is_still() -> bool:
        now = (system.observer.values("inference").get("sets_processed"), system.observer.counters())
        time.sleep(1.5)  # of diagnostics there is one a second
        still, before[0] = now == before[0], now
        return still

    system.observer.wait_for(is_still, 60.0)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.campaign.soak",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="in all (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder of everything made (%(default)s)")
    parser.add_argument("--images", choices=KINDS, action="append", help="only these; may be repeated")
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME:=VALUE", help="of the node")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes: expected a positive number")
    if bad := [word for word in options.parameter if ":=" not in word]:
        parser.error(f"--parameter: expected NAME:=VALUE, got {bad[0]}")
    return options


def report(runs: Sequence[Run], unfinished: Sequence[str]) -> dict[str, Any]:
    """Everything measured, and the verdict, which takes all kinds of images."""
    return {
        "date": date.today().isoformat(),
        "hardware": machine.describe(),
        "rate_hz": RATE,
        "passed": not unfinished and not any(run.problems for run in runs),
        "unfinished": list(unfinished),
        "runs": [asdict(run) | {"problems": run.problems} for run in runs],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if the node grows, loses something without a cause, or ends."""
    options = parse_arguments(arguments)
    kinds = tuple(dict.fromkeys(options.images or KINDS))
    given = (word.split(":=", 1) for word in options.parameter)
    parameters = PARAMETERS | {name: Yaml(value) for name, value in given}
    runs: list[Run] = []
    try:
        for done, kind in enumerate(kinds):
            write(runs, kinds[done:], options.out)  # half an hour is not lost with what comes after it
            runs.append(soak(kind, 60 * options.minutes / len(kinds), options.out / kind, parameters))
            print(f"{kind}: {sentence(runs[-1])}")
        write(runs, (), options.out)
    except CampaignError as error:
        print(f"error: {error}; logs are in {options.out}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted()
    return 1 if any(run.problems for run in runs) else 0


def write(runs: Sequence[Run], unfinished: Sequence[str], out: Path) -> None:
    """The report and the picture of the runs so far."""
    write_json(out / "soak.json", report(runs, unfinished), indent=1)
    if not runs:
        return
    try:
        draw({run.images: run.samples for run in runs}, out / "soak.png")
    except ModuleNotFoundError as error:
        print(f"no picture: {error}; pip install the pins of requirements/train.txt", file=sys.stderr)


def sentence(run: Run) -> str:
    """The outcome of one run."""
    last, grown = run.samples[-1], run.growth.memory_mib
    text = f"{last.sets} sets, {last.memory_mib:.0f} MiB, {last.files} files, {last.threads} threads"
    text += f"; {run.lost_in_transport} of {run.published} images lost in transport"
    text += "; too short to judge growth" if grown is None else f"; memory grows by {grown:.2f} MiB in ten minutes"
    return text + (f"; NOT PASSED: {'; '.join(run.problems)}" if run.problems else "")


if __name__ == "__main__":
    sys.exit(main())
