"""The whole system once, over real ROS 2 processes: render, convert, play, detect, record, score, draw.

    python -m sparse4d_ros.demo --out out/demo

Two driving scenes are rendered and converted to a bag, and the network is exported in 8-bit integers where this machine
can run it so. The detector runs as a process of its own, the bag is played to it in real time, and what it publishes is
recorded, scored with the official devkit, compared with a replay without DDS and drawn. Look at OUT/overlay.mp4 and
OUT/bev.png; the figures are in OUT/report.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from sparse4d_core.atomic_write import write_json
from sparse4d_core.checkpoint.published import NoWeightsError, find_weights
from sparse4d_core.command_line import OK, refuse
from sparse4d_core.config import PRESETS, preset

from ..middleware import NoDomainError, claimed_domain
from ..ros_arguments import parameter_words
from ..share import PARENT, config_file
from .integer_step import MODEL, integer_step
from .node_run import play_to_node
from .pictures import draw_bev_picture, draw_overlay_video
from .programs import DemoError, Processes, fingerprint
from .report import Run, make_report, print_report

PROGRAM = "python -m sparse4d_ros.demo"
# What the bag is made by: it is made anew when one of these changed.
MAKERS = ("sparse4d_core/data/**/*.py", "sparse4d_ros/nuscenes_to_rosbag.py", "sparse4d_ros/bags/*.py")
PARAMETERS = "demo.yaml"  # of config/
Network = dict[str, object]  # parameters of node and replay; empty: PyTorch on the processor
VERSION = "v1.0-mini"


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
    backend: str = "auto"  # "torch": no export
    device: str = "cpu"
    video: bool = True


def run_demo(options: DemoOptions) -> dict:
    """All steps; returns the report, which also lies in `out`.

    Raises:
        DemoError: a step failed.
        NoDomainError: no ROS domain is free.
        NoWeightsError: no trained weights, and random ones not allowed.
        OSError: a folder or a disk that cannot be written.
    """
    if not (options.checkpoint or options.allow_untrained):
        find_weights(options.model)  # before minutes of rendering
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with claimed_domain() as domain:
        processes = Processes(logs, domain)
        dataset, bag = prepare_input(options, processes)
        network = prepare_network(options, processes)
        with tqdm(total=5, desc="demo", unit="step", bar_format="{desc}: {n_fmt}/{total_fmt} {bar}") as bar:
            return _run_steps(options, dataset, bag, network, processes, bar)


def _run_steps(
    options: DemoOptions, dataset: Path, bag: Path, network: Network, processes: Processes, bar: tqdm
) -> dict:
    """What follows once the bag is there."""
    out = options.out
    bar.set_description("node and bag over DDS, in real time")
    diagnostics = _play_to_node(options, bag, network, processes)
    if not (out / "online.jsonl").stat().st_size:
        raise DemoError(f"the node gave no boxes for any set; its output is in {processes.log_of('node')}")
    bar.update()
    bar.set_description("the same sets without DDS")
    replay_sets(options, bag, network, processes)
    bar.update()
    bar.set_description("score with the nuScenes devkit")
    notes = {name: diagnostics["inference"][name] for name in ("model", "weights", "precision", "scene_reset")}
    _score(options, dataset, bag, processes, notes)
    bar.update()
    bar.set_description("draw")
    draw_bev_picture(bag, out / "online.jsonl", out / "bev.png")
    if options.video:
        draw_overlay_video(bag, out / "online.jsonl", out / "overlay.mp4", fps=options.rate)
    bar.update()
    bar.set_description("report")
    report = make_report(Run(out, bag, options.model, options.checkpoint, diagnostics))
    write_json(out / "report.json", report, indent=2)
    bar.update()
    return report


def prepare_input(options: DemoOptions, processes: Processes) -> tuple[Path, Path]:
    """Rendered scenes and their bag; those of an earlier run serve again while nothing that makes them has changed."""
    dataset, bag = options.out / "scenes", options.out / "bag"
    made_with = options.out / "input.json"
    settings = {
        "scenes": options.scenes,
        "seed": options.seed,
        "duration": options.duration,
        "rate": options.rate,
        "image_size": list(options.image_size),
        "made_by": fingerprint(path for pattern in MAKERS for path in PARENT.glob(pattern)),
    }
    if bag.is_dir() and _settings_in(made_with) == settings:
        return dataset, bag
    made_with.unlink(missing_ok=True)
    for folder in (dataset, bag):
        shutil.rmtree(folder, ignore_errors=True)
    print(f"rendering {options.scenes} scenes of {options.duration:g} s")
    scenes = [
        "--scenes",
        options.scenes,
        "--seed",
        options.seed,
        "--duration",
        options.duration,
        "--rate",
        options.rate,
    ]
    size = ["--image-size", *options.image_size]
    processes.run("render", "sparse4d_core.data.synthetic", "--out", dataset, *scenes, *size, show=True)
    print("converting them to a bag")
    source = ["--dataroot", dataset, "--version", VERSION]
    processes.run("convert", "sparse4d_ros.nuscenes_to_rosbag", *source, "--out", bag, show=True)
    write_json(made_with, settings)
    return dataset, bag


def _settings_in(path: Path) -> dict | None:
    """What an earlier run wrote; None: nothing, or no JSON, as a full disk leaves it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def prepare_network(options: DemoOptions, processes: Processes) -> Network:
    """What computes, as parameters of node and replay."""
    if options.device != "cpu":  # as docs/deployment.md advises for a GPU
        return {"device": options.device, "precision": "float16", "compile": True}
    if options.backend == "auto" and options.model == MODEL and not options.checkpoint:
        step = integer_step(options.out, processes)
        if step is not None:
            return {"backend": "onnxruntime", "artefact": step}
    return {}


def _play_to_node(options: DemoOptions, bag: Path, network: Network, processes: Processes) -> dict[str, dict[str, str]]:
    """Node, recorder and player as processes; returns the node's last diagnostics."""
    out, node = options.out, node_arguments(options, network)
    return play_to_node(processes, node, bag, out / "online.jsonl", ["--log", out / "played.jsonl"])


def node_arguments(options: DemoOptions, network: Network) -> list[str]:
    """Of the node, after its module's name."""
    values: dict[str, object] = {"model": options.model, **network}
    if options.checkpoint:
        values["checkpoint"] = options.checkpoint
    if options.allow_untrained:
        values["allow_untrained"] = True
    return ["--ros-args", "--params-file", config_file(PARAMETERS), *parameter_words(values)]


def replay_sets(options: DemoOptions, bag: Path, network: Network, processes: Processes) -> None:
    """The sets that the node processed, once more without DDS."""
    model = ["--params-file", config_file(PARAMETERS), "--model", options.model, "--checkpoint", options.checkpoint]
    model += ["--allow-untrained"] if options.allow_untrained else []
    model += [f"--{name}" if value is True else f"--{name}={value}" for name, value in network.items()]
    sets = ["--sets", options.out / "online.jsonl", "--record", options.out / "offline.jsonl"]
    processes.run("replay", "sparse4d_ros.replay", bag, *model, *sets)


def _score(options: DemoOptions, dataset: Path, bag: Path, processes: Processes, notes: Mapping[str, str]) -> None:
    """Scores of what the node published; of a model without track ids (v1, v2) those of its detections alone."""
    out, with_tracks = options.out, preset(options.model).tracking
    results, tracking = out / "results.json", out / "tracking.json"
    words = [out / "online.jsonl", "--bag", bag, "--out", results, *(f"--note={k}={v}" for k, v in notes.items())]
    words += ["--tracking-out", tracking] if with_tracks else []
    processes.run("submission", "sparse4d_ros.write_submission", *words)
    words = ["--dataroot", dataset, "--version", VERSION, "--results", results, "--out", out / "scores"]
    words += ["--tracking", tracking] if with_tracks else []
    processes.run("score", "sparse4d_core.evaluation.evaluate", *words)


def parse_arguments(arguments: Sequence[str] | None) -> DemoOptions:
    """The command line."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
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
    parser.add_argument(
        "--backend",
        choices=("auto", "torch"),
        default="auto",
        help="auto exports the demo's own model in 8-bit integers (half a minute, once), where the processor has them "
        "and onnxruntime is installed; torch is PyTorch (%(default)s)",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        help="cuda or cuda:N: the network on that GPU, by PyTorch in float16, compiled and captured (%(default)s)",
    )
    parser.add_argument("--no-video", action="store_true", help="skip overlay.mp4")
    options = parser.parse_args(arguments)
    if options.checkpoint and not Path(options.checkpoint).is_file():
        parser.error(f"--checkpoint: expected a file of weights, got {options.checkpoint}, which is none")
    return DemoOptions(
        out=options.out.resolve(),
        scenes=options.scenes,
        seed=options.seed,
        duration=options.duration,
        model=options.model,
        checkpoint=str(Path(options.checkpoint).resolve()) if options.checkpoint else "",
        allow_untrained=options.allow_untrained,
        backend=options.backend,
        device=options.device,
        video=not options.no_video,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 without weights or for a wrong path, 1 if a step fails."""
    options = parse_arguments(arguments)
    try:
        print_report(run_demo(options), options.out, options.video)
    except (NoDomainError, NoWeightsError, OSError) as error:
        return refuse(PROGRAM, error)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return OK


if __name__ == "__main__":
    sys.exit(main())
