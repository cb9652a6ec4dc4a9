"""Batches of all streams of a process, prepared ahead by worker processes, resumable to the frame."""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from ...config import Sparse4DConfig
from ..run.processes import Processes
from ..schedule import TrainingConfig
from .batch import Batch, collate_batches
from .sampler import Draw, SequenceSampler, sequence_ids
from .samples import AnnotatedFrames, TrainingSamples


@dataclass(frozen=True)
class Streams:
    """How the samples of an optimiser step are divided."""

    per_batch: int
    accumulation: int

    @staticmethod
    def divide(total: int, processes: int, accumulation: int) -> Streams:
        if total < 1 or accumulation < 1:
            raise ValueError(f"batch-size, accumulation: expected at least 1 of each, got {total} and {accumulation}")
        if total % (processes * accumulation):
            raise ValueError(
                f"batch-size: {total} cannot be divided into {processes} processes with {accumulation} batches each"
            )
        return Streams(total // (processes * accumulation), accumulation)


class BatchLoader:
    """Endless batches; each takes the next frame of `batch_size` streams.

    With several batches per iteration (gradient accumulation) the sampler has that many groups of streams, and the
    batches come group after group.

    Args:
        sampler: its draws are divided into batches of `batch_size`.
        workers: processes that read and augment ahead; 0 does it in this process.
    """

    def __init__(self, samples: TrainingSamples, sampler: SequenceSampler, batch_size: int, workers: int = 0):
        self._samples = samples
        self._sampler = sampler
        self._batch_size = batch_size
        self._workers = workers
        self._consumed = sampler.state()  # of the sampler after the draws of the last batch that was taken
        self._states: deque[dict[str, Any]] = deque()  # after the draws of batches that are being prepared
        self._batches = None

    @property
    def workers(self) -> int:
        return self._workers

    def take(self, count: int) -> list[Batch]:
        """The next `count` batches: all streams of the sampler, once each."""
        if self._batches is None:
            self._batches = iter(self._make_loader())
        batches = [next(self._batches) for _ in range(count)]
        self._consumed = self._states.popleft()
        return batches

    def close(self) -> None:
        """End the workers, which otherwise hold up the end of the process for seconds; `take` would start new ones."""
        self.restore(self._consumed)

    def state(self) -> dict[str, Any]:
        """Where the next batch begins, whatever has been prepared ahead."""
        return self._consumed

    def restore(self, state: dict[str, Any]) -> None:
        self._sampler.restore(state)
        self._consumed = self._sampler.state()
        self._states.clear()
        self._batches = None

    def _make_loader(self) -> DataLoader:
        if self._workers:
            # Forked workers inherit OpenCV's pool without its threads and would wait for them: end it here, before.
            cv2.setNumThreads(1)
        return DataLoader(
            self._samples,
            batch_sampler=self._draws(),
            collate_fn=collate_batches,
            num_workers=self._workers,
            worker_init_fn=_prepare_worker,
            # A generator of its own: drawing the workers' seeds must not touch the global one, which a resumed run
            # continues.
            generator=torch.Generator().manual_seed(0),
            pin_memory=torch.cuda.is_available(),
        )

    def _draws(self):
        while True:
            draws: list[Draw] = self._sampler.draw()
            self._states.append(self._sampler.state())
            for start in range(0, len(draws), self._batch_size):
                yield draws[start : start + self._batch_size]


def _prepare_worker(worker: int) -> None:
    """Several workers with several threads each would only wait for each other.

    torchrun and the terminal send signals to the whole process group, which the training process answers by saving: a
    worker in that group would die of them and take the training process down before. A worker that a scheduler
    signals by itself ends without complaint, and so does one whose training process is through with it.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.setpgrp()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def make_loader(
    data: AnnotatedFrames,
    model: Sparse4DConfig,
    training: TrainingConfig,
    streams: Streams,
    processes: Processes,
    seed: int,
    workers: int,
) -> BatchLoader:
    samples = TrainingSamples(data, model, training, seed)
    sequences = sequence_ids(data.num_earlier, training.sampling.splits_per_scene)
    per_process = streams.per_batch * streams.accumulation
    sampler = SequenceSampler(
        sequences,
        per_process,
        training.sampling,
        seed,
        processes.rank,
        processes.world_size,
        seconds=data.seconds,
    )
    return BatchLoader(samples, sampler, streams.per_batch, workers)
