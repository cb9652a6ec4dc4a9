"""A model over a data set in nuScenes format, scored as the papers are: one command from weights to NDS and AMOTA.

Key frames in order of time through the pipeline that the node runs, without ROS and without a bag. Every scene is a
stream of its own, so that any number of processes gives the same results, to the last digit on a CPU. What is done is
kept scene by scene: after an interruption the same command with --resume goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..atomic_write import write_json
from ..checkpoint.file import read_checkpoint
from ..checkpoint.published import find_weights_if_any
from ..command_line import OK, interrupted, refuse
from ..config import preset
from ..data.nuscenes.dataset import NuScenesDataset
from ..export.manifest import Manifest, read_manifest
from ..file_digest import file_sha256
from ..inference.artefact_checks import BACKENDS, check_backend
from ..inference.pipeline import as_trained
from .devkit_scores import Scores, evaluate
from .masked_scenes import MaskedScenes
from .published_figures import differences, table
from .run_folder import RunFolder
from .scene_streams import Stream, divide
from .scored_model import add_model_and_data, unscored
from .stream_workers import StreamTask, run_streams
from .tasks.cluster_option import RAY_NEEDS, RAY_OPTION, connect

EPILOG = """\
What the numbers mean
  --processes  copies of the model at work, each in a process; on a CPU take one a core, on GPUs one a device
  --workers    threads of each process that read and decode images ahead of the model
  --streams    rows of scenes that the memory passes through. With --scene-reset reference a little of a scene leaks
               into the next one of its row, so this number belongs to the result. Default: a row a scene, no leak.
               1 repeats an evaluation on one GPU, 8 one on eight GPUs, as the published implementation deals out scenes

examples
  the published figure of a model:
    python -m sparse4d_core.evaluation.run --model v3_r50 --checkpoint sparse4dv3_r50.pth --dataroot data/nuscenes \\
        --version v1.0-trainval --split val --devices cuda:0 cuda:1 --out out/v3_r50
  rendered scenes on two cores:
    python -m sparse4d_core.evaluation.run --model demo --dataroot out/world --processes 2 --out out/demo_scores
  on all hosts of a Ray cluster that this host belongs to:
    python -m sparse4d_core.evaluation.run --model v3_r50 --dataroot /data/nuscenes --version v1.0-trainval \\
        --split val --devices cuda --ray auto --out out/v3_r50

The folder --out then contains results.json and tracking.json (nuScenes submissions), metrics.json (the scores),
comparison.json (beside published figures) and the devkit's own summaries.

""" + RAY_NEEDS.format(tasks="Scenes", read="the data set, weights, an exported step")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.evaluation.run",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_and_data(parser)
    add = parser.add_argument
    add("--split", help="val, test, mini_val ... or one of the data set's splits.json (default: all scenes)")
    add("--scenes", nargs="+", metavar="SCENE", help="only these, by name")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--resume", action="store_true", help="go on with the run that --out contains")
    add("--devices", nargs="+", default=["cpu"], metavar="DEVICE", help="such as cuda:0 cuda:1 (default: cpu)")
    add("--processes", type=int, metavar="N", help="copies of the model (default: one a device)")
    add("--ray", metavar="ADDRESS", help=RAY_OPTION)
    add("--workers", type=int, default=2, metavar="N", help="threads a process that decode ahead (default %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="of one operation on the CPU (default %(default)s)")
    add("--streams", type=int, default=0, metavar="N", help="rows of scenes (default: one a scene)")
    add("--precision", default="float32", choices=("float32", "bfloat16", "float16"), help="of the image encoder")
    add("--backend", default="torch", choices=BACKENDS, help="what runs the network (docs/deployment.md)")
    add("--artefact", type=Path, metavar="FOLDER", help="exported step, for the backends that run one")
    add("--providers", default="cpu", help="of onnxruntime, in the order in which they are asked (default %(default)s)")
    add("--scene-reset", default="reference", choices=("reference", "clean"), help="default %(default)s, as published")
    add("--ego-masks", type=Path, metavar="FOLDER", help="pictures CHANNEL.png, white where the own vehicle is: hidden")
    add("--report", type=Path, metavar="FILE.html", help="write a report to read in a browser")
    add("--against", type=Path, metavar="RESULTS.json", help="another run for the report to compare with")
    add("--allow-untrained", action="store_true", help="random weights where no trained ones are found")
    options = parser.parse_args(arguments)
    for name, least in (("workers", 0), ("threads", 1), ("streams", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name}: expected {least} or more, got {getattr(options, name)}")
    if options.against and not options.report:
        parser.error("--against is for the report: add --report FILE.html")
    if options.processes is None and not options.ray:
        options.processes = len(options.devices)
    if options.processes is not None and options.processes < 1:
        parser.error(f"--processes: expected 1 or more, got {options.processes}")
    return options


def run(options: argparse.Namespace) -> Scores | None:
    """Runs what is not done yet, writes the submissions and scores them (None: they cannot be scored).

    Raises:
        ValueError: an option or input that cannot be used; the message names it.
        OSError: a process that died, a full disk: done scenes are kept.
    """
    config = preset(options.model)
    for device in options.devices:
        check_backend(options.backend, options.artefact, device, compile=False)
    checkpoint = options.checkpoint
    artefact = None if options.artefact is None else read_manifest(options.artefact)
    if checkpoint is None and artefact is None:
        checkpoint = find_weights_if_any(options.model, options.allow_untrained)
    if checkpoint is not None:
        config = as_trained(read_checkpoint(checkpoint), config)
    elif artefact is not None:
        config = artefact.model_config()  # its classes
    data = NuScenesDataset(options.dataroot, options.version, split=options.split, scenes=options.scenes)
    scenes = in_order_of_time(data)
    streams = divide(scenes, options.streams)
    plan = MaskedScenes.read(options.ego_masks, data.camera_names, config) if options.ego_masks else None
    cluster = connect(options.ray, options.devices, options.processes, options.threads) if options.ray else None
    folder = RunFolder.begin(options.out, _settings(options, checkpoint, artefact, scenes, streams), options.resume)
    task = StreamTask(
        folder,
        data,
        options.model,
        None if checkpoint is None else str(checkpoint),
        options.precision,
        options.scene_reset,
        allow_untrained=options.allow_untrained,
        threads=options.threads,
        loader_workers=options.workers,
        plan=plan,
        backend=options.backend,
        artefact=None if options.artefact is None else str(options.artefact),
        providers=options.providers,
    )
    try:
        run_streams(task, streams, options.devices, options.processes, cluster)
    except ValueError:  # the model, with these options
        folder.withdraw()
        raise
    results, tracking = folder.assemble(scenes, _notes(folder), config.tracking)
    if reason := unscored(config, data):
        print(f"{options.out}: submissions of {len(scenes)} scenes; they cannot be scored: {reason}")
        return None
    scores = evaluate(options.dataroot, options.version, results, tracking, options.out, scenes, progress=True)
    apart = differences(config, folder.settings, len(scenes), image_sizes(data))
    write_json(options.out / "comparison.json", {"published": asdict(config.published), "differences": apart}, indent=2)
    print(table(config, scores), protocol(apart), scores.table(), sep="\n\n")
    if options.report:
        from .report.written_report import write_report  # loads matplotlib

        details = options.out / "tracking" / "metrics_details.json"
        write_report(
            options.report, options.dataroot, options.version, results, scores, details, options.against, apart
        )
    return scores


def protocol(apart: Sequence[str]) -> str:
    """The differences from the published protocol as lines of text."""
    if not apart:
        return "The protocol is the published one."
    return "\n".join(["What is not as in the published protocol:", *(f"- {text}" for text in apart)])


def in_order_of_time(data: NuScenesDataset) -> list[str]:
    """Names of the scenes, by their first frame."""
    index = data.index
    first = {name: int(data.scene_frames(name)[0]) for name in index.scene_names.tolist()}
    return sorted(first, key=lambda name: (int(index.stamp_us[first[name]]), name))


def image_sizes(data: NuScenesDataset) -> list[tuple[int, int]]:
    """Width and height of each camera's images, of the first key frame."""
    images = data.frame(int(data.keyframes[0])).images
    return [(image.shape[1], image.shape[0]) for image in images if image is not None]


def _settings(
    options: argparse.Namespace,
    checkpoint: Path | None,
    artefact: Manifest | None,
    scenes: list[str],
    streams: list[Stream],
) -> dict[str, Any]:
    """What decides the results. Devices are named by kind: which of several GPUs it was makes no difference."""
    return {
        "model": options.model,
        "checkpoint": None if checkpoint is None else checkpoint.name,
        "sha256": None if checkpoint is None else file_sha256(checkpoint),
        "trained": checkpoint is not None if artefact is None else artefact.trained,
        "backend": options.backend,
        "artefact": None if artefact is None else artefact.files,
        "providers": options.providers,
        "dataroot": str(options.dataroot.resolve()),
        "version": options.version,
        "split": options.split,
        "scenes": scenes,
        "streams": len(streams),
        "precision": options.precision if artefact is None else artefact.precision,
        "scene_reset": options.scene_reset,
        "threads": options.threads,
        "device": sorted({device.partition(":")[0] for device in options.devices}),
        "torch": torch.__version__,
        "ego_masks": None if options.ego_masks is None else str(options.ego_masks.resolve()),
    }


def _notes(folder: RunFolder) -> dict[str, str]:
    """Where results come from, for their meta."""
    settings = folder.settings
    return {
        "model": settings["model"],
        "weights": settings["checkpoint"] or ("of the artefact" if settings["trained"] else "untrained"),
        "scene_reset": settings["scene_reset"],
        "backend": settings["backend"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.evaluation.run", error)
    except KeyboardInterrupt:
        return interrupted("done scenes are kept; go on with --resume")
    return OK


if __name__ == "__main__":
    sys.exit(main())
