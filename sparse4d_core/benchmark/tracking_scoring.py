"""How long the official tracking evaluation takes, serial as the devkit has it and with its classes in processes.

    python -m sparse4d_core.benchmark.tracking_scoring --scenes 150 --duration 20 --processes 2

Scoring looks at tables and results alone, so nothing is rendered: the tables are those of rendered scenes in which
nothing hides an object. A scene of 20 s has 40 samples, as those of nuScenes. The results are the truth as a tracker
would find it: moved, partly missed, with ids that are lost now and then, and three boxes that are not there for each
that is. Both ways score the same boxes, and their numbers must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..atomic_write import write_json
from ..command_line import OK, refuse
from ..data.nuscenes.dataset import NuScenesDataset
from ..data.synthetic.annotations import RenderedTables, schedule
from ..data.synthetic.cameras import NUSCENES_RIG
from ..data.synthetic.world import build_world
from ..evaluation.devkit_scores import SPLIT, evaluation_view, quiet
from ..evaluation.results import ResultsWriter
from ..types import Detections, Tracks
from .machine import describe, summary

VERSION = "v1.0-mini"
SEED = 100_007
MOVED = 0.5  # m, standard deviation of a box's place
MISSED, WRONG, LOST = 0.25, 3, 0.03  # share not found, boxes per object that are not there, ids that end per sample
FIRST_WRONG_ID = 1_000_000


def write_tables(out: pathlib.Path, version: str, scenes: int, duration: float) -> None:
    """Tables of scenes without their images."""
    tables = RenderedTables(NUSCENES_RIG)
    for index in tqdm(range(scenes), "tables", unit="scene", disable=None):
        world = build_world(SEED, index, duration)
        timing = schedule(world, rate=2)
        seen = np.ones((len(timing.keyframes), len(world.actors)))
        tables.add_scene(world, timing, solid_angle=seen, visible_share=seen)
    tables.write(out, version)


def imperfect_results(data: NuScenesDataset) -> ResultsWriter:
    """Tracks of every sample, made from the truth; the same at every call."""
    random, writer = np.random.default_rng(0), ResultsWriter()
    rows = data.keyframes.tolist()
    most = max(int(data.annotations(row).instance_ids.max(initial=0)) for row in rows)
    generation = np.zeros(most + 1, int)  # of each object's id
    for row in rows:
        frame, truth = data.frame(row, images=False), data.annotations(row)
        found = truth.select((truth.labels >= 0) & (random.random(len(truth)) > MISSED))
        generation[found.instance_ids] += random.random(len(found)) < LOST
        ids = 1000 * found.instance_ids + generation[found.instance_ids]
        wrong = found.select(np.repeat(np.arange(len(found)), WRONG))
        boxes = np.concatenate([found.boxes, wrong.boxes])
        boxes[:, :2] += random.normal(0, MOVED, (len(boxes), 2))
        boxes[len(found) :, :2] += random.uniform(-15, 15, (len(wrong), 2))
        scores = np.concatenate([random.beta(4, 2, len(found)), random.beta(2, 4, len(wrong))])
        labels = np.concatenate([found.labels, wrong.labels])
        ids = np.concatenate([ids, FIRST_WRONG_ID + np.arange(len(wrong))])
        boxes = np.column_stack([boxes, np.zeros(len(boxes))])  # without a vertical velocity
        tracks = Tracks(boxes, scores, labels, ids=ids)
        writer.add(frame.token, Detections(boxes, scores, labels), tracks, frame.T_global_from_model)
    return writer


def measure(dataroot: pathlib.Path, version: str, processes: Sequence[int]) -> dict[str, Any]:
    """Seconds of loading and of both ways, with what was scored.

    Raises:
        ValueError: the numbers differ.
    """
    from ..evaluation import tracking_classes  # needs the devkit

    data = NuScenesDataset(dataroot, version, cache=None)
    scenes = data.index.scene_names.tolist()
    writer = imperfect_results(data)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        view = evaluation_view(dataroot.resolve(), version, scenes, scratch)
        writer.write_tracking(scratch / "tracking.json")
        began = time.perf_counter()
        with quiet():
            evaluation = tracking_classes.make_evaluation(
                str(scratch / "tracking.json"), SPLIT, str(scratch / "out"), version, str(view)
            )
        loading = time.perf_counter() - began
        with quiet():
            times, expected = _timed(lambda: evaluation.main(render_curves=False))
        rows = [{"way": "the devkit's own, serial", "processes": 1, **times}]
        for count in processes:
            times, found = _timed(lambda count=count: tracking_classes.summary(evaluation, count, progress=True))
            if _plain(found) != _plain(expected):
                raise ValueError(f"processes: the scores of {count} are not those of the devkit")
            rows.append({"way": "classes in processes", "processes": count, **times})
    counts = {
        "scenes": len(scenes),
        "samples": len(data.keyframes),
        "true_boxes": _boxes(evaluation.tracks_gt),
        "predicted_boxes": _boxes(evaluation.tracks_pred),
        "amota": float(expected["amota"]),
    }
    return {"facts": describe() | {"load_average": os.getloadavg()[0]}, **counts, "loading_s": loading, "rows": rows}


def _timed(call: Callable[[], dict[str, Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds on the clock and of processors, those of processes that ended meanwhile included; what was returned."""
    began, before = time.perf_counter(), os.times()
    value = call()
    seconds, after = time.perf_counter() - began, os.times()
    return {"seconds": seconds, "processor_s": sum(after[:4]) - sum(before[:4])}, value


def _plain(scores: dict[str, Any]) -> str:
    """Without the time it took, and with NaN that equals itself."""
    return json.dumps({name: value for name, value in scores.items() if name != "eval_time"}, sort_keys=True)


def _boxes(tracks: dict[str, dict[int, list]]) -> int:
    return sum(len(boxes) for frames in tracks.values() for boxes in frames.values())


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    serial = result["rows"][0]["seconds"]
    lines = [
        "| tracking evaluation | processes | seconds | times as fast | processor seconds |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        figures = f"{row['seconds']:.0f} | {serial / row['seconds']:.2f} | {row['processor_s']:.0f}"
        lines.append(f"| {row['way']} | {row['processes']} | {figures} |")
    counts = (
        f"{result['scenes']} scenes, {result['samples']} samples, {result['true_boxes']} true and "
        f"{result['predicted_boxes']} predicted boxes; AMOTA {result['amota']:.4f}, equal to the last digit"
    )
    return "\n".join([counts, f"loading tables and results: {result['loading_s']:.0f} s, not counted", "", *lines])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark.tracking_scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataroot", type=pathlib.Path, help="data set with annotations (default: tables made now)")
    add("--version", default=VERSION, help="folder of its tables (default %(default)s)")
    add("--scenes", type=int, default=8, help="to make (default %(default)s)")
    add("--duration", type=float, default=20.0, help="seconds of a scene (default %(default)s)")
    add("--processes", type=int, nargs="+", default=[os.cpu_count() or 1], help="numbers to try (default: the cores)")
    add("--out", type=pathlib.Path, help="write the result as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = options.dataroot
            if root is None:
                root = pathlib.Path(folder)
                write_tables(root, options.version, options.scenes, options.duration)
            result = measure(root, options.version, options.processes)
        print(f"{summary()}; load average {result['facts']['load_average']:.1f}", table(result), sep="\n\n")
        if options.out:
            write_json(options.out, result, indent=1)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    return OK


if __name__ == "__main__":
    sys.exit(main())
