"""The option --ray of commands whose tasks also run on a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from .ray_address import check_address
from .task_run import Place

RAY_OPTION = "run on this Ray cluster: auto, HOST:PORT, or local for one on this machine"
RAY_NEEDS = """\
Ray (an extra: python -m pip install -r requirements/ray.txt, on every host)
  {tasks} go to the hosts of the cluster. Results come back over the network, and this process alone writes them: no
  folder to write to is shared. Each host needs this package in the same revision, the same versions of Python, torch,
  numpy, OpenCV and Ray, and the operator built (python -m cuda_ops.build); a host that differs is refused. What is read
  must be at the same path on every host, as from a mounted bucket: {read}.
  --processes limits how many run at once (default: as many as there is room for); with cuda each takes a GPU.
  What runs on a host that dies is given to another one.
"""
MISSING = "ray: it is not installed; python -m pip install -r requirements/ray.txt"


def connect(address: str, devices: Sequence[str], limit: int | None, cpus: int = 1) -> Place:
    """The cluster, with this process connected to it.

    Args:
        devices: cpu, or any that begins with cuda: each task then has a GPU of its own.
        limit: most tasks at once; None: as many as there is room for.
        cpus: cores that a task takes of the cluster.

    Raises:
        ValueError: no cluster answers, Ray is not installed, or the devices are of several kinds.
    """
    check_address(address)
    kinds = {device.partition(":")[0] for device in devices}
    if len(kinds) > 1:
        raise ValueError(f"devices: expected one kind with --ray, got {' '.join(devices)}")
    try:
        from .ray_workers import RayCluster  # an extra
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError(MISSING) from error
    return RayCluster.connect(address, kinds.pop(), cpus, limit)
