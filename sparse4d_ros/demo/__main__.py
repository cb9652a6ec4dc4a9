"""The whole system once, over real ROS 2 processes: render, convert, play, detect, record, score, draw.

    python -m sparse4d_ros.demo --out out/demo

Two driving scenes are rendered and converted to a bag. The detector runs as a process of its own, the bag is played to
it in real time, and what it publishes is recorded, scored with the official devkit, compared with a replay without DDS
and drawn. Look at OUT/overlay.mp4 and OUT/bev.png; the figures are in OUT/report.json.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sparse4d_core.checkpoint.published import NoWeightsError, find_weights
from sparse4d_core.config import PRESETS, preset

from .listener import DiagnosticsListener
from .pictures import draw_bev_picture, draw_overlay_video
from .report import Run, make_report, print_report

ROOT = Path(__file__).resolve().parents[2]
# What the bag is made by: it is made anew when one of these changed.
MAKERS = ("sparse4d_core/data/**/*.py", "sparse4d_ros/nuscenes_to_rosbag.py", "sparse4d_ros/bags/*.py")
VERSION = "v1.0-mini"
READY_SECONDS = 120.0  # the first start compiles Python and loads torch
STOP_SECONDS = 20.0
DRAIN_SECONDS = 300.0  # after the last image, while sets are in work: the largest models take a minute a frame


class DemoError(RuntimeError):
    """A step of the demo failed; the message names it and its log."""


@dataclass(frozen=True)
class DemoOptions:
    out: Path
    scenes: int = 2
    seed: int = 100_000  # seeds from 100,000 on are never trained on
    duration: float = 8.0  # s per scene
    rate: int = 10  # camera sets per second
    image_size: tuple[int, int] = (704, 396)
    model: str = "demo"
    checkpoint: str = ""  # "": by name
    allow_untrained: bool = False
    video: bool = True


def run_demo(options: DemoOptions) -> dict:
    """All steps; returns the report, which also lies in `out`.

    Raises:
        DemoError: a step failed.
        NoWeightsError: no trained weights, and random ones not allowed.
    """
    if not (options.checkpoint or options.allow_untrained):
        find_weights(options.model)  # before minutes of rendering
    out = options.out
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    dataset, bag = _prepare_input(options, logs)
    node_arguments = ["-p", f"model:={options.model}"]
    node_arguments += ["-p", f"checkpoint:={options.checkpoint}"] if options.checkpoint else []
    node_arguments += ["-p", "allow_untrained:=true"] if options.allow_untrained else []
    with tqdm(total=5, desc="demo", unit="step", bar_format="{desc}: {n_fmt}/{total_fmt} {bar}") as bar:
        bar.set_description("node and bag over DDS, in real time")
        diagnostics = _play_to_node(bag, out, logs, node_arguments)
        if not (out / "online.jsonl").stat().st_size:
            raise DemoError(f"the node gave no boxes for any set; its output is in {logs / 'node.log'}")
        bar.update()
        bar.set_description("the same sets without DDS")
        _replay(options, bag, logs)
        bar.update()
        bar.set_description("score with the nuScenes devkit")
        facts = diagnostics["inference"]
        notes = {name: facts[name] for name in ("model", "weights", "scene_reset")}
        _score(dataset, bag, out, logs, with_tracks=preset(options.model).tracking, notes=notes)
        bar.update()
        bar.set_description("draw")
        draw_bev_picture(bag, out / "online.jsonl", out / "bev.png")
        if options.video:
            draw_overlay_video(bag, out / "online.jsonl", out / "overlay.mp4", fps=options.rate)
        bar.update()
        bar.set_description("report")
        report = make_report(Run(out, bag, options.model, options.checkpoint, diagnostics))
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        bar.update()
    return report


def _prepare_input(options: DemoOptions, logs: Path) -> tuple[Path, Path]:
    """Rendered scenes and their bag; those of an earlier run serve again while nothing that makes them has changed."""
    dataset, bag = options.out / "scenes", options.out / "bag"
    made_with = options.out / "input.json"
    settings = {
        "scenes": options.scenes,
        "seed": options.seed,
        "duration": options.duration,
        "rate": options.rate,
        "image_size": list(options.image_size),
        "made_by": _fingerprint(path for pattern in MAKERS for path in ROOT.glob(pattern)),
    }
    if made_with.is_file() and bag.is_dir() and json.loads(made_with.read_text()) == settings:
        return dataset, bag
    made_with.unlink(missing_ok=True)
    for folder in (dataset, bag):
        shutil.rmtree(folder, ignore_errors=True)
    width, height = (str(size) for size in options.image_size)
    render = ["sparse4d_core.data.synthetic", "--out", str(dataset), "--scenes", str(options.scenes)]
    render += ["--seed", str(options.seed), "--duration", str(options.duration), "--rate", str(options.rate)]
    print(f"rendering {options.scenes} scenes of {options.duration:g} s")
    _run_step("render", [*render, "--image-size", width, height], logs, show=True)
    print("converting them to a bag")
    convert = ["sparse4d_ros.nuscenes_to_rosbag", "--dataroot", str(dataset), "--version", VERSION]
    _run_step("convert", [*convert, "--out", str(bag)], logs, show=True)
    made_with.write_text(json.dumps(settings))
    return dataset, bag


def _fingerprint(sources: Iterable[Path]) -> str:
    """Changes with the files' contents."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()


def _environment() -> dict[str, str]:
    """Of every process: a domain of this run's own, shared memory large enough for images, nothing over the network."""
    profile = ROOT / "config" / "fastdds_shm.xml"
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        **({"FASTDDS_DEFAULT_PROFILES_FILE": str(profile)} if profile.is_file() else {}),
        "PYTHONUNBUFFERED": "1",
    }


def _run_step(name: str, module: Sequence[str], logs: Path, show: bool = False) -> None:
    """Run `python -m module ...` to its end; its output goes to a log file, or is shown."""
    command = [sys.executable, "-m", *module]
    if show:
        done = subprocess.run(command, cwd=ROOT, env=_environment())
        where = "above"
    else:
        with (logs / f"{name}.log").open("w") as log:
            done = subprocess.run(command, cwd=ROOT, env=_environment(), stdout=log, stderr=subprocess.STDOUT)
        where = f"in {logs / name}.log"
    if done.returncode != 0:
        raise DemoError(f"{name} failed with status {done.returncode}; its output is {where}")


@contextlib.contextmanager
def _background(name: str, module: Sequence[str], logs: Path) -> Iterator[subprocess.Popen]:
    """`python -m module ...` beside us; asked to end, and made to, when the block is left."""
    with (logs / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=ROOT, env=_environment(), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _play_to_node(bag: Path, out: Path, logs: Path, node_arguments: Sequence[str]) -> dict[str, dict[str, str]]:
    """Node, recorder and player as processes; returns the node's last diagnostics."""
    os.environ.update({k: v for k, v in _environment().items() if k.startswith(("ROS_", "FASTDDS_"))})
    node = ["sparse4d_ros.node", "--ros-args", "--params-file", "config/demo.yaml", *node_arguments]
    recorder = ["sparse4d_ros.box_recorder", "--out", str(out / "online.jsonl")]
    player = ["sparse4d_ros.bag_player", str(bag), "--log", str(out / "played.jsonl")]
    with DiagnosticsListener() as listener, _background("recorder", recorder, logs):
        with _background("node", node, logs) as process:
            _wait_until_ready(listener, process, logs)
            _run_step("player", player, logs)
            listener.wait_until_idle(DRAIN_SECONDS)
            return listener.last()


def _wait_until_ready(listener: DiagnosticsListener, process: subprocess.Popen, logs: Path) -> None:
    """The node publishes diagnostics once it is configured; the player waits for its subscriptions itself."""
    deadline = time.monotonic() + READY_SECONDS
    while not listener.wait(1.0):
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(f"the node did not get ready; its output is in {logs / 'node.log'}")


def _replay(options: DemoOptions, bag: Path, logs: Path) -> None:
    """The sets that the node processed, once more without DDS."""
    out = options.out
    module = ["sparse4d_ros.replay", str(bag), "--params-file", "config/demo.yaml", "--model", options.model]
    module += ["--checkpoint", options.checkpoint, "--sets", str(out / "online.jsonl")]
    module += ["--allow-untrained"] if options.allow_untrained else []
    _run_step("replay", [*module, "--record", str(out / "offline.jsonl")], logs)


def _score(dataset: Path, bag: Path, out: Path, logs: Path, with_tracks: bool, notes: Mapping[str, str]) -> None:
    """Scores of what the node published; of a model without track ids (v1, v2) those of its detections alone."""
    results, tracking = str(out / "results.json"), str(out / "tracking.json")
    module = ["sparse4d_ros.bags.submission", str(out / "online.jsonl"), "--bag", str(bag), "--out", results]
    module += [f"--note={name}={text}" for name, text in notes.items()]
    _run_step("submission", [*module, *(("--tracking-out", tracking) if with_tracks else ())], logs)
    module = ["sparse4d_core.evaluation.evaluate", "--dataroot", str(dataset), "--version", VERSION]
    module += ["--results", results, "--out", str(out / "scores")]
    _run_step("score", [*module, *(("--tracking", tracking) if with_tracks else ())], logs)


def parse_arguments(argv: Sequence[str] | None) -> DemoOptions:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of everything made (%(default)s)")
    parser.add_argument("--scenes", type=int, default=2, help="scenes to render (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=100_000, help="of the scenes; training has 0 to 9,999 (%(default)s)"
    )
    parser.add_argument("--duration", type=float, default=8.0, help="seconds per scene (%(default)s)")
    parser.add_argument("--model", default="demo", choices=sorted(PRESETS), help="preset (%(default)s)")
    parser.add_argument("--checkpoint", default="", help="weights (default: those shipped or fetched for the preset)")
    parser.add_argument(
        "--allow-untrained", action="store_true", help="run random weights where no trained ones are found"
    )
    parser.add_argument("--no-video", action="store_true", help="skip overlay.mp4")
    arguments = parser.parse_args(argv)
    return DemoOptions(
        out=arguments.out.resolve(),
        scenes=arguments.scenes,
        seed=arguments.seed,
        duration=arguments.duration,
        model=arguments.model,
        checkpoint=str(Path(arguments.checkpoint).resolve()) if arguments.checkpoint else "",
        allow_untrained=arguments.allow_untrained,
        video=not arguments.no_video,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = parse_arguments(argv)
    try:
        print_report(run_demo(options), options.out)
    except NoWeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
