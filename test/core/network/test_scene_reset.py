"""What of an old scene reaches the new one: with clean resets nothing, sample by sample."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparse4d_core.config import BackboneConfig, HistoryConfig, Sparse4DConfig, preset
from sparse4d_core.model_io import ModelInput
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState

GAP = 5.0  # s, above the limit


def small(name: str) -> Sparse4DConfig:
    config = preset(name)
    changes: dict = {"backbone": BackboneConfig(depth=18, base_width=8), "num_anchors": 40, "num_decoder_layers": 3}
    if config.temporal is not None:
        changes["temporal"] = replace(config.temporal, num_instances=24)
    if config.history is not None:
        changes["history"] = HistoryConfig(num_frames=2)
    return replace(config, **changes)


def make_model(name: str, scene_reset: str) -> Sparse4D:
    """Random weights everywhere, so that every path carries a signal."""
    torch.manual_seed(0)
    model = Sparse4D(small(name), scene_reset).eval()
    for parameter in model.decoder.layers.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def frame_of(seconds: list[float], seed: int) -> ModelInput:
    generator = torch.Generator().manual_seed(seed)
    batch, cameras, size = len(seconds), 6, 64
    K = torch.tensor([[50.0, 0, 32, 0], [0, 50, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turns = torch.arange(cameras) * (torch.pi / 3)
    T = torch.zeros(cameras, 4, 4)
    T[:, 0, 0], T[:, 0, 1], T[:, 2, 0], T[:, 2, 1] = turns.sin(), -turns.cos(), turns.cos(), turns.sin()
    T[:, 1, 2], T[:, 3, 3] = -1, 1
    return ModelInput(
        torch.randn(batch, cameras, 3, size, size, generator=generator),
        (K @ T).expand(batch, -1, -1, -1),
        torch.full((batch, cameras, 2), float(size)),
        torch.tensor(seconds, dtype=torch.float64),
        torch.eye(4, dtype=torch.float64).expand(batch, -1, -1),
    )


def poisoned(state: TemporalState, sample: int) -> TemporalState:
    """The same state with NaN in everything that one sample remembers (ids excepted)."""

    def poison(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[sample] = float("nan")
        return value

    if state.instances is not None:
        names = ("feature", "anchor", "confidence", "T_global_from_model")
        return replace(
            state, instances=replace(state.instances, **{n: poison(getattr(state.instances, n)) for n in names})
        )
    history = tuple(
        replace(past, cameras=replace(past.cameras, maps=[poison(m) for m in past.cameras.maps]))
        for past in state.history
    )
    return replace(state, history=history)


@pytest.mark.parametrize("name", ["v3_r50", "v2_r50", "v1_r101_t4"])
@torch.inference_mode()
def test_clean_reset_passes_no_information(name):
    """Sample 1 changes the scene, sample 0 goes on: what sample 1 remembered must not matter, not even as NaN."""
    model = make_model(name, "clean")
    _, state = model(frame_of([0.0, 0.0], seed=1))
    inputs = frame_of([0.5, GAP], seed=2)
    output, _ = model(inputs, state)
    other, new_state = model(inputs, poisoned(state, sample=1))
    torch.testing.assert_close(other.anchors[-1], output.anchors[-1], rtol=0, atol=0)
    torch.testing.assert_close(other.class_logits[-1], output.class_logits[-1], rtol=0, atol=0)

    first, _ = model(inputs, None)
    torch.testing.assert_close(output.anchors[-1][1], first.anchors[-1][1], rtol=1e-4, atol=1e-4)
    assert (output.anchors[-1][0] - first.anchors[-1][0]).abs().max() > 1e-3, "sample 0 should have remembered"
    following, _ = model(frame_of([1.0, GAP + 0.5], seed=3), new_state)
    assert following.anchors[-1].isfinite().all()


@pytest.mark.parametrize("name", ["v3_r50", "v2_r50", "v1_r101_t4"])
@torch.inference_mode()
def test_reference_reset_lets_the_old_scene_through(name):
    """The published behaviour, which published scores were made with."""
    model = make_model(name, "reference")
    _, state = model(frame_of([0.0], seed=1))
    inputs = frame_of([GAP], seed=2)
    output, _ = model(inputs, state)
    first, _ = model(inputs, None)
    assert (output.anchors[-1] - first.anchors[-1]).abs().max() > 1e-3


@torch.inference_mode()
def test_ids_are_never_given_twice_across_scenes():
    model = make_model("v3_r50", "clean")
    first, state = model(frame_of([0.0], seed=1))
    second, _ = model(frame_of([GAP], seed=2), state)
    assert not set(first.instance_ids.flatten().tolist()) & set(second.instance_ids.flatten().tolist())


@torch.inference_mode()
def test_state_is_a_value():
    """The same state gives the same frame twice; the model keeps nothing."""
    model = make_model("v3_r50", "reference")
    _, state = model(frame_of([0.0, 0.0], seed=1))
    a, _ = model(frame_of([0.5, 0.5], seed=2), state)
    b, _ = model(frame_of([0.5, 0.5], seed=2), state.detach().to("cpu"))
    torch.testing.assert_close(a.anchors[-1], b.anchors[-1], rtol=0, atol=0)
    assert torch.equal(a.instance_ids, b.instance_ids)


@torch.inference_mode()
def test_another_batch_size_starts_again():
    model = make_model("v3_r50", "reference")
    _, state = model(frame_of([0.0, 0.0], seed=1))
    inputs = frame_of([0.5], seed=2)
    output, _ = model(inputs, state)
    first, _ = model(inputs)
    assert torch.equal(output.anchors[-1], first.anchors[-1])
    assert torch.equal(output.instance_ids, first.instance_ids)


def test_unknown_scene_reset_is_refused():
    with pytest.raises(ValueError, match="scene_reset: expected 'reference' or 'clean', got 'never'"):
        Sparse4D(small("v3_r50"), "never")
