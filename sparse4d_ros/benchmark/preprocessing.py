"""Measures the way from camera messages to network input: decoding, resampling and normalisation of one set.

    python -m sparse4d_ros.benchmark.preprocessing --model v3_r50 --out out/bench/preprocessing.json

Four ways are taken in turn, so that a busy machine slows all of them: JPEGs decoded whole or reduced
(`reduced_decoding`), resampled by Pillow, as published, or by torch (`resize`). Stages are of one image on one thread;
the set is all cameras on `--threads` threads, as the node runs them. `processor` is the time that all threads computed:
what other programs take makes it longer only by what they push out of the caches.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from sparse4d_core.benchmark import machine
from sparse4d_core.config import PRESETS, Sparse4DConfig, preset
from sparse4d_core.inference.process_settings import keep_freed_memory
from sparse4d_core.preprocess import decoding_reduction, normalize, preprocess, test_time_transform
from sparse4d_core.types import Frame

from ..perception.image_decoding import ConversionError, decode_image

WAYS = tuple((reduced, resize) for reduced in (False, True) for resize in ("pillow", "torch"))


def picture(width: int, height: int) -> bytes:
    """A JPEG with about as many bytes per pixel (0.1) as those of a driving camera."""
    coarse = np.random.default_rng(0).integers(0, 255, (height // 24, width // 24, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", smooth, (cv2.IMWRITE_JPEG_QUALITY, 77))[1].tobytes()


def measure(jpegs: Sequence[bytes], config: Sparse4DConfig, threads: int, repeats: int) -> dict[str, Any]:
    """Milliseconds: stages of the first image, and the set of all images each way.

    Raises:
        ConversionError: an image that is no JPEG, or damaged.
    """
    messages = [SimpleNamespace(format="jpeg", data=np.frombuffer(data, np.uint8)) for data in jpegs]
    first = decode_image(messages[0])
    reduction = decoding_reduction(config.image, (first.shape[1], first.shape[0]))
    jobs = stages(messages[0], config, reduction)
    with ThreadPoolExecutor(threads) as pool:
        for reduced, resize in WAYS:
            name = f"set: decoded {'reduced' if reduced else 'whole'}, {resize}"
            jobs[name] = set_job(messages, config, pool, reduction if reduced else 1, resize)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
        for job in jobs.values():
            job()  # caches and memory
        for _ in tqdm(range(repeats), desc="preprocessing", unit="round"):
            for name, job in jobs.items():
                began, worked = time.perf_counter(), time.process_time()
                job()
                seconds[name].append((time.perf_counter() - began, time.process_time() - worked))
    return {
        "model": config.name,
        "images": f"{len(messages)} JPEG, {first.shape[1]}x{first.shape[0]}, {len(jpegs[0]) // 1000} kB",
        "reduction": reduction,
        "threads": threads,
        "milliseconds": {name: _summary(*zip(*times, strict=True)) for name, times in seconds.items()},
    }


def _summary(wall: Sequence[float], processor: Sequence[float]) -> dict[str, float]:
    figures = {"median": statistics.median(wall), "best": min(wall), "processor": statistics.median(processor)}
    return {name: round(1e3 * value, 3) for name, value in figures.items()}


def stages(message: Any, config: Sparse4DConfig, reduction: int) -> dict[str, Callable[[], Any]]:
    """Name -> one stage of one image."""
    image, small = decode_image(message), decode_image(message, reduction)
    of_whole, of_small = (test_time_transform(config.image, (i.shape[1], i.shape[0])) for i in (image, small))
    result = of_whole.apply(image)
    return {
        "decode": lambda: decode_image(message),
        f"decode at 1/{reduction}": lambda: decode_image(message, reduction),
        "resize by pillow": lambda: of_whole.apply(image),
        "resize by torch": lambda: of_whole.apply(image, "torch"),
        f"resize by pillow from 1/{reduction}": lambda: of_small.apply(small),
        f"resize by torch from 1/{reduction}": lambda: of_small.apply(small, "torch"),
        "normalise": lambda: normalize(result, config.image),
    }


def set_job(
    messages: Sequence[Any], config: Sparse4DConfig, pool: ThreadPoolExecutor, reduction: int, resize: str
) -> Callable[[], Any]:
    """All messages to network input."""
    cameras = len(messages)
    intrinsics = np.tile(np.eye(3), (cameras, 1, 1))
    poses = np.tile(np.eye(4), (cameras, 1, 1))

    def run() -> Any:
        images = tuple(pool.map(lambda message: decode_image(message, reduction), messages))
        return preprocess(Frame(images, intrinsics, poses, np.eye(4), 0), config, resize)

    return run


def table(result: dict[str, Any]) -> str:
    """The figures as text."""
    rows = [f"{'milliseconds':36}{'median':>11}{'best':>11}{'processor':>11}"]
    for name, figures in result["milliseconds"].items():
        rows.append(f"{name:36}" + "".join(f"{value:11.2f}" for value in figures.values()))
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        "python -m sparse4d_ros.benchmark.preprocessing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="v3_r50", choices=sorted(PRESETS), help="preset (default: %(default)s)")
    parser.add_argument("--cameras", type=int, default=6, help="images of a set (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 900), metavar=("W", "H"), help="pixels (1600 900)")
    parser.add_argument("--image", type=pathlib.Path, help="a JPEG to take instead of a made-up picture of --size")
    parser.add_argument("--threads", type=int, default=2, help="that decode (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=30, help="rounds (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, help="write the figures as JSON to this file")
    options = parser.parse_args(arguments)
    if min(options.cameras, options.threads, options.repeats, *options.size) < 1:
        parser.error("cameras, size, threads and repeats: expected at least 1")
    keep_freed_memory()
    load = os.getloadavg()[0]
    try:
        jpeg = options.image.read_bytes() if options.image else picture(*options.size)
        result = measure([jpeg] * options.cameras, preset(options.model), options.threads, options.repeats)
    except (OSError, ConversionError, ValueError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 2
    result |= {"load_average_before": round(load, 2), "machine": machine.describe()}
    print(f"{result['model']}, {result['images']}; {machine.summary()}; load average before: {load:.1f}")
    print(table(result))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
