"""Values of tensors: one walk over them, for copies, moves and lists."""

from __future__ import annotations

import torch

from sparse4d_core.model_io import ModelInput, map_tensors, tensors_of
from sparse4d_core.network.aggregation import CameraFeatures
from sparse4d_core.network.state import CachedInstances, PastFrame, TemporalState


def numbered() -> TemporalState:
    """A state whose tensors hold 0, 1, 2, ... in the order of its fields."""
    numbers = iter(range(100))

    def tensor() -> torch.Tensor:
        return torch.tensor([float(next(numbers))])

    instances = CachedInstances(tensor(), tensor(), tensor(), tensor(), tensor())  # without ids
    next_id = tensor()
    cameras = CameraFeatures([tensor(), tensor()], tensor(), tensor())
    return TemporalState(instances, next_id, (PastFrame(cameras, tensor(), tensor()),))


def test_every_tensor_is_visited_once_and_in_one_order():
    state, visited = numbered(), []

    def negative(tensor: torch.Tensor) -> torch.Tensor:
        visited.append(float(tensor))
        return -tensor

    changed = map_tensors(state, negative)
    assert visited == [float(tensor) for tensor in tensors_of(state)] == list(range(12))
    assert [float(tensor) for tensor in tensors_of(changed)] == [-number for number in visited]
    assert changed.instances.ids is None and isinstance(changed.history, tuple)
    assert [float(tensor) for tensor in tensors_of(state)] == visited, "the old value stays"


def test_an_input_moves_whole():
    inputs = ModelInput(*(torch.zeros(1) for _ in range(5)))
    moved = inputs.to("meta", non_blocking=True)
    assert [tensor.device.type for tensor in tensors_of(moved)] == ["meta"] * 5
    assert moved.focal is None
    assert len(tensors_of(inputs)) == 5 and tensors_of(inputs)[0].device.type == "cpu"
