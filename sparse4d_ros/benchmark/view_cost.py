"""What the live view costs: the demo's drive, played to the node without it, with it, and with a browser that looks on.

    python -m sparse4d_ros.benchmark.view_cost --out out/bench/view.json

The cases take turns, in another order each round, so that other load on the machine meets all of them; every turn has a
node, a recorder and a player of its own. Latency is from the last image of a set going out to the receipt of its
result. The browser is Debian's chromium without a window, at the lowest priority. It renders in software, for which two
cores are too few: there the second case is the view's cost, and the third that of looking on at the same machine. Needs
viser, and for the last case chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from sparse4d_core.atomic_write import write_json
from sparse4d_core.benchmark import machine

from ..bags.box_record import read_box_record
from ..demo.__main__ import DemoOptions, node_arguments, prepare_input, prepare_network
from ..demo.node_run import recorded_node, wait_until_idle
from ..demo.programs import DemoError, Processes
from ..demo.report import rate, waits_ms
from ..middleware import claimed_domain
from ..units import NANOSECONDS

WITHOUT, VIEW, BROWSER = "without", "view", "view and browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_OPTIONS = (
    "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
    "--disable-background-networking", "--window-size=1280,800",
)  # fmt: skip
URL = re.compile(r"^live view: (http\S+)$", re.MULTILINE)
READY_SECONDS = 120.0
MIB = 2**20


@dataclass
class Turn:
    """One drive."""

    sets: int  # received
    rate_hz: float
    waits_ms: list[float]
    processors: dict[str, float]  # process -> share of one processor while the bag was played
    memory_mib: dict[str, float] = field(default_factory=dict)  # process -> resident at the end


def measure(options: argparse.Namespace) -> dict[str, list[Turn]]:
    """All turns, by case.

    Raises:
        DemoError: a program failed, or did not come up.
    """
    cases = [WITHOUT, VIEW, *([BROWSER] if options.browser else [])]
    turns: dict[str, list[Turn]] = {case: [] for case in cases}
    demo = DemoOptions(out=options.work.resolve(), duration=options.duration)
    (demo.out / "logs").mkdir(parents=True, exist_ok=True)
    with claimed_domain() as domain, tempfile.TemporaryDirectory() as folder:
        processes = Processes(demo.out / "logs", domain)
        _, bag = prepare_input(demo, processes)
        node = node_arguments(demo, prepare_network(demo, processes))
        order = [case for k in range(options.rounds) for case in cases[k % len(cases) :] + cases[: k % len(cases)]]
        for case in tqdm(order, desc="view", unit="turn", file=sys.stderr):
            turns[case].append(_turn(case, node, bag, processes, Path(folder)))
    return turns


def _turn(case: str, node: list[str], bag: Path, processes: Processes, folder: Path) -> Turn:
    record, played = folder / "record.jsonl", folder / "played.jsonl"
    with contextlib.ExitStack() as stack:
        started, listener = stack.enter_context(recorded_node(processes, node, record))
        watched = {"node": started["node"][0].pid}
        if case != WITHOUT:
            watched |= stack.enter_context(_view(processes, with_browser=case == BROWSER))
        before = _processor_seconds(watched)
        processes.run("player", "sparse4d_ros.bag_player", bag, "--log", played)
        after = _processor_seconds(watched)
        wait_until_idle(listener, started)
        memory = {name: psutil.Process(pid).memory_info().rss / MIB for name, pid in watched.items()}
    online = list(read_box_record(record))
    shares = {name: (after[name] - before[name]) / played_seconds(played) for name in watched}
    return Turn(len(online), rate(online), waits_ms(played, online), shares, memory)


@contextlib.contextmanager
def _view(processes: Processes, with_browser: bool) -> Iterator[dict[str, int]]:
    """The live view's process, and one browser; yields their ids by name.

    Raises:
        DemoError: the view does not serve, or the browser does not connect.
    """
    with contextlib.ExitStack() as stack:
        view = stack.enter_context(processes.background("view", "sparse4d_ros.live_view"))
        log = processes.log_of("view")
        _wait(
            lambda: re.search(r"live view: (http\S+)", log.read_text()), view, f"the live view; its output is in {log}"
        )
        url = re.search(r"live view: (http\S+)", log.read_text())[1]
        pids = {"view": view.pid}
        if with_browser:
            profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            browser = stack.enter_context(_browser(url, profile))
            _wait(lambda: _connections(view.pid, url), browser, "the browser")
            pids["browser"] = browser.pid
        yield pids


@contextlib.contextmanager
def _browser(url: str, profile: str) -> Iterator[subprocess.Popen]:
    command = ["nice", "-n", "19", CHROMIUM, *BROWSER_OPTIONS, f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _connections(pid: int, url: str) -> int:
    """Pages that a view serves at this moment."""
    port = int(url.rsplit(":", 1)[1])
    connections = psutil.Process(pid).net_connections("tcp")
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port for each in connections)


def _wait(condition: Callable[[], object], process: subprocess.Popen, what: str) -> None:
    """
    Raises:
        DemoError: the process has ended, or time is up.
    """
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"{what} did not get ready")
        time.sleep(0.2)


def played_seconds(played: Path) -> float:
    """From the first message of a player's log to the last; what comes before and after it costs next to nothing."""
    walls = [json.loads(line)["wall_ns"] for line in played.read_text(encoding="utf-8").splitlines()]
    return (walls[-1] - walls[0]) / NANOSECONDS


def _processor_seconds(pids: dict[str, int]) -> dict[str, float]:
    """Processor time so far, with that of its children; a browser is many processes."""
    return {name: sum(map(_seconds_of, _family(pid))) for name, pid in pids.items()}


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _seconds_of(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def summary(turns: Sequence[Turn]) -> dict:
    """All turns of a case in one row; the spread of its turns tells which difference of cases means something."""
    waits = [wait for turn in turns for wait in turn.waits_ms]
    rates = [turn.rate_hz for turn in turns]
    p99s = [float(np.percentile(turn.waits_ms, 99)) for turn in turns if turn.waits_ms]
    names = turns[0].processors
    return {
        "turns": len(turns),
        "sets": sum(turn.sets for turn in turns),
        "rate_hz": {"mean": float(np.mean(rates)), "min": min(rates), "max": max(rates)},
        "latency_ms": {
            "p50": float(np.percentile(waits, 50)),
            "p99": float(np.percentile(waits, 99)),
            "p99_of_turns": p99s,
        },
        "processors": {name: float(np.mean([turn.processors[name] for turn in turns])) for name in names},
        "memory_mib": {name: max(turn.memory_mib[name] for turn in turns) for name in names},
    }


def table(rows: dict[str, dict]) -> str:
    """The rows as Markdown."""
    lines = ["| | sets | sets per second | latency p50 / p99 | processors | memory |", "|---|---|---|---|---|---|"]
    for case, row in rows.items():
        hertz, latency = row["rate_hz"], row["latency_ms"]
        used = ", ".join(f"{name} {share:.2f}" for name, share in row["processors"].items())
        memory = ", ".join(f"{name} {size:.0f} MiB" for name, size in row["memory_mib"].items())
        lines.append(
            f"| {case} | {row['sets']} | {hertz['mean']:.2f} ({hertz['min']:.2f} to {hertz['max']:.2f}) "
            f"| {latency['p50']:.0f} / {latency['p99']:.0f} ms | {used} | {memory} |"
        )
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.benchmark.view_cost",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="write the result to this JSON file")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each case (%(default)s)")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of each of the two scenes (%(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("out/view_cost"), help="folder of scenes, bag, logs (%(default)s)"
    )
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="leave the last case out")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {options.rounds}")
    if options.browser and CHROMIUM is None:
        parser.error("chromium is not installed (apt install chromium); --no-browser leaves it out")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if a program of the measurement fails."""
    options = parse_arguments(arguments)
    try:
        rows = {case: summary(turns) for case, turns in measure(options).items()}
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"The demo's drive, six cameras, 10 Hz, turns of each: {options.rounds}, on {machine.summary()}\n")
    print(table(rows))
    if options.out:
        facts = {"hardware": machine.describe(), "rounds": options.rounds, "seconds_a_scene": options.duration}
        write_json(options.out, facts | {"cases": rows}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
