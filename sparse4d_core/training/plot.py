"""Loss curves of a run as a picture, from its log."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..atomic_write import atomic_write
from ..command_line import OK, refuse

PARTS = {  # panel of the picture: losses of the last decoder layer, by the first part of their names
    "objects": {"cls": "class", "box": "box", "cns": "centerness", "yns": "yawness"},
    "noisy copies": {"cls_dn": "class", "box_dn": "box"},
}
_LAYER = re.compile(r"loss/(.+)_(\d+)")


def read_log(path: pathlib.Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> iterations [n] and values [n] of all that was reported; events and values not finite are left out.

    After a resumed run some iterations stand twice in the log: the later line counts. A last line without its end, as a
    power loss leaves it, is passed over.

    Raises:
        FileNotFoundError: no log.
        ValueError: a line that is no JSON, or a log without a report.
    """
    if not path.is_file():
        raise FileNotFoundError(f"run: {path} is missing; expected the folder given to training as --out")
    values: dict[str, dict[int, float]] = defaultdict(dict)
    whole, _, _ = path.read_text().rpartition("\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is no JSON ({error})") from error
        for name, value in record.items():
            if "event" not in record and isinstance(value, (int, float)):
                values[name][record["iteration"]] = value
    if "loss" not in values:
        raise ValueError(f"{path}: holds no report with a loss yet")
    return {
        name: (np.array(sorted(column)), np.array([column[i] for i in sorted(column)]))
        for name, column in values.items()
    }


def last_layer(names: list[str]) -> int:
    """Number of the last decoder layer whose losses were logged."""
    return max((int(match[2]) for match in map(_LAYER.fullmatch, names) if match), default=0)


def draw(run: pathlib.Path, out: pathlib.Path) -> int:
    """Write the picture (PNG, SVG or PDF by its name); returns the last iteration drawn."""
    from matplotlib.figure import Figure  # slow to import

    log = read_log(run / "log.jsonl")
    layer = last_layer(list(log))
    figure = Figure(figsize=(10, 3), layout="constrained")
    total, *panels = figure.subplots(1, 1 + len(PARTS))
    total.plot(*log["loss"], color="black", linewidth=1)
    total.set(title="sum of all losses", xlabel="iteration")
    rate = total.twinx()
    rate.plot(*log["lr"], color="tab:gray", linestyle=":", linewidth=1)
    rate.set_ylabel("learning rate (dotted)")
    for axes, (title, parts) in zip(panels, PARTS.items(), strict=True):
        for name, label in parts.items():
            if (key := f"loss/{name}_{layer}") in log:
                axes.plot(*log[key], label=label, linewidth=1)
        axes.set(title=f"{title}, last layer", xlabel="iteration", yscale="log")
        if axes.lines:
            axes.legend(fontsize="small")
    with atomic_write(out) as unfinished:
        figure.savefig(unfinished, dpi=80)
    return int(log["loss"][0][-1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.training.plot",
        description=__doc__,
        epilog="example: python -m sparse4d_core.training.plot out/run --out docs/images/demo_loss.png",
    )
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="folder of the run, finished or not")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="picture to write: .png, .svg or .pdf")
    args = parser.parse_args(arguments)
    try:
        last = draw(args.run, args.out)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    print(f"{args.out}: {last} iterations")
    return OK


if __name__ == "__main__":
    sys.exit(main())
