"""A Ray cluster whose hosts are processes of this machine: to try out what becomes of work when a host is gone."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import psutil

# Ray gives a host half a minute to start, too little on a machine that has other work. Read when Ray is loaded.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
from ray.cluster_utils import Cluster

SOON_DEAD = {  # settings of Ray: a host that is gone is noticed in seconds
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


@dataclass(frozen=True)
class Hosts:
    address: str
    nodes: list[Any]  # Ray's; each has one core, and the head of the cluster is none of them

    def kill(self, number: int) -> None:
        """Ends every process of a host at once, as a power cut does (kill -9)."""
        raylet = psutil.Process(self.nodes[number].all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            process.kill()


@contextmanager
def cluster_of(hosts: int) -> Iterator[Hosts]:
    """A head that runs no task, and so many hosts with a core each, whatever the machine has."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of settings of its own
    environment = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # by default Ray's workers give way to other processes, by 15
    }
    with mock.patch.dict(os.environ, environment):
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON_DEAD}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(hosts)]
            cluster.wait_for_nodes()
            yield Hosts(cluster.address, nodes)
        finally:
            cluster.shutdown()
