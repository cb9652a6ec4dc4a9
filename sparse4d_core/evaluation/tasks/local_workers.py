"""Workers in this process, or in processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import cv2

from .task_run import Job, Worker, Workers, run_task

AHEAD = 2  # tasks a process that are handed over: the next one begins while a result is written


@dataclass(frozen=True)
class ThisMachine:
    """Processes here."""

    devices: Sequence[str]  # that processes take in turns: cpu, cuda:0 ...
    processes: int  # 1: the running one

    def workers(self, job: Job, kept: str) -> Workers:
        if self.processes == 1:
            return ThisProcess(job, self.devices[0])
        return Processes(job, self.devices, self.processes, kept)


class ThisProcess(Workers):
    """Runs a task when its result is asked for; the worker starts with the first one."""

    def __init__(self, job: Job, device: str):
        super().__init__(limit=1)
        self._job, self._device = job, device
        self._worker: Worker | None = None

    def close(self) -> None:
        self._worker = None

    def _begin(self, task: Any) -> Future:
        if self._worker is None:
            self._worker = self._job.start(self._device)
        future: Future = Future()
        future.set_result(run_task(self._worker, task))
        return future

    def _ended(self, handles: Sequence[Future]) -> Sequence[Future]:
        return handles

    def _result(self, handle: Future) -> Any:
        return handle.result()


class Processes(Workers):
    """Processes of their own, each with a worker."""

    def __init__(self, job: Job, devices: Sequence[str], processes: int, kept: str):
        super().__init__(limit=AHEAD * processes)
        self._processes, self._kept = processes, kept
        context = multiprocessing.get_context("spawn")  # CUDA and OpenCV's threads do not live through a fork
        queue = context.Queue()
        for number in range(processes):
            queue.put(devices[number % len(devices)])
        self._pool = ProcessPoolExecutor(processes, context, _start, (job, queue))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, task: Any) -> Future:
        try:
            return self._pool.submit(_run, task)
        except BrokenProcessPool as error:
            raise self._died() from error

    def _ended(self, handles: Sequence[Future]) -> Sequence[Future]:
        done = wait(handles, return_when=FIRST_COMPLETED).done
        return [handle for handle in handles if handle in done]

    def _result(self, handle: Future) -> Any:
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise self._died() from error

    def _died(self) -> ChildProcessError:
        return ChildProcessError(
            f"processes: one of {self._processes} died (out of memory, killed, or a device that cannot be used); "
            f"{self._kept}, perhaps with fewer --processes"
        )


_worker: Worker | None = None  # of a child process


def _start(job: Job, devices: Any) -> None:
    global _worker
    cv2.setNumThreads(1)
    _worker = job.start(devices.get())


def _run(task: Any) -> Any:
    return run_task(_worker, task)
