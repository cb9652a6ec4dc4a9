"""Streams through a model, in this process or in several, on one device or on several.

    with StreamWorkers(task, devices, processes) as workers: workers.run(streams)

Each process has its own copy of the model and takes the next stream when it is done with one; what a scene gave is in
its file before the next one begins. Nothing of a result depends on which process had it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import cv2
import torch
from tqdm import tqdm

from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.memories import Keeping
from ..inference.pipeline import Pipeline, Precision, refusing_device
from ..network.sparse4d import SceneReset
from .keyframe_scores import ScenePlan, run_scene
from .results import ResultsWriter
from .run_folder import RunFolder
from .scene_streams import Stream


@dataclass(frozen=True)
class StreamTask:
    """All that a process needs; it travels there by pickle."""

    folder: RunFolder
    data: NuScenesDataset
    model: str
    checkpoint: str | None
    precision: Precision = "float32"
    scene_reset: SceneReset = "reference"
    allow_untrained: bool = False
    threads: int = 1  # of torch on the CPU; their number may change the last digit, so it is a setting of the run
    loader_workers: int = 2
    plan: ScenePlan | None = None  # None: the key frames as they are
    backend: str = "torch"
    artefact: str | None = None  # folder of an exported step, for the backends that run one
    providers: str = "cpu"
    temporal_stride: float = 0.0  # s; 0: the frame before, as key frames are scored
    memories: Keeping = "one"

    def pipeline(self, device: str) -> Pipeline:
        """See `Pipeline.from_preset` for what it raises; a device that is not there is a ValueError here."""
        torch.set_num_threads(self.threads)
        with refusing_device(device, "devices"):
            return Pipeline.from_preset(
                self.model,
                self.checkpoint,
                device=device,
                precision=self.precision,
                scene_reset=self.scene_reset,
                temporal_stride=self.temporal_stride,
                memories=self.memories,
                allow_untrained=self.allow_untrained,
                backend=self.backend,
                artefact=self.artefact,
                providers=self.providers,
            )


class StreamRunner:
    """Runs streams in this process, one after the other."""

    def __init__(self, task: StreamTask, device: str):
        self._task, self._pipeline = task, task.pipeline(device)
        self._device = device

    def run(self, stream: Stream) -> int:
        """All scenes of the stream that are not done yet; returns how many those were."""
        folder, state, state_of, count = self._task.folder, None, None, 0
        for before, scene in zip((None, *stream.scenes), stream.scenes, strict=False):
            if folder.has(scene):
                continue
            if state_of != before:  # goes on where an earlier run ended
                state = _on_device(folder.read_state(before), self._device)
            state = self._run_scene(scene, state, scene != stream.scenes[-1])
            if before is not None:
                folder.drop_state(before)
            state_of, count = scene, count + 1
        return count

    def _run_scene(self, scene: str, state, others_follow: bool):
        writer = ResultsWriter()
        task = self._task
        state = run_scene(self._pipeline, task.data, scene, writer, state, task.loader_workers, task.plan)
        if others_follow:
            task.folder.write_state(scene, state)
        task.folder.write_scene(scene, writer)
        return state


def _on_device(state, device: str):
    return None if state is None else state.to(device)


def run_streams(task: StreamTask, streams: Sequence[Stream], devices: Sequence[str], processes: int) -> None:
    """Runs all streams that are not done, with progress.

    Args:
        devices: processes take them in turns; `cpu`, `cuda:0` ...
        processes: 1 = this one.

    Raises:
        ChildProcessError: a process died; what was done before is kept.
        ValueError, OSError: as `StreamTask.pipeline`, the data set and the folder raise them.
    """
    waiting = [stream for stream in streams if not all(map(task.folder.has, stream.scenes))]
    total = sum(len(stream.scenes) for stream in streams)
    done = sum(task.folder.has(scene) for stream in streams for scene in stream.scenes)
    with tqdm(total=total, initial=done, desc="scenes", unit="scene", disable=None) as bar:
        if processes == 1:
            runner = StreamRunner(task, devices[0]) if waiting else None
            for stream in waiting:
                bar.update(runner.run(stream))
            return
        _run_in_processes(task, waiting, devices, min(processes, max(len(waiting), 1)), bar)


_runner: StreamRunner | None = None  # of a child process


def _start(task: StreamTask, devices) -> None:
    global _runner
    cv2.setNumThreads(1)
    _runner = StreamRunner(task, devices.get())


def _run(stream: Stream) -> int:
    return _runner.run(stream)


def _run_in_processes(
    task: StreamTask, streams: Sequence[Stream], devices: Sequence[str], processes: int, bar: tqdm
) -> None:
    task.pipeline("cpu")  # what is wrong with model or checkpoint comes to light here, in a sentence
    context = multiprocessing.get_context("spawn")  # CUDA and OpenCV's threads do not live through a fork
    queue = context.Queue()
    for number in range(processes):
        queue.put(devices[number % len(devices)])
    with ProcessPoolExecutor(processes, context, _start, (task, queue)) as pool:
        futures = [pool.submit(_run, stream) for stream in streams]
        try:
            for future in as_completed(futures):
                bar.update(future.result())
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"processes: one of {processes} died (out of memory, killed, or a device that cannot be used); "
                f"whole scenes are kept in {task.folder.path}: go on with --resume, perhaps with fewer --processes"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
