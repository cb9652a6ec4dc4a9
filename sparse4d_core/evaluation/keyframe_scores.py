"""A pipeline over the key frames of a data set, in order as the node runs it, scored by the official devkit: no bag."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.pipeline import Pipeline
from ..network.state import TemporalState
from ..types import Frame
from .devkit_scores import Scores, evaluate
from .results import ResultsWriter


def run_keyframes(
    pipeline: Pipeline, data: NuScenesDataset, scenes: Sequence[str] | None = None, progress: bool = False
) -> ResultsWriter:
    """Detections and tracks of all key frames; every scene begins without a memory.

    Args:
        scenes: names; None = all.
    """
    writer = ResultsWriter()
    for name in tqdm(data.index.scene_names.tolist() if scenes is None else scenes, "scenes", disable=not progress):
        run_scene(pipeline, data, name, writer)
    return writer


def run_scene(
    pipeline: Pipeline,
    data: NuScenesDataset,
    name: str,
    writer: ResultsWriter,
    state: TemporalState | None = None,
    workers: int = 0,
) -> TemporalState | None:
    """Adds the key frames of one scene to `writer`; returns what the next scene of a stream may begin with.

    Args:
        state: what the scene before left; None: it begins without a memory.
        workers: threads that read and decode images ahead; results do not depend on them.
    """
    keyframes = set(data.keyframes.tolist())
    for frame in frames_ahead(data, [int(i) for i in data.scene_frames(name) if int(i) in keyframes], workers):
        step = pipeline.step(frame, state)
        state = step.state
        writer.add(frame.token, step.detections, step.tracks, frame.T_global_from_model)
    return state


def frames_ahead(data: NuScenesDataset, rows: Sequence[int], workers: int = 0) -> Iterator[Frame]:
    """The frames of these rows in order, decoded by threads up to two frames a thread before they are asked for.

    Raises:
        DatasetError: an image that is missing or damaged, when its frame's turn comes.
    """
    if workers < 1:
        yield from map(data.frame, rows)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        pending, remaining = deque(), iter(rows)
        for row in remaining:
            pending.append(pool.submit(data.frame, row))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def keyframe_scores(pipeline: Pipeline, data: NuScenesDataset, out: Path) -> Scores:
    """Detection and tracking of all scenes; the results are left in `out`."""
    writer = run_keyframes(pipeline, data)
    results, tracking = out / "results.json", out / "tracking.json"
    writer.write_detection(results)
    writer.write_tracking(tracking)
    return evaluate(data.dataroot, data.version, results, tracking)
