"""Runs presets at their full image size over one real frame and reports time and memory.

Every preset runs in a process of its own, so that the peak memory is that preset's. The model's memory of earlier
frames is filled first: the frame costs what every further one costs. Processor time stands beside the time on the
clock, because it does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from ..command_line import BAD_INPUT, FAILED, OK, refuse
from ..config import PRESETS, Sparse4DConfig, preset
from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.pipeline import Pipeline
from ..model_io import ModelInput
from ..network.sparse4d import Sparse4D
from ..preprocess import preprocess

STEP_NS = 500_000_000
EPILOG = """\
example:
  python -m sparse4d_core.benchmark.preset_cost --dataroot data/nuscenes --version v1.0-mini --models v3_r50 v2_r50
"""


@dataclass(frozen=True)
class Measurement:
    preset: str
    trained: bool
    threads: int
    stages_ms: dict[str, float]
    processor_seconds: float  # of the frame, all threads
    peak_memory: int  # bytes resident, the whole process
    detections: int

    @property
    def seconds(self) -> float:
        return sum(self.stages_ms.values()) / 1e3


def measure(name: str, dataroot: pathlib.Path, version: str, checkpoint: str | None = None) -> Measurement:
    """In this process; `peak_memory` includes whatever it did before."""
    config = preset(name)
    pipeline = Pipeline.from_preset(name, checkpoint, allow_untrained=True)
    dataset = NuScenesDataset(dataroot, version)
    frame = dataset.frame(int(dataset.keyframes[0]))
    past_frames = config.history.num_frames if config.history else 1 if config.temporal else 0
    state = None
    for i in range(past_frames):
        past = preprocess(replace(frame, stamp_ns=frame.stamp_ns - (past_frames - i) * STEP_NS), config)
        with torch.inference_mode():
            _, state = pipeline.model.decode_features(_feature_maps(config, past), past, state)
    start = time.process_time()
    result = pipeline.step(frame, state)
    processor_seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    detections = len(result.detections.scores)
    threads = torch.get_num_threads()
    return Measurement(name, pipeline.trained, threads, result.timings_ms, processor_seconds, peak, detections)


def _feature_maps(config: Sparse4DConfig, inputs: ModelInput) -> list[Tensor]:
    """Maps of the right size and made-up content, for frames that only fill the memory."""
    with torch.device("meta"), torch.inference_mode():
        shapes = [level.shape for level in Sparse4D(config).eval().image_features(inputs.images.to("meta"))]
    return [torch.randn(shape) for shape in shapes]


def markdown(measurements: Sequence[Measurement]) -> str:
    rows = [
        "| preset | input | processor time a frame | of it images / decoder | on the clock | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for m in measurements:
        width, height = PRESETS[m.preset].image.input_wh
        share = m.stages_ms["backbone"] / 1e3 / m.seconds
        rows.append(
            f"| `{m.preset}` | {height}×{width} | {m.processor_seconds:.1f} s | {share:.0%} / {1 - share:.0%} "
            f"| {m.seconds:.1f} s, {m.threads} threads | {m.peak_memory / 2**30:.1f} GiB |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark.preset_cost",
        description="Time and peak memory of presets at full image size over one nuScenes frame, on the CPU.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataroot", type=pathlib.Path, required=True, help="folder in the nuScenes layout")
    parser.add_argument("--version", default="v1.0-mini", help="its tables (default v1.0-mini)")
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=list(PRESETS), metavar="PRESET")
    parser.add_argument("--single", action="store_true", help="the first preset in this process, as JSON")
    options = parser.parse_args(arguments)
    if options.single:
        try:
            print(json.dumps(asdict(measure(options.models[0], options.dataroot, options.version))))
        except (ValueError, OSError) as error:
            return refuse(parser.prog, error)
        return OK
    measurements = []
    for name in tqdm(options.models, desc="presets"):
        command = [sys.executable, "-m", "sparse4d_core.benchmark.preset_cost", "--single", "--models", name]
        command += ["--dataroot", str(options.dataroot), "--version", options.version]
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if finished.returncode != 0:
            print(f"{name}: failed with exit status {finished.returncode}", file=sys.stderr)
            return BAD_INPUT if finished.returncode == BAD_INPUT else FAILED
        measurements.append(Measurement(**json.loads(finished.stdout.splitlines()[-1])))
    print(markdown(measurements))
    return OK


if __name__ == "__main__":
    sys.exit(main())
