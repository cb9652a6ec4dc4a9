"""Whole training steps against the recorded ones: every loss, every assignment, every gradient norm."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from golden.double_precision import float64_throughout, in_float64
from golden_data import Golden, golden_parameters
from golden_sequence import generated_weights, recorded_input

from sparse4d_core.checkpoint.reference_names import to_reference
from sparse4d_core.config import Sparse4DConfig, preset
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training.batches.batch import PastInput
from sparse4d_core.training.batches.targets import Targets
from sparse4d_core.training.objective.denoising import Draws, NoisyQueries
from sparse4d_core.training.objective.frame_objective import ForwardResult, TrainingObjective
from sparse4d_core.training.objective.matcher import assign, scatter_to_rows
from sparse4d_core.training.schedule import training_config

# The gradient of an L1 distance is a sign, and that of a ReLU is there or not: where a coordinate lies within a
# rounding of its target, or a ReLU's input of zero, another order of summation gives the other one.
pytestmark = pytest.mark.usefixtures("one_thread")

LOSS, GRADIENT, GRADIENT_FLOOR = 1e-4, 2e-3, 1e-4  # relative; the floor is relative to the largest norm
QUERIES, BOXES = 1e-5, 1e-3
# Arrays of a file that float64 may have to decide on (seen: none on an AMD EPYC, one on an Intel Xeon); a fault of ours
# would be in most of them.
MOST_ARBITRATED = 2

PRESETS = {"losses_v3": "v3_r50", "losses_v2": "v2_r50", "losses_v1_H1": "v1_r101_t1", "losses_v1_H4": "v1_r101_t4"}
CASES = [parameter for file in PRESETS for parameter in golden_parameters(file, ["step"])]


def without_dropout(config: Sparse4DConfig) -> Sparse4DConfig:
    aggregation = replace(config.aggregation, attention_drop=0.0, output_drop=0.0)
    return replace(config, aggregation=aggregation, attention_drop=0.0, ffn_drop=0.0)


def recorded_objective(data: Golden) -> TrainingObjective:
    name = PRESETS[data.name]
    config = replace(without_dropout(preset(name)), num_anchors=len(data["anchor"]))
    if config.temporal is not None:
        config = replace(config, temporal=replace(config.temporal, num_instances=int(data["num_temp_instances"])))
    model = Sparse4D(config, scene_reset="reference")
    generated_weights(model, int(data["weight_seed"]), data["anchor"])
    return TrainingObjective(model.train(), training_config(name))


def recorded_targets(data: Golden, frame: int) -> Targets:
    samples = range(len(data["timestamp"][frame]))

    def of(name: str) -> list[torch.Tensor]:
        return [data.tensor(f"f{frame}_b{b}_{name}") for b in samples]

    levels = data.keys(f"f{frame}_gt_depth")
    depth = [data.tensor(f"f{frame}_gt_depth{level}") for level in range(len(levels))] or None
    return Targets.of(of("gt_bboxes_3d"), of("gt_labels_3d"), of("instance_id"), depth)


def recorded_draws(data: Golden, frame: int) -> Draws | None:
    if f"f{frame}_rand0" not in data:
        return None
    return Draws(*(data.tensor(f"f{frame}_{name}") for name in ("rand0", "rand1", "rand2", "randperm")))


@pytest.mark.slow
@pytest.mark.parametrize(("file", "case"), CASES)
def test_golden(golden, file, case):
    data = Golden(golden, file)
    objective = recorded_objective(data)
    config = objective.model.config
    exact, arbitrated = functools.cache(functools.partial(exact_gradients, data)), 0
    for frame, targets, result in steps(data, objective):
        check_noisy_queries(data, f"f{frame}_", result, config.num_anchors)
        check_outputs(data, f"f{frame}_", result, config)
        check_assignments(data, f"f{frame}_", result, targets, objective)
        check_losses(data, f"f{frame}_", result)
        arbitrated += check_gradients(data, f"f{frame}_", objective.model, functools.partial(exact, frame))
    assert arbitrated <= MOST_ARBITRATED


def steps(
    data: Golden,
    objective: TrainingObjective,
    number: Callable[[Any], Any] = lambda value: value,
    gradients_of: int | None = None,
) -> Iterator[tuple[int, Targets, ForwardResult]]:
    """The recorded steps, each with its gradients in the model; `number` is applied to all that goes in.

    gradients_of: the only step whose gradients are computed; None: every one.
    """
    config = objective.model.config
    state = None
    for frame in sorted(int(key[1:].split("_")[0]) for key in data if key.endswith("_loss_total")):
        history = ()
        if config.history is not None:
            history = [PastInput(number(recorded_input(data, past, config))) for past in reversed(range(frame))]
        objective.zero_grad()
        inputs, targets = number(recorded_input(data, frame, config)), number(recorded_targets(data, frame))
        wanted = gradients_of in (None, frame)
        with torch.set_grad_enabled(wanted):
            result = objective(inputs, targets, state, history, draws=number(recorded_draws(data, frame)))
        if wanted:
            torch.stack(list(result.losses.values())).sum().backward()
        state = result.state
        yield frame, targets, result


def exact_gradients(data: Golden, frame: int) -> dict[str, torch.Tensor]:
    """Of all parameters in that step, computed in float64; by the reference's names."""
    objective = recorded_objective(data).double()
    objective.model.use_plain_operations()
    with float64_throughout():
        for number, _, _ in steps(data, objective, in_float64, gradients_of=frame):
            if number == frame:
                return reference_gradients(objective.model)
    raise ValueError(f"frame: {data.name} has no loss of frame {frame}")


def check_or_arbitrate(
    data: Golden, key: str, actual: np.ndarray, atol: float, rtol: float, exact: Callable[[], np.ndarray]
) -> bool:
    """Against the recording; where a sign or a ReLU went the other way there, float64 tells which of the two is right.

    We must then be as near to the exact numbers as we would have had to be to the recorded ones, and these must be near
    enough to them for one that went the other way: twice that. Returns whether float64 was needed.
    """
    try:
        data.check(key, actual, atol, rtol)
        return False
    except AssertionError:
        truth = np.asarray(exact(), np.float64)
        allowed = atol + rtol * np.abs(truth)
        assert (np.abs(actual - truth) <= allowed).all(), f"{key}: neither as recorded nor as in float64"
        assert (np.abs(data[key] - truth) <= 2 * allowed).all(), f"{key}: the recording is of something else"
        return True


def check_losses(data: Golden, key: str, result: ForwardResult) -> None:
    box_name = "box" if any(name.startswith(f"{key}loss__loss_box") for name in data) else "reg"
    recorded = {name.removeprefix(f"{key}loss__loss_") for name in data.keys(f"{key}loss__")}
    named = {name.replace("box_", f"{box_name}_", 1): loss for name, loss in result.losses.items()}
    assert named.keys() == recorded
    for name, loss in named.items():
        data.check(f"{key}loss__loss_{name}", loss, atol=1e-6, rtol=LOSS)
    data.check(f"{key}loss_total", torch.stack(list(named.values())).sum(), atol=0, rtol=LOSS)


def check_outputs(data: Golden, key: str, result: ForwardResult, config: Sparse4DConfig) -> None:
    rows = config.num_anchors
    output = result.output
    data.check(f"{key}out_classification", torch.stack([c[:, :rows] for c in output.class_logits], 1), BOXES)
    data.check(f"{key}out_prediction", torch.stack([a[:, :rows] for a in output.anchors], 1), BOXES)
    if f"{key}out_quality" in data:
        data.check(f"{key}out_quality", torch.stack([q[:, :rows] for q in output.quality], 1), BOXES)
    if f"{key}out_dn_prediction" in data:
        data.check(f"{key}out_dn_classification", torch.stack([c[:, rows:] for c in output.class_logits], 1), BOXES)
        data.check(f"{key}out_dn_prediction", torch.stack([a[:, rows:] for a in output.anchors], 1), BOXES)


def check_assignments(data: Golden, key: str, result: ForwardResult, targets: Targets, objective: TrainingObjective):
    rows = objective.model.config.num_anchors
    for layer, (logits, anchor) in enumerate(zip(result.output.class_logits, result.output.anchors, strict=True)):
        found = assign(logits[:, :rows], anchor[:, :rows], targets, objective.config.matcher, objective.config.losses)
        data.check(f"{key}sample{layer}_cls_target", found.classes, 0)
        data.check(f"{key}sample{layer}_reg_target", scatter_to_rows(targets.boxes, found.rows, rows), QUERIES)
        data.check(f"{key}sample{layer}_reg_weights", scatter_to_rows(found.weights, found.rows, rows), 0)


def check_noisy_queries(data: Golden, key: str, result: ForwardResult, rows: int) -> None:
    if result.queries is None:
        assert not data.keys(f"{key}dn_")
        return
    made, merged = result.queries, result.output.noisy
    data.check(f"{key}dn_anchor", made.anchor[..., :10], QUERIES, QUERIES)
    data.check(f"{key}dn_attn_mask", made.attention_mask(0), 0)
    check_query_targets(data, f"{key}dn_", made)
    check_query_targets(data, f"{key}temp_dn_", merged)


def check_query_targets(data: Golden, key: str, queries: NoisyQueries) -> None:
    data.check(f"{key}reg_target", queries.boxes, QUERIES)
    data.check(f"{key}cls_target", queries.classes, 0)
    data.check(f"{key}valid_mask", queries.valid, 0)
    data.check(f"{key}id_target", queries.instance_ids, 0)


def reference_gradients(model: Sparse4D) -> dict[str, torch.Tensor]:
    """By the reference's names; empty where a parameter has none."""
    named = {name: torch.zeros(0) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return to_reference(named, model.config)


def check_gradients(data: Golden, key: str, model: Sparse4D, exact: Callable[[], dict[str, torch.Tensor]]) -> int:
    """How many arrays float64 had to decide on."""
    theirs = reference_gradients(model)
    recorded = [str(name) for name in data[f"{key}grad_names"]]
    floor = GRADIENT_FLOOR * float(data[f"{key}grad_norms"].max())

    def norms(gradients: dict[str, torch.Tensor]) -> np.ndarray:
        return np.array([float(gradients[name].norm()) for name in recorded])

    arbitrated = check_or_arbitrate(data, f"{key}grad_norms", norms(theirs), floor, GRADIENT, lambda: norms(exact()))
    without = {str(name) for name in data[f"{key}params_without_grad"]} & theirs.keys()
    assert all(theirs[name].numel() == 0 or not theirs[name].any() for name in without)
    for full in data.keys(f"{key}grad__"):
        name, scale = full.removeprefix(f"{key}grad__"), np.abs(data[full]).max()
        floor = GRADIENT * scale + GRADIENT_FLOOR
        arbitrated += check_or_arbitrate(
            data, full, theirs[name].numpy(), floor, 0.0, lambda name=name: exact()[name].numpy()
        )
    for name in ("running_mean", "running_var"):
        if f"{key}buf_after__img_backbone.bn1.{name}" in data:
            data.check(
                f"{key}buf_after__img_backbone.bn1.{name}", model.state_dict()[f"backbone.bn1.{name}"], 1e-5, 1e-4
            )
    return arbitrated
