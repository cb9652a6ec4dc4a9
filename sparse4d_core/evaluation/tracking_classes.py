"""The official tracking evaluation with its classes in parallel processes: the devkit's own code, in another order.

A class takes no part in the score of another one, so each is accumulated by itself, in a process of its own, from the
boxes of that class alone. What the devkit averages over classes it averages over these results. Most of a run over 150
scenes is spent on cars and pedestrians; more processes than classes bring nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.tracking import evaluate as devkit
from nuscenes.eval.tracking.algo import TrackingEvaluation
from nuscenes.eval.tracking.data_classes import TrackingMetricData
from tqdm import tqdm

CONFIG = "tracking_nips_2019"
WORTH_PROCESSES = 500  # samples; starting a process takes longer than scoring fewer

Tracks = dict[str, dict[int, list[Any]]]  # scene token -> timestamp -> devkit boxes


def make_evaluation(file: str, split: str, out: str, version: str, dataroot: str) -> devkit.TrackingEval:
    """The devkit's evaluation with its boxes loaded, its scenes in the order of their tokens.

    The devkit leaves their order to the hashes of the running process, and with it the last digit of sums.
    """
    evaluation = devkit.TrackingEval(config_factory(CONFIG), file, split, out, version, dataroot, verbose=False)
    for name in ("tracks_gt", "tracks_pred"):
        setattr(evaluation, name, dict(sorted(getattr(evaluation, name).items())))
    return evaluation


def summary(evaluation: devkit.TrackingEval, processes: int | None = None, progress: bool = False) -> dict[str, Any]:
    """What `evaluation.main(render_curves=False)` returns and writes, digit for digit.

    Args:
        processes: None: one a core, or none besides this one where there is little to score.
        progress: show a bar that counts classes.

    Raises:
        ChildProcessError: a process died, as they do when memory runs out.
    """
    names = evaluation.cfg.class_names
    if processes is None:
        samples = sum(map(len, evaluation.tracks_gt.values()))
        processes = (os.cpu_count() or 1) if samples >= WORTH_PROCESSES else 1
    parts = {name: (of_class(evaluation, name), name) for name in names}
    bar = tqdm(total=len(names), desc="tracking classes", unit="class", disable=None if progress else True)
    with bar:
        results = {}
        for name, data in _accumulated(parts, min(processes, len(names))):
            results[name] = data
            bar.set_postfix_str(name)
            bar.update()
    with _accumulated_before(results):
        return evaluation.main(render_curves=False)


def of_class(evaluation: devkit.TrackingEval, name: str) -> tuple[Tracks, Tracks]:
    """Truth and predictions of one class, scene by scene, with every timestamp of the truth."""
    truth, predicted = evaluation.tracks_gt, evaluation.tracks_pred

    def only(boxes: list[Any]) -> list[Any]:
        return [box for box in boxes if box.tracking_name == name]

    return (
        {scene: {time: only(boxes) for time, boxes in frames.items()} for scene, frames in truth.items()},
        {scene: {time: only(predicted[scene][time]) for time in frames} for scene, frames in truth.items()},
    )


def accumulate(tracks: tuple[Tracks, Tracks], name: str) -> TrackingMetricData:
    """The metrics of one class over all recall thresholds."""
    config = config_factory(CONFIG)  # also tells the devkit's classes how many thresholds there are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TrackingEvaluation(
            *tracks,
            name,
            config.dist_fcn_callable,
            config.dist_th_tp,
            config.min_recall,
            num_thresholds=TrackingMetricData.nelem,
            metric_worst=config.metric_worst,
            verbose=False,
        ).accumulate()


def _accumulated(parts: dict[str, tuple], processes: int) -> Iterator[tuple[str, TrackingMetricData]]:
    """(class, its metrics) as they come; the classes with most boxes begin, so that none of them is left for last."""
    if processes <= 1:
        yield from ((name, accumulate(*part)) for name, part in parts.items())
        return
    order = sorted(parts, key=lambda name: -_size(parts[name][0]))
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(accumulate, *parts[name]): name for name in order}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "tracking: a process that scored a class died; if memory ran out, take fewer processes"
                ) from error


def _size(tracks: tuple[Tracks, Tracks]) -> int:
    return sum(len(boxes) for side in tracks for frames in side.values() for boxes in frames.values())


@contextmanager
def _accumulated_before(results: dict[str, TrackingMetricData]) -> Iterator[None]:
    """While this lasts, the devkit's loop over classes is given these results, and averages them as ever."""

    def done(_truth: Tracks, _predicted: Tracks, name: str, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(accumulate=lambda: results[name])

    with mock.patch.object(devkit, "TrackingEvaluation", done):
        yield
