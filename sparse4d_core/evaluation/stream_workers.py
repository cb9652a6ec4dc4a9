"""Streams through a model: in this process, in several, or on a cluster; on one device or on several.

A task is a scene with the memory that it begins with; a stream's next scene becomes a task when the one before is done.
What a scene gave comes back to this process, which writes its file. Nothing of a result depends on which worker had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.memories import Keeping
from ..inference.pipeline import Pipeline, Precision, refusing_device
from ..network.sparse4d import SceneReset
from .keyframe_run import ScenePlan, run_scene
from .results import ResultsWriter
from .run_folder import RunFolder, scene_content, state_content, state_of
from .scene_streams import Stream
from .tasks.local_workers import ThisMachine
from .tasks.task_run import Failure, Place, UnfinishedError, Workers


@dataclass(frozen=True)
class StreamTask:
    """All that a worker needs; it travels there by pickle."""

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

    def start(self, device: str) -> SceneRunner:
        """A worker; see `pipeline` for what it raises."""
        return SceneRunner(self, device)

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


@dataclass(frozen=True)
class SceneTask:
    scene: str
    memory: bytes | None  # of the scene before, as `state_content` has it; None: it begins without
    others_follow: bool  # its own memory is wanted


@dataclass(frozen=True)
class SceneResult:
    boxes: bytes  # of `scene_content`
    memory: bytes | None  # of `state_content`, where others follow


class SceneRunner:
    """Runs scenes with one model, one after the other."""

    def __init__(self, task: StreamTask, device: str):
        self._task, self._pipeline = task, task.pipeline(device)
        self._device = device

    def run(self, task: SceneTask) -> SceneResult:
        job, writer = self._task, ResultsWriter()
        state = None if task.memory is None else state_of(task.memory)
        state = None if state is None else state.to(self._device)
        state = run_scene(self._pipeline, job.data, task.scene, writer, state, job.loader_workers, job.plan)
        return SceneResult(scene_content(task.scene, writer), state_content(state) if task.others_follow else None)


def run_streams(
    task: StreamTask,
    streams: Sequence[Stream],
    devices: Sequence[str] = ("cpu",),
    processes: int = 1,
    place: Place | None = None,
) -> None:
    """Runs all streams that are not done, with progress. A scene that cannot be run ends its stream and no other one.

    Args:
        devices: processes take them in turns; `cpu`, `cuda:0` ...
        processes: 1 = this one.
        place: where to run instead, such as a cluster.

    Raises:
        UnfinishedError: scenes could not be run, with their names and reasons; the others are kept.
        ChildProcessError: workers died or cannot start; what was done before is kept.
        ValueError, OSError: as `StreamTask.pipeline` and the folder raise them.
    """
    folder = task.folder
    waiting = [stream for stream in streams if not all(map(folder.has, stream.scenes))]
    scenes = [scene for stream in streams for scene in stream.scenes]
    done = sum(map(folder.has, scenes))
    with tqdm(total=len(scenes), initial=done, desc="scenes", unit="scene", disable=None) as bar:
        if not waiting:
            return
        place = place or ThisMachine(devices, min(processes, len(waiting)))
        if place != ThisMachine(devices, 1):
            task.pipeline("cpu")  # what is wrong with model or checkpoint comes to light here, in a sentence
        kept = f"whole scenes are kept in {folder.path}: go on with --resume"
        with place.workers(task, kept) as workers:
            failed = _run_all(workers, folder, waiting, bar)
    if failed:
        reasons = "\n  ".join(f"{scene}: {reason}" for scene, reason in failed.items())
        raise UnfinishedError(f"scenes: {len(failed)} of {len(scenes)} could not be run; {kept}\n  {reasons}")


def _run_all(workers: Workers, folder: RunFolder, streams: Sequence[Stream], bar: tqdm) -> dict[str, str]:
    """Every scene that is not done; returns those that failed with the reasons."""
    failed: dict[str, str] = {}
    stream_of = {scene: stream for stream in streams for scene in stream.scenes}
    for stream in streams:
        workers.submit(_next_task(folder, stream))
    for task, result in workers.finished():
        if isinstance(result, Failure):
            failed[task.scene] = result.reason
            continue
        stream = stream_of[task.scene]
        _keep(folder, stream, task.scene, result)
        bar.update()
        if (following := _next_task(folder, stream)) is not None:
            workers.submit(following)
    return failed


def _next_task(folder: RunFolder, stream: Stream) -> SceneTask | None:
    """The first scene of a stream that is not done."""
    for before, scene in zip((None, *stream.scenes), stream.scenes, strict=False):
        if not folder.has(scene):
            memory = None if before is None else folder.read_state(before)
            return SceneTask(scene, memory, scene != stream.scenes[-1])
    return None


def _keep(folder: RunFolder, stream: Stream, scene: str, result: SceneResult) -> None:
    if result.memory is not None:
        folder.write_state(scene, result.memory)
    folder.write_scene(scene, result.boxes)
    position = stream.scenes.index(scene)
    if position:
        folder.drop_state(stream.scenes[position - 1])  # which no scene needs any more
