"""What cameras that are faster than a model's training do to it, and which way of keeping memory helps.

Every row of the table is a run over the data set at one frame rate, with one way of keeping memory:

  every        each frame takes up the memory of the frame before
  one          one memory that advances once a stride (0.5 s); frames in between look at it
  two          the last two memories a stride apart; each frame takes up that whose age is nearest to a stride
  interleaved  each frame takes up the memory that is a stride old, and leaves one of its own

Beside the scores at key frames there is what happens from frame to frame: ids that change or come late, boxes that
jump, velocities between key frames. Rows are kept when they are done; --resume goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ...atomic_write import write_json, write_text
from ...checkpoint.file import read_checkpoint
from ...command_line import OK, interrupted, refuse
from ...config import preset
from ...data.nuscenes.dataset import NuScenesDataset
from ...inference.pipeline import Pipeline, as_trained, refusing_device
from ..robustness.rows import data_rate
from ..run_folder import begin_folder
from ..scored_model import add_model_and_data, scored_settings, trained_weights
from .rate_run import WAYS, Measured, measure
from .table import markdown

EPILOG = """\
examples
  python -m sparse4d_core.data.synthetic --out out/fast --scenes 4 --seed 100900 --image-size 704 396 --rate 20
  python -m sparse4d_core.evaluation.rates --model demo --dataroot out/fast --out out/demo_rates

The folder --out then contains rates.md (the table), rates.json, and a folder for every row.
"""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.evaluation.rates",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_and_data(parser, "data set in nuScenes format, with sweeps")
    add = parser.add_argument
    add("--split", help="val, mini_val ... or one of the data set's splits.json (default: all scenes)")
    add(
        "--rates",
        nargs="+",
        type=float,
        default=[2, 5, 10, 20],
        metavar="HZ",
        help="default: 2 5 10 20, as far as the data set has frames",
    )
    add("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="default: all")
    add("--out", type=Path, required=True, help="folder of the table")
    add("--resume", action="store_true", help="go on with the table that --out contains")
    add("--no-tracking", action="store_true", help="leave out AMOTA and IDS, whose evaluation takes longest")
    add("--device", default="cpu", help="such as cuda:0 (default: cpu)")
    add("--processes", type=int, default=1, metavar="N", help="of the tracking evaluation (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.processes < 1 or min(options.rates) <= 0:
        parser.error(f"--processes, --rates: expected more than 0, got {options.processes}, {options.rates}")
    return options


def run(options: argparse.Namespace) -> None:
    """Measures the rows that are not done and writes the table.

    Raises:
        ValueError, OSError: an option or input that cannot be used.
    """
    checkpoint = trained_weights(options)
    classes = as_trained(read_checkpoint(checkpoint), preset(options.model)).class_names  # by which boxes find objects
    data = NuScenesDataset(options.dataroot, options.version, split=options.split, sweeps=True, classes=classes)
    highest = data_rate(data)
    rates = [rate for rate in options.rates if rate <= 1.1 * highest]
    if not rates:
        raise ValueError(f"rates: the data set has {highest:.3g} Hz, below all that were asked for")
    settings = scored_settings(options, checkpoint, data)
    begin_folder(options.out / "settings.json", "table", settings, options.resume)
    torch.set_num_threads(1)  # the last digit depends on their number, and processor time is to be comparable
    found: dict[tuple[str, float], Measured] = {}
    for rate in rates:
        for way in options.ways:
            one = found[way, rate] = _measured(options, data, checkpoint, way, rate)
            print(f"{way:<12} {rate:4g} Hz  NDS {one.nds:.4f}  mAP {one.map:.4f}", flush=True)
    rows = [{"way": way, "rate": rate, **asdict(one)} for (way, rate), one in found.items()]
    write_json(options.out / "rates.json", {"settings": settings, "rows": rows}, indent=2)
    write_text(options.out / "rates.md", markdown(found))
    print(markdown(found), end="")


def _measured(options: argparse.Namespace, data: NuScenesDataset, checkpoint: Path, way: str, rate: float) -> Measured:
    """The row's figures, from its folder if it is done."""
    path = options.out / "rows" / f"{way}_{rate:g}_hz"
    done = path / "measured.json"
    if done.is_file():
        return Measured(**json.loads(done.read_text()))
    path.mkdir(parents=True, exist_ok=True)
    with refusing_device(options.device):
        pipeline = Pipeline.from_preset(options.model, checkpoint, device=options.device, **WAYS[way])
    measured = measure(pipeline, data, rate, path, not options.no_tracking, options.processes)
    write_json(done, asdict(measured))
    return measured


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        run(options)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.evaluation.rates", error)
    except KeyboardInterrupt:
        return interrupted("done rows are kept; go on with --resume")
    return OK


if __name__ == "__main__":
    sys.exit(main())
