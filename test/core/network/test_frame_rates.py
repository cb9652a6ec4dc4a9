"""A memory that works alike at any frame rate, beside the published one that counts frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparse4d_core.config import TemporalConfig
from sparse4d_core.model_io import ModelInput
from sparse4d_core.network.instance_memory import decayed_confidence, recall
from sparse4d_core.network.state import CachedInstances, TemporalState

PUBLISHED = TemporalConfig(num_instances=3)
ANY_RATE = replace(PUBLISHED, rate_invariant=True)
CONFIDENCE = torch.tensor([[0.9, 0.5, 0.2]])


def recalled(config: TemporalConfig, seconds: float):
    pose, empty = torch.eye(4, dtype=torch.float64)[None], torch.empty(0)
    then, now = (torch.tensor([100.0 + s], dtype=torch.float64) for s in (0.0, seconds))
    cached = CachedInstances(torch.zeros(1, 3, 4), torch.zeros(1, 3, 11), CONFIDENCE, then, pose)
    return recall(TemporalState(cached), ModelInput(empty, empty, empty, now, pose), config)


def kept(config: TemporalConfig, seconds: float) -> torch.Tensor:
    """What is left of the confidences where the frame itself finds nothing."""
    return decayed_confidence(recalled(config, seconds), torch.full((1, 5, 10), -20.0))[:, :3]


@pytest.mark.parametrize("rate", [2, 5, 10, 20])
def test_what_is_not_seen_is_forgotten_as_fast_at_any_rate(rate):
    share = torch.ones(())
    for _ in range(rate):
        share = share * (kept(ANY_RATE, 1 / rate) / CONFIDENCE)[0, 0]
    assert share.item() == pytest.approx(0.6**2, rel=1e-4)  # after a second


@pytest.mark.parametrize("rate", [2, 10])
def test_published_models_forget_by_the_frame(rate):
    torch.testing.assert_close(kept(PUBLISHED, 1 / rate), 0.6 * CONFIDENCE)


@pytest.mark.parametrize(("config", "expected"), [(ANY_RATE, 0.5), (PUBLISHED, 0.1)])
def test_the_interval_that_velocities_are_corrected_over(config, expected):
    assert recalled(config, 0.1).time_interval.item() == pytest.approx(expected, rel=1e-4)


def test_at_the_rate_of_the_published_training_both_are_the_same():
    one, other = recalled(ANY_RATE, 0.5), recalled(PUBLISHED, 0.5)
    assert torch.equal(one.time_interval, other.time_interval)
    assert torch.equal(kept(ANY_RATE, 0.5), kept(PUBLISHED, 0.5))
