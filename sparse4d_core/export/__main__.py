"""Exports one recurrent step of a model: `python -m sparse4d_core.export --model demo --format onnx --out out/step`."""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
from collections.abc import Sequence

from ..atomic_write import check_vacant
from ..command_line import OK, refuse
from ..config import PRESETS, preset
from ..inference.pipeline import Pipeline
from .exporter import FORMATS, ExportOptions, export_step
from .frames import keyframes
from .interface import ANY_NUMBER
from .proof import TOLERANCES
from .step import check_exportable

EPILOG = """\
The folder holds the graph, manifest.json (inputs, outputs, units, differences to PyTorch) and, for onnx, detect.py:
an example that needs numpy, onnxruntime and Pillow alone. Before anything is written, the graph runs eight recurrent
frames beside PyTorch; one that differs is refused. docs/deployment.md tells which format is for which machine.

examples:
  python -m sparse4d_core.export --model demo --format onnx --out out/demo-onnx
  python -m sparse4d_core.export --model v3_r50 --checkpoint sparse4dv3_r50.pth --format aoti --out out/v3-aoti
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        check_vacant(options.out)
        check_exportable(preset(options.model))  # before weights are asked for
        pipeline = Pipeline.from_preset(
            options.model,
            options.checkpoint,
            scene_reset=options.scene_reset,
            allow_untrained=options.allow_untrained,
        )
        chosen = ExportOptions(
            options.format, options.cameras, options.precision, options.operator, options.images, options.overlap
        )
        calibration = keyframes(options.calibration, options.version) if options.calibration else ()
        manifest = export_step(pipeline, chosen, options.out, calibration=calibration)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.export", error)
    for row in manifest.accuracy:
        print(json.dumps(row))
    print(f"{options.out}: {manifest.file}, " + "; ".join(manifest.how_to_run))
    return OK


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; the operator by the format where none is given."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.export",
        description="Write one recurrent step of a v2 or v3 preset as a graph with its memory in and out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, choices=PRESETS, metavar="PRESET", help="v2, v3 or demo")
    parser.add_argument("--checkpoint", help="file with its weights (default: by name, shipped or fetched)")
    parser.add_argument("--format", required=True, choices=FORMATS, help="of the graph")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write; must be empty or missing")
    parser.add_argument("--cameras", type=_cameras, default=6, metavar="N", help="of the rig, or any (default 6)")
    parser.add_argument("--precision", choices=TOLERANCES, default="float32", help="of the image encoder")
    parser.add_argument(
        "--calibration",
        type=pathlib.Path,
        metavar="DATAROOT",
        help="for int8: a data set in nuScenes format (a bag: rosbag_to_nuscenes) of the vehicle's rig and world",
    )
    parser.add_argument("--version", default="v1.0-mini", help="its tables (default %(default)s)")
    parser.add_argument(
        "--operator",
        choices=("portable", "native"),
        help="standard operators alone, or ours (default: native for aoti, else portable)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="portable operator: at most N cameras see one point, which saves most of the sampling; 2 fits rings like "
        "that of nuScenes (default: all cameras may)",
    )
    parser.add_argument("--images", choices=("normalized", "uint8"), default="normalized", help="what the graph takes")
    parser.add_argument(
        "--scene-reset", choices=("clean", "reference"), default="clean", help="memory at a scene's start"
    )
    parser.add_argument("--allow-untrained", action="store_true", help="random weights where there are none")
    options = parser.parse_args(arguments)
    if options.operator is None:
        options.operator = "native" if options.format == "aoti" and options.cameras != ANY_NUMBER else "portable"
    return options


def _cameras(text: str) -> int:
    return ANY_NUMBER if text == "any" else int(text)


if __name__ == "__main__":
    sys.exit(main())
