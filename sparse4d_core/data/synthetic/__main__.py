"""Render driving scenes and write them as a nuScenes data set.

Each scene is a function of (seed, scene index): the same arguments give the same bytes, whatever the number of workers.
The tables are complete and load with the official devkit; lidar records carry pose and calibration but no file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from .annotations import Tables, image_path, schedule
from .cameras import NUSCENES_RIG, Rig
from .renderer import Renderer
from .world import World, build_world

_JPEG_QUALITY = 92


@dataclass(frozen=True)
class RenderedScene:
    """What the tables need to know about a scene whose images are on disk."""

    world: World
    solid_angle: np.ndarray  # [K, A] sr in which the cameras see each actor, per keyframe
    visible_share: np.ndarray  # [K, A]


def render_scene(out: pathlib.Path, seed: int, index: int, duration: float, rate: int, rig: Rig) -> RenderedScene:
    """Write the images of one scene below `out`.

    Raises:
        OSError: where an image cannot be written.
    """
    world = build_world(seed, index, duration)
    renderer, timing = Renderer(world, rig), schedule(world, rate)
    solid_angle, visible_share = [], []
    for k in range(timing.num_sets):
        keyframe = timing.is_keyframe(k)
        seen, covered, angle = np.zeros((3, len(world.actors)))
        for i, camera in enumerate(rig.cameras):
            stamp = timing.camera_stamp(k, camera.delay)
            view = renderer.view(i, timing.time(stamp))
            _write_jpeg(out / image_path(world, camera.channel, stamp, keyframe), view.image)
            seen += view.visible_pixels
            covered += view.covered_pixels
            angle += view.visible_pixels / camera.focal**2
        if keyframe:
            solid_angle.append(angle)
            visible_share.append(seen / np.maximum(covered, 1))
    return RenderedScene(world, np.array(solid_angle), np.array(visible_share))


def _write_jpeg(path: pathlib.Path, image: np.ndarray) -> None:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise OSError(f"{path}: OpenCV could not encode the image")
    path.write_bytes(data.tobytes())


def render_dataset(
    out: pathlib.Path,
    scenes: int,
    seed: int,
    *,
    version="v1.0-mini",
    duration=8.0,
    rate=10,
    rig: Rig = NUSCENES_RIG,
    workers=1,
    progress=False,
) -> None:
    """Render `scenes` scenes into a new data set at `out`.

    Args:
        duration: seconds per scene.
        rate: Hz of the camera sets; every (rate / 2)-th is a keyframe with annotations.

    Raises:
        FileExistsError: if `out` holds tables of this version already.
        ValueError: for a rate without keyframes at 2 Hz or a duration that is not positive.
    """
    if (out / version).exists():
        raise FileExistsError(f"out: {out / version} exists; choose another folder or remove this one")
    if scenes < 1:
        raise ValueError(f"scenes: expected at least 1, got {scenes}")
    for folder in ("samples", "sweeps"):
        for camera in rig.cameras:
            (out / folder / camera.channel).mkdir(parents=True, exist_ok=True)
    jobs = [(out, seed, index, duration, rate, rig) for index in range(scenes)]
    tables = Tables(rig)
    with tqdm(total=scenes, unit="scene", disable=not progress) as bar:
        for scene in _rendered(jobs, workers):
            tables.add_scene(scene.world, schedule(scene.world, rate), scene.solid_angle, scene.visible_share)
            bar.update()
    tables.write(out, version)


def _rendered(jobs: list[tuple], workers: int):
    """Scenes in the order of the jobs."""
    if workers <= 1 or len(jobs) == 1:
        yield from (render_scene(*job) for job in jobs)
        return
    # A forked worker would inherit OpenCV threads that do not run, and wait for them for ever.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(render_scene, *zip(*jobs, strict=True))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.data.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m sparse4d_core.data.synthetic --out world --scenes 2 --seed 7 --image-size 704 396",
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the new data set")
    parser.add_argument("--scenes", type=int, default=2, help="number of scenes (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="0 to 9999 for training, 100000 and up for scoring (default %(default)s)"
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=NUSCENES_RIG.image_wh,
        metavar=("W", "H"),
        help="pixels (default 1600 900)",
    )
    parser.add_argument(
        "--rate",
        type=int,
        default=10,
        help="camera sets per second, a multiple of 2; keyframes come at 2 Hz (default 10)",
    )
    parser.add_argument("--duration", type=float, default=8.0, help="seconds per scene (default %(default)s)")
    parser.add_argument("--version", default="v1.0-mini", help="name of the tables' folder (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    args = parser.parse_args(arguments)
    try:
        render_dataset(
            args.out, args.scenes, args.seed, version=args.version, duration=args.duration, rate=args.rate,
            rig=NUSCENES_RIG.resized(*args.image_size), workers=args.workers, progress=True,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
