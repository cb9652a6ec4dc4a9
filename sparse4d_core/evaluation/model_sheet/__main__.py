"""The sheet that a model ships with, from one command: scores at 2, 5, 10 and 20 Hz and with each camera gone,
bfloat16 against float32, objects found twice, vertical velocities.

The memory advances at every frame, or with --temporal-stride as the node's does; duplicates, velocities and ids are
counted at every frame. Rates above the data set's own are left out. Scores are those of the robustness
sheet (--out/rows), which an interrupted sheet goes on with; run it again with --resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...atomic_write import write_json, write_text
from ...command_line import OK, interrupted, refuse
from ...data.nuscenes.dataset import NuScenesDataset
from ...inference.pipeline import Pipeline
from ..devkit_scores import evaluate
from ..keyframe_run import run_keyframes
from ..robustness import __main__ as robustness
from ..robustness.frame_faults import Untouched
from ..robustness.rows import CLEAN, Row, data_rate
from ..scored_model import add_model_and_data, trained_weights
from .every_frame import CONFIDENT, watch

RATES = (2, 5, 10, 20)  # Hz
FRAME_RATE = 10  # Hz at which duplicates, vertical velocities and ids are counted

EXAMPLE = """\
example (scenes at 20 Hz serve all four rates):
  python -m sparse4d_core.data.synthetic --out out/unseen --scenes 12 --seed 100001 --rate 20 --image-size 704 396
  python -m sparse4d_core.evaluation.model_sheet --model demo --dataroot out/unseen --out out/model_sheet

The folder --out then contains sheet.md and sheet.json.
"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.evaluation.model_sheet",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_and_data(parser, "data set in nuScenes format, such as rendered scenes at 20 Hz")
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the sheet")
    add("--rows", nargs="+", metavar="ROW", help="of the robustness sheet (default: these rates, and each camera gone)")
    add("--no-tracking", action="store_true", help="leave out AMOTA and IDS, whose evaluation takes longest")
    add("--temporal-stride", type=float, default=0.0, help="of the scores, s; see the node's parameter (%(default)s)")
    add("--resume", action="store_true", help="go on with the sheet that --out contains")
    add("--processes", type=int, default=1, metavar="N", help="copies of the model for the scores (default 1)")
    add("--workers", type=int, default=2, metavar="N", help="threads that decode ahead (default %(default)s)")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures and writes the sheet; returns its figures.

    Raises:
        ValueError, OSError: an option or input that cannot be used.
    """
    data = NuScenesDataset(options.dataroot, options.version, sweeps=True)
    checkpoint = trained_weights(options)
    rows = score_rows(options, checkpoint, data_rate(data))
    figures = {"checkpoint": checkpoint.name, "scenes": data.index.scene_names.tolist(), "rows": rows}
    pipelines = [
        Pipeline.from_preset(options.model, checkpoint, precision=precision) for precision in ("float32", "bfloat16")
    ]
    frames = Row("rate", f"{FRAME_RATE}_hz", Untouched(), rate=min(FRAME_RATE, data_rate(data)))
    figures |= watch(*pipelines, data, frames, figures["scenes"], options.workers).figures()
    figures["bfloat16_nds"] = keyframe_nds(pipelines[1], data, options)
    write_json(options.out / "sheet.json", figures, indent=2)
    write_text(options.out / "sheet.md", markdown(figures))
    return figures


def score_rows(options: argparse.Namespace, checkpoint: Path, highest_rate: float) -> dict[str, dict[str, Any]]:
    """What the robustness sheet has of rates and cameras, by row."""
    usual = [f"rate_{rate}_hz" for rate in RATES if rate <= 1.1 * highest_rate] + ["camera_gone_*"]
    words = ["--model", options.model, "--checkpoint", checkpoint, "--dataroot", options.dataroot]
    words += ["--version", options.version, "--out", options.out / "rows", "--processes", options.processes]
    words += ["--temporal-stride", options.temporal_stride]
    words += ["--workers", options.workers, "--rows", *(options.rows or usual)]
    words += ["--resume"] * options.resume + ["--no-tracking"] * options.no_tracking
    robustness.run(robustness.parse_arguments([str(word) for word in words]))
    return json.loads((options.out / "rows" / "sheet.json").read_text())["rows"]


def keyframe_nds(pipeline: Pipeline, data: NuScenesDataset, options: argparse.Namespace) -> float:
    """NDS of the key frames in the pipeline's precision."""
    results = options.out / "bfloat16.json"
    run_keyframes(pipeline, data).write_detection(results)
    return evaluate(options.dataroot, options.version, results).detection.nds


def markdown(figures: dict[str, Any]) -> str:
    """The sheet as two tables."""

    def cell(value: float | None) -> str:
        return "–" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"

    columns = ("nds", "map", "amota", "ids", "seen_nds")
    lines = ["| row | NDS | mAP | AMOTA | IDS | NDS, objects that other cameras see |", "|---|---|---|---|---|---|"]
    for name, row in figures["rows"].items():
        lines.append(f"| {name} | {' | '.join(cell(row[column]) for column in columns)} |")
    clean = figures["rows"][CLEAN]["nds"]
    lines += ["", "| figure | value |", "|---|---|"]
    for name, value in (
        (f"pairs of tracks on one spot, a set, scores from {CONFIDENT}", figures["duplicates_per_set"]),
        (f"tracks a set, scores from {CONFIDENT}", figures["boxes_per_set"]),
        ("median of the vertical velocities of all tracks, m/s", figures["vertical_velocity_median"]),
        ("NDS in bfloat16", figures["bfloat16_nds"]),
        ("the same, above float32", figures["bfloat16_nds"] - clean),
        (f"boxes above {CONFIDENT} that keep their id in bfloat16", figures["bfloat16_same_ids"]),
    ):
        lines.append(f"| {name} | {cell(value)} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        figures = run(options)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.evaluation.model_sheet", error)
    except KeyboardInterrupt:
        return interrupted("done rows are kept; go on with --resume")
    print(markdown(figures))
    return OK


if __name__ == "__main__":
    sys.exit(main())
