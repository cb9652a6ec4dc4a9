"""Tasks through workers that keep what they have loaded: each task is done once, results come as they are ready.

    with place.workers(job, kept) as workers:
        workers.submit(task)                       # as many as there are, also while results come
        for task, result in workers.finished():
            ...                                    # a result, or the Failure of this task alone

A job makes workers, and a worker runs tasks one after the other. Where workers live, in processes of this machine
(`local_workers.py`) or on a Ray cluster (`ray_workers.py`), changes nothing of a result; all files are written by the
process that collects the results.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger(__name__)

OF_THE_INPUT = (ValueError, LookupError, OSError)  # errors that a task's input or host explains


class Worker(Protocol):
    def run(self, task: Any) -> Any:
        """The result of one task; task and result travel by pickle."""


class Job(Protocol):
    """All that workers are made of; travels to them by pickle."""

    def start(self, device: str) -> Worker:
        """Loads the model; an error here ends the whole run."""


@dataclass(frozen=True)
class Failure:
    """What became of a task that raised, or whose process died."""

    reason: str  # kind of error and its text


class UnfinishedError(OSError):
    """Some tasks could not be done; the results of the others are kept."""


def run_task(worker: Worker, task: Any) -> Any:
    """What the worker gives for the task, or the Failure that it ended with."""
    try:
        return worker.run(task)
    except Exception as error:
        if not isinstance(error, OF_THE_INPUT):
            log.exception("a task ended with an error that its input does not explain")
        return Failure(f"{type(error).__name__}: {error}")


class Workers(ABC):
    """Workers of one job, wherever they live.

    Args:
        limit: tasks that are handed over to the workers at a time; the others wait here.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._waiting: deque[Any] = deque()
        self._running: dict[Hashable, Any] = {}  # handle -> its task

    def submit(self, task: Any) -> None:
        self._waiting.append(task)

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """(task, its result or Failure) in whatever order they end, until no task is left.

        Raises:
            ChildProcessError: workers died or cannot start, so that nothing can go on.
        """
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._limit:
                task = self._waiting.popleft()
                self._running[self._begin(task)] = task
            for handle in self._ended(list(self._running)):
                yield self._running.pop(handle), self._result(handle)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Gives up what is still running."""

    @abstractmethod
    def _begin(self, task: Any) -> Hashable:
        """Hands a task to the workers; returns the handle of its result."""

    @abstractmethod
    def _ended(self, handles: Sequence[Hashable]) -> Sequence[Hashable]:
        """Waits for at least one of them; returns those that ended."""

    @abstractmethod
    def _result(self, handle: Hashable) -> Any:
        """Of a handle that ended."""


class Place(Protocol):
    def workers(self, job: Job, kept: str) -> Workers:
        """Workers for the job.

        Args:
            kept: where results are and how to go on, for the message of an error that ends the run.
        """
