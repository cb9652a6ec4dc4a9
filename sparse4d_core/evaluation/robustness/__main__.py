"""How much a model's scores suffer: images spoiled, cameras gone, calibration, stamps and poses off, other rates.

Every row of the sheet is a run over the data set with one fault, by the pipeline that the node runs. Rows are done one
after the other and kept, so that an interrupted sheet goes on with --resume. Without --rows there is one row of each
kind of fault, its middle level; --rows '*' is the whole sheet, some sixty runs over the data set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...atomic_write import write_json, write_text
from ...command_line import OK, interrupted, refuse
from ...config import preset
from ...data.nuscenes.dataset import NuScenesDataset
from ...inference.memories import MEMORIES
from ..devkit_scores import evaluate
from ..report.breakdown import camera_views
from ..report.detection_matches import collect
from ..run_folder import RunFolder, begin_folder
from ..scene_streams import divide
from ..scored_model import add_model_and_data, scored_settings, trained_weights
from ..stream_workers import StreamTask, run_streams
from .frame_faults import CamerasGone, Instant
from .rows import Row, all_rows, chosen, data_rate
from .sheet import Measured, markdown, page, seen_scores, summary

EPILOG = """\
examples
  python -m sparse4d_core.evaluation.robustness --model demo --dataroot out/world --list
  python -m sparse4d_core.evaluation.robustness --model demo --dataroot out/world --rows 'fog_*' 'rate_*' --out sheet
  python -m sparse4d_core.evaluation.robustness --model v3_r50 --dataroot data/nuscenes --version v1.0-trainval \\
      --split val --devices cuda:0 cuda:1 --rows '*' --out out/v3_r50_sheet

The folder --out then contains sheet.html (table and plots), sheet.md, sheet.json, and a folder for every row.
"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.evaluation.robustness",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_and_data(parser)
    add = parser.add_argument
    add("--split", help="val, mini_val ... or one of the data set's splits.json (default: all scenes)")
    add("--rows", nargs="+", default=[], metavar="ROW", help="names, with * for any letters (default: one a kind)")
    add("--list", action="store_true", help="print the names of the rows and do nothing else")
    add("--out", type=Path, help="folder of the sheet")
    add("--resume", action="store_true", help="go on with the sheet that --out contains")
    add("--no-tracking", action="store_true", help="leave out AMOTA and IDS, whose evaluation takes longest")
    add("--temporal-stride", type=float, default=0.5, help="seconds; see the node's parameter (default %(default)s)")
    add("--memories", choices=MEMORIES, default="two", help="see the node's parameter (default %(default)s)")
    add("--devices", nargs="+", default=["cpu"], metavar="DEVICE", help="such as cuda:0 cuda:1 (default: cpu)")
    add("--processes", type=int, metavar="N", help="copies of the model (default: one a device)")
    add("--workers", type=int, default=2, metavar="N", help="threads a process that decode ahead (default %(default)s)")
    options = parser.parse_args(arguments)
    if not options.list and options.out is None:
        parser.error("--out: needed, a folder for the sheet (or --list, to see the rows)")
    options.processes = len(options.devices) if options.processes is None else options.processes
    if options.processes < 1 or options.workers < 0:
        parser.error(f"--processes, --workers: expected 1 and 0 or more, got {options.processes}, {options.workers}")
    return options


def run(options: argparse.Namespace) -> None:
    """Measures the rows that are not done and writes the sheet.

    Raises:
        ValueError, OSError: an option or input that cannot be used, a process that died.
    """
    data = NuScenesDataset(options.dataroot, options.version, split=options.split, sweeps=True)
    every = all_rows(data.camera_names)
    rows = chosen(every, options.rows, data_rate(data))
    if options.list:
        print("\n".join(row.name for row in every))
        return
    checkpoint = trained_weights(options)
    settings = scored_settings(options, checkpoint, data)
    settings |= {"temporal_stride": options.temporal_stride, "memories": options.memories}
    begin_folder(options.out / "settings.json", "sheet", settings, options.resume)
    found: dict[str, Measured] = {}
    for row in rows:
        found[row.name] = _measured(options, data, row, checkpoint, settings)
        print(f"{row.name:<28} {found[row.name].line()}", flush=True)
    results = {"settings": settings, "rows": {name: asdict(one) for name, one in found.items()}}
    write_json(options.out / "sheet.json", results, indent=2)
    write_text(options.out / "sheet.md", markdown(rows, every, found))
    title = f"Robustness of {options.model}: {len(data.index.scene_names)} scenes"
    write_text(options.out / "sheet.html", page(title, rows, every, found))
    print(summary(every, found))


def _measured(
    options: argparse.Namespace, data: NuScenesDataset, row: Row, checkpoint: Path, settings: dict[str, Any]
) -> Measured:
    """The row's scores, from its folder if it is done."""
    path = options.out / "rows" / row.name
    done = path / "measured.json"
    if done.is_file():
        return Measured(**json.loads(done.read_text()))
    scenes = data.index.scene_names.tolist()
    folder = RunFolder.begin(path, {**settings, "row": row.name}, resume=True)
    task = StreamTask(
        folder,
        data,
        options.model,
        str(checkpoint),
        temporal_stride=options.temporal_stride,
        memories=options.memories,
        loader_workers=options.workers,
        plan=row,
    )
    run_streams(task, divide(scenes), options.devices, options.processes)
    has_ids = preset(options.model).tracking and not options.no_tracking
    results, tracking = folder.assemble(scenes, {"model": options.model, "row": row.name}, has_ids)
    scores = evaluate(options.dataroot, options.version, results, tracking, None, scenes, progress=True)
    measured = Measured(
        scores.detection.nds,
        scores.detection.map,
        scores.tracking.amota if scores.tracking else None,
        scores.tracking.ids if scores.tracking else None,
    )
    if isinstance(row.fault, CamerasGone):
        measured = _with_seen(measured, options, data, row.fault, results)
    write_json(done, asdict(measured))
    return measured


def _with_seen(
    measured: Measured, options: argparse.Namespace, data: NuScenesDataset, fault: CamerasGone, results: Path
) -> Measured:
    scenes = data.index.scene_names.tolist()
    gone = {scene: set(fault.gone(data.camera_names, Instant(data, scene, 0))) for scene in scenes}
    if all(names == set(data.camera_names) for names in gone.values()):
        return measured  # a rig of one camera: none remains that could see an object
    matches = collect(options.dataroot, options.version, results, scenes)
    views = camera_views(data, matches.objects), camera_views(data, matches.boxes)
    nds, mean_ap = seen_scores(matches, *views, gone)
    return replace(measured, seen_nds=nds, seen_map=mean_ap)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.evaluation.robustness", error)
    except KeyboardInterrupt:
        return interrupted("done rows and scenes are kept; go on with --resume")
    return OK


if __name__ == "__main__":
    sys.exit(main())
