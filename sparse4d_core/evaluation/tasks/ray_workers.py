"""Workers on a Ray cluster: its hosts load the job, run tasks, and send results back to this process, which writes.

A task whose host or process dies is given to another one, up to RETRIES times. Ray decides where tasks run, and makes
results anew that were lost with a host. Only this file imports Ray; it is loaded where a cluster is asked for.
"""

from __future__ import annotations

import logging
import os
import pickle
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from .cluster_host import CannotStart, Setup, program, run_on_host
from .ray_address import LOCAL
from .task_run import Failure, Job, Workers

log = logging.getLogger(__name__)

RETRIES = 5  # of a task whose process or host died; its own errors are not tried again
BELONG = "this host must belong to the cluster: `ray start --head`, or `ray start --address HOST:PORT`"
QUEUED = 1000  # tasks that Ray is given at a time: enough to show a cluster that grows by need how much there is


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to."""

    device: str  # of every worker: cpu or cuda
    cpus: int  # cores of each task
    limit: int | None  # most tasks at once; None: as many as there is room for

    @classmethod
    def connect(cls, address: str, device: str = "cpu", cpus: int = 1, limit: int | None = None) -> RayCluster:
        """Connects this process to a cluster.

        Args:
            address: HOST:PORT of its head, where `check_address` found one; auto: the one that this host belongs to;
                local: a new one, of this run alone.

        Raises:
            ValueError: no cluster is there, or this host does not belong to it.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run sends nothing out unless it is asked to
        more = {"include_dashboard": False} if address == LOCAL else {}
        ray.shutdown()  # a connection of an earlier run in this process
        try:
            ray.init(address=address, logging_level="ERROR", **more)
        except (Exception, SystemExit) as error:  # Ray ends the process where it finds no cluster
            raise ValueError(f"ray: cannot work with {address}: {_sentence(error)}; {BELONG}") from error
        if device == "cuda" and not ray.cluster_resources().get("GPU"):
            log.warning("ray: the cluster at %s has no GPU; tasks wait until one joins", address)
        return cls(device, cpus, limit)

    def workers(self, job: Job, kept: str) -> Workers:
        return RayWorkers(self, job, kept)


class RayWorkers(Workers):
    def __init__(self, cluster: RayCluster, job: Job, kept: str):
        super().__init__(limit=cluster.limit or QUEUED)
        self._kept = kept
        device = "cuda:0" if cluster.device == "cuda" else cluster.device  # Ray shows a task its own GPU alone
        self._name = uuid.uuid4().hex
        setup = Setup(self._name, job, device, os.getcwd(), program(device))
        # As other processes get it: Ray's own way would give arrays that cannot be written to. In a list, where it is
        # fetched by the first task of a process and no other.
        self._setup = [ray.put(pickle.dumps(setup))]
        gpus = 1 if cluster.device == "cuda" else 0
        self._run = ray.remote(num_cpus=cluster.cpus, num_gpus=gpus, max_retries=RETRIES)(_run)

    def close(self) -> None:
        for handle in self._running:
            ray.cancel(handle, force=True)
        ray.shutdown()

    def _begin(self, task: Any) -> ray.ObjectRef:
        return self._run.remote(self._name, self._setup, task)

    def _ended(self, handles: Sequence[ray.ObjectRef]) -> Sequence[ray.ObjectRef]:
        return ray.wait(list(handles))[0]

    def _result(self, handle: ray.ObjectRef) -> Any:
        try:
            result = ray.get(handle)
        except RayTaskError as error:
            raise ChildProcessError(f"ray: a host cannot run this package: {_sentence(error)}; {self._kept}") from error
        except RayError as error:  # its process or host died again and again, memory ran out, its result is lost
            return Failure(f"{type(error).__name__}: {_sentence(error)}")
        if isinstance(result, CannotStart):
            raise ChildProcessError(f"ray: host {result.host} cannot do this work: {result.reason}; {self._kept}")
        return result


def _sentence(error: BaseException) -> str:
    """The last line of a message; Ray's begin with pages about where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _run(name: str, setup: Sequence[ray.ObjectRef], task: Any) -> Any:
    return run_on_host(name, lambda: pickle.loads(ray.get(setup[0])), task)
