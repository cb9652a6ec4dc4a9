"""What a run continues with: states as plain values of the host and back."""

from __future__ import annotations

import io

import numpy as np
import torch
from device_crossings import Crossings, DeviceTensor, to_device
from torch.utils._pytree import tree_leaves

from sparse4d_core.model_io import map_tensors, tensors_of
from sparse4d_core.network.state import CachedInstances, TemporalState
from sparse4d_core.training.objective.denoising import CarriedQueries
from sparse4d_core.training.run.run_state import pack_random_state, pack_state, unpack_random_state, unpack_state


def some_state() -> TemporalState:
    numbers = (torch.rand(2, 3, 4), torch.rand(2, 3, 11), torch.rand(2, 3))
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    cached = CachedInstances(*numbers, torch.tensor([1.5, 2.5], dtype=torch.float64), poses)
    groups = (torch.rand(2, 1, 3, 4), torch.rand(2, 1, 3, 11), torch.ones(2, 1, 3, dtype=torch.int64))
    return TemporalState(cached, noisy=CarriedQueries(*groups, groups[2] * 7, groups[2] > 0))


def test_a_state_survives_a_checkpoint():
    state, file = some_state(), io.BytesIO()
    torch.save(pack_state(state), file)
    file.seek(0)
    restored = unpack_state(torch.load(file, weights_only=True), torch.device("cpu"))
    assert type(restored.noisy) is CarriedQueries and restored.instances.ids is None
    for ours, theirs in zip(tensors_of(restored), tensors_of(state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_what_processes_send_each_other_lies_on_the_host():
    state = some_state()
    with Crossings():
        packed = pack_state(map_tensors(state, to_device))
        tensors = [leaf for leaf in tree_leaves(packed) if isinstance(leaf, torch.Tensor)]
        assert len(tensors) == len(tensors_of(state)) and not any(isinstance(t, DeviceTensor) for t in tensors)


def test_a_generator_continues_where_it_was_packed():
    one, other = np.random.RandomState(3), np.random.RandomState(4)
    one.normal(size=3)  # leaves half of a pair behind
    unpack_random_state(other, pack_random_state(one))
    np.testing.assert_array_equal(one.normal(size=5), other.normal(size=5))
