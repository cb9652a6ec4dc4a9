"""A pipeline over the key frames of a data set, in order as the node runs it, as a submission: no bag."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np
from tqdm import tqdm

from ..boxes import along_the_ground, inverse, transform_boxes
from ..data.nuscenes.dataset import NuScenesDataset
from ..inference.pipeline import Pipeline, StepResult
from ..network.state import TemporalState
from ..types import Detections, Frame, Tracks
from .results import ResultsWriter


class ScenePlan(Protocol):
    """Which frames of a scene a model is given, and what is done to them before: for runs under faults."""

    holds: bool  # a key frame without a result of its own gets the newest one, moved on

    def rows(self, data: NuScenesDataset, scene: str) -> list[int]:
        """The frames, in order of time."""

    def frame(self, data: NuScenesDataset, scene: str, row: int) -> Frame:
        """One of them; without any image it is not run."""


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
    plan: ScenePlan | None = None,
) -> TemporalState | None:
    """Adds the key frames of one scene to `writer`; returns what the next scene of a stream may begin with.

    A key frame without a result of its own, because a plan leaves it out or without images, counts as empty, or gets
    the newest boxes moved on by their velocities where the plan holds them.

    Args:
        state: what the scene before left; None: it begins without a memory.
        workers: threads that read and decode images ahead; results do not depend on them.
        plan: None: the key frames as they are.
    """
    keyframes = [int(i) for i in data.scene_frames(name) if data.index.tokens[i]]
    rows = keyframes if plan is None else plan.rows(data, name)
    read = data.frame if plan is None else lambda row: plan.frame(data, name, row)
    frames = frames_ahead(read, rows, workers)
    newest = None  # result, and the row it is of
    for row in sorted({*rows, *keyframes}):
        frame = next(frames) if row in rows else None
        seen = frame is not None and any(image is not None for image in frame.images)
        if seen:
            step = pipeline.step(frame, state)
            state, newest = step.state, (step, row)
        if row in keyframes:
            # The data set's own pose, which a plan may have changed: what is scored is where boxes are to the vehicle.
            pose = data.index.T_global_from_model[row]
            token = str(data.index.tokens[row])
            if seen:
                writer.add(token, step.detections, step.tracks, pose)
            elif newest is not None and plan.holds:
                writer.add(token, *(_carried(part, data, newest[1], row) for part in _parts(newest[0])), pose)
            else:
                writer.add(token, _nothing(), None, pose)
    return state


def _parts(step: StepResult) -> tuple[Detections, Tracks]:
    return step.detections, step.tracks


def _carried(found: Detections, data: NuScenesDataset, then: int, now: int) -> Detections:
    """Boxes of an earlier frame, moved on by their velocities, as the vehicle sees them at a later one."""
    index = data.index
    boxes = along_the_ground(np.array(found.boxes, np.float64))
    boxes[:, :3] += boxes[:, 7:] * (int(index.stamp_us[now] - index.stamp_us[then]) * 1e-6)
    T_now_from_then = inverse(index.T_global_from_model[now]) @ index.T_global_from_model[then]
    return replace(found, boxes=transform_boxes(boxes, T_now_from_then))


def _nothing() -> Detections:
    return Detections(np.empty((0, 10)), np.empty(0), np.empty(0, np.int64))


def frames_ahead(read: Callable[[int], Frame], rows: Sequence[int], workers: int = 0) -> Iterator[Frame]:
    """The frames of these rows in order, read by threads up to two frames a thread before they are asked for.

    Raises:
        DatasetError: an image that is missing or damaged, when its frame's turn comes.
    """
    if workers < 1:
        yield from map(read, rows)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        pending, remaining = deque(), iter(rows)
        for row in remaining:
            pending.append(pool.submit(read, row))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
