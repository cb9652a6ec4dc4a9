"""Render driving scenes and write them as a nuScenes data set.

Each scene is a function of (seed, scene index): the same arguments give the same bytes, whatever the number of workers.
The tables are complete and load with the official devkit; lidar records carry pose and calibration but no file.
"""

from __future__ import annotations

import multiprocessing
import pathlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from .annotations import KEYFRAME_RATE, RenderedTables, Schedule, image_path, schedule
from .cameras import NUSCENES_RIG, Rig
from .ego_body import body_mask
from .renderer import Renderer
from .world import World, build_world

_JPEG_QUALITY = 92


@dataclass(frozen=True)
class RenderedScene:
    """What the tables need of a scene whose images are on disk."""

    world: World
    timing: Schedule
    solid_angle: np.ndarray  # [K, A] sr in which the cameras see each actor, per keyframe
    visible_share: np.ndarray  # [K, A]


def render_scene(
    out: pathlib.Path,
    seed: int,
    index: int,
    duration: float,
    rate: int,
    rig: Rig,
    ego_body: bool = False,
    keyframe_rate: int = KEYFRAME_RATE,
) -> RenderedScene:
    """Write the images of one scene below `out`.

    Raises:
        OSError: where an image cannot be written.
    """
    world = build_world(seed, index, duration)
    renderer, timing = Renderer(world, rig, ego_body), schedule(world, rate, keyframe_rate)
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
    return RenderedScene(world, timing, np.array(solid_angle), np.array(visible_share))


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
    ego_body=False,
    keyframe_rate=KEYFRAME_RATE,
) -> None:
    """Render `scenes` scenes into a new data set at `out`.

    Args:
        duration: seconds per scene.
        rate: Hz of the camera sets, a multiple of `keyframe_rate`, at which they are keyframes with annotations.
        ego_body: the own vehicle is in the pictures, and its masks are in `ego_masks/CHANNEL.png`.

    Raises:
        FileExistsError: if `out` holds tables of this version already.
        ValueError: for a rate that is no multiple of the keyframes' or a duration that is not positive.
    """
    if (out / version).exists():
        raise FileExistsError(f"out: {out / version} exists; choose another folder or remove this one")
    if scenes < 1:
        raise ValueError(f"scenes: expected at least 1, got {scenes}")
    for folder in ("samples", "sweeps"):
        for camera in rig.cameras:
            (out / folder / camera.channel).mkdir(parents=True, exist_ok=True)
    jobs = [(out, seed, index, duration, rate, rig, ego_body, keyframe_rate) for index in range(scenes)]
    tables = RenderedTables(rig)
    with tqdm(total=scenes, unit="scene", disable=not progress) as bar:
        for scene in _rendered(jobs, workers):
            tables.add_scene(scene.world, scene.timing, scene.solid_angle, scene.visible_share)
            bar.update()
    if ego_body:
        _write_masks(out / "ego_masks", rig)
    tables.write(out, version)


def _write_masks(folder: pathlib.Path, rig: Rig) -> None:
    folder.mkdir(exist_ok=True)
    for camera in rig.cameras:
        done, data = cv2.imencode(".png", body_mask(camera, rig.image_wh).astype(np.uint8) * 255)
        if not done:
            raise OSError(f"{folder}: OpenCV could not encode a mask")
        (folder / f"{camera.channel}.png").write_bytes(data.tobytes())


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
