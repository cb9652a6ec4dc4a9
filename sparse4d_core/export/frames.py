"""Frames for programs without our code: `python -m sparse4d_core.export.frames --model demo --out out/frames`.

Two forms, each with a frames.json: camera images as JPEGs with their calibration, for detect.py of an ONNX export, or
raw images of the network's size with their projection, for the C++ example (examples/cpp), which decodes and scales
nothing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

import cv2

from ..atomic_write import atomic_write, check_vacant
from ..command_line import OK, refuse
from ..config import PRESETS, Sparse4DConfig, preset
from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.artefact import raw_images
from ..preprocess import preprocess
from ..types import Frame
from .drive import MOMENTS, drive

MOST_FRAMES = 32  # of a data set, unless another number is given

EPILOG = """\
frames.json lists the frames in time order: `seconds`, `images` (PPM files of the network's size, one a camera),
`projection` (4x4 a camera: points of the model frame, homogeneous, to pixels, depth in row 2) and
`T_global_from_model` (4x4, metres). Without a data set the frames are those that exports are proved on.

example: python -m sparse4d_core.export.frames --model demo --dataroot out/demo/scenes --out out/frames
"""


def write_camera_frames(folder: pathlib.Path, frames: Sequence[Frame]) -> None:
    """Images as they came, as JPEGs, with the cameras' intrinsics and poses."""
    folder.mkdir()
    entries = []
    for number, frame in enumerate(frames):
        names = [f"{number}_{camera}.jpg" for camera in range(len(frame.images))]
        for name, image in zip(names, frame.images, strict=True):
            cv2.imwrite(str(folder / name), image)
        entries.append(
            {
                "seconds": frame.stamp_ns * 1e-9,
                "images": names,
                "intrinsics": frame.intrinsics.tolist(),
                "T_cam_from_model": frame.T_cam_from_model.tolist(),
                "T_global_from_model": frame.T_global_from_model.tolist(),
            }
        )
    _write_entries(folder, entries)


def write_network_frames(folder: pathlib.Path, frames: Sequence[Frame], config: Sparse4DConfig) -> None:
    """Images as the network gets them, as PPMs, and the projections that belong to them."""
    folder.mkdir()
    entries = []
    for number, frame in enumerate(frames):
        inputs = preprocess(frame, config)
        images = raw_images(inputs.images, config)[0].numpy()
        names = [f"{number}_{camera}.ppm" for camera in range(len(images))]
        for name, image in zip(names, images, strict=True):
            cv2.imwrite(str(folder / name), image)
        entries.append(
            {
                "seconds": frame.stamp_ns * 1e-9,
                "images": names,
                "projection": inputs.projection[0].tolist(),
                "T_global_from_model": frame.T_global_from_model.tolist(),
            }
        )
    _write_entries(folder, entries)


def _write_entries(folder: pathlib.Path, entries: list[dict[str, object]]) -> None:
    (folder / "frames.json").write_text(json.dumps(entries) + "\n", encoding="utf-8")


def keyframes(dataroot: pathlib.Path, version: str, count: int = MOST_FRAMES) -> list[Frame]:
    """The first keyframes of a data set in nuScenes format, at most `count`.

    Raises:
        ValueError: no data set.
    """
    dataset = NuScenesDataset(dataroot, version, cache=None)
    return [dataset.frame(int(i)) for i in dataset.keyframes[:count]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.export.frames",
        description="Write frames for the C++ example: raw images of the network's size with their projection.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, choices=PRESETS, metavar="PRESET", help="whose image size")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write; must be empty or missing")
    parser.add_argument(
        "--dataroot", type=pathlib.Path, help="a data set in nuScenes format (a bag: rosbag_to_nuscenes)"
    )
    parser.add_argument("--version", default="v1.0-mini", help="its tables (default %(default)s)")
    parser.add_argument("--count", type=int, default=MOST_FRAMES, help="frames at most (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count: expected 1 or more, got {options.count}")
    config = preset(options.model)
    try:
        check_vacant(options.out)
        if options.dataroot:
            frames = keyframes(options.dataroot, options.version, options.count)
        else:
            frames = drive(config, count=min(options.count, len(MOMENTS)))
        with atomic_write(options.out) as folder:
            write_network_frames(folder, frames, config)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_core.export.frames", error)
    print(f"{options.out}: {len(frames)} frames of {len(frames[0].images)} cameras")
    return OK


if __name__ == "__main__":
    sys.exit(main())
