"""The processes of a run: one, or those that torchrun started."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ...inference.pipeline import refusing_device


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes, without gradient."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.world_size

    def averaging_gradients(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are those of all processes together; itself where there is one."""
        if self.world_size == 1:
            return module
        with warnings.catch_warnings():  # the name that will follow does something else so far (torch 2.13)
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            return DistributedDataParallel(
                module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,  # they are not copied to and fro
            )

    def any(self, condition: bool) -> bool:
        """Whether it holds in any process."""
        if self.world_size == 1:
            return condition
        return bool(self.average(torch.tensor(float(condition), device=self.device)) > 0)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks. All have it: a process that only sent its own could end, and
        take its connections away, before the others are done with theirs."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first process's value. Hosts of a run share the network, but perhaps no folder."""
        if self.world_size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def check_same(self, **facts: str) -> None:
        """Refuses in all processes what is not the same in all of them: gradients of different runs would be averaged.

        Raises:
            ValueError: names the fact, the first process that differs, and both values.
        """
        ours, *others = self.gather(facts)
        for rank, theirs in enumerate(others, 1):
            for name, value in ours.items():
                if theirs[name] != value:
                    raise ValueError(
                        f"{name}: process {rank} has {theirs[name]}, process 0 has {value}; every process of a run, on "
                        "whatever host, needs the same"
                    )


def start_processes(device: str) -> Processes:
    """Join the group that torchrun describes in the environment; alone without one.

    Raises:
        ValueError: for a device that is not there.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    with refusing_device(device):
        chosen = torch.device(device)
        on_gpu = chosen.type == "cuda"
        if on_gpu and world_size > 1:
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        torch.empty(0, device=chosen)
    if world_size == 1:
        return Processes(device=chosen)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    return Processes(distributed.get_rank(), world_size, chosen)
