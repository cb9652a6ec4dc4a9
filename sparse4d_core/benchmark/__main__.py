"""Times whole frames of a model, stage by stage: `python -m sparse4d_core.benchmark --model v3_r50`."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import torch

from cuda_ops import kernels_loaded

from ..atomic_write import write_json
from ..command_line import OK, refuse
from ..config import PRESETS
from .frame_timing import artefact_paths, fastest, make_paths, measure, table
from .machine import describe


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark",
        description="Time a model on frames of noise, per stage, against the same model as plain PyTorch runs it "
        "(no folded batch norms, the operator's reference, float32). Every path has a process of its own; they take "
        "turns frame by frame, so other load on the machine meets all of them.",
        epilog="example: python -m sparse4d_core.benchmark --model demo --frames 20 --out out/bench/model.json",
    )
    parser.add_argument("--model", default="v3_r50", choices=PRESETS, help="preset (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=7, help="frames per path, two of them to warm up")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument(
        "--backends",
        nargs="+",
        metavar="FOLDER",
        help="exported steps of the model (python -m sparse4d_core.export) beside PyTorch, on the CPU, instead of "
        "precisions; the last line names the fastest",
    )
    parser.add_argument("--out", type=pathlib.Path, help="write the result as JSON")
    options = parser.parse_args(arguments)
    if options.frames < 3:
        parser.error(f"--frames: expected at least 3 (two warm up), got {options.frames}")
    if options.threads:
        torch.set_num_threads(options.threads)
    facts = describe() | {"threads": torch.get_num_threads(), "kernels": kernels_loaded(), "model": options.model}
    facts["load_average"] = os.getloadavg()[0]  # above zero at the start: others were running too
    try:
        if options.backends:
            paths = artefact_paths(options.model, options.backends, options.threads)
        else:
            paths = make_paths(options.model, options.device, options.compile, options.threads)
        rows = measure(paths, options.frames)
        print(", ".join(f"{key} {value}" for key, value in facts.items()))
        print(table(rows))
        if options.backends:
            print(f"fastest: {fastest(rows)}")
        if options.out:
            write_json(options.out, {"facts": facts, "rows": rows}, indent=1)
    except (ValueError, OSError, RuntimeError) as error:
        return refuse(parser.prog, error)
    return OK


if __name__ == "__main__":
    sys.exit(main())
