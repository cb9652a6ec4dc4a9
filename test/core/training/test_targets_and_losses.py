"""Assignment, noisy queries and losses in isolation, against recorded values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from golden_data import Golden, golden_parameters

from sparse4d_core.config import preset
from sparse4d_core.model_io import ModelOutput
from sparse4d_core.network.state import CachedInstances, TemporalState
from sparse4d_core.training.batches.targets import Targets, collate_targets
from sparse4d_core.training.objective.denoising import Draws, noisy_queries
from sparse4d_core.training.objective.frame_objective import carried_confidence
from sparse4d_core.training.objective.losses import box_losses, detection_losses, focal_loss
from sparse4d_core.training.objective.matcher import assign, class_cost, scatter_to_rows
from sparse4d_core.training.schedule import DenoisingConfig, LossConfig, MatcherConfig
from sparse4d_core.types import VZ

LOSSES = LossConfig()


def matcher_config(arguments: dict) -> MatcherConfig:
    return MatcherConfig(
        class_weight=arguments["cls_weight"],
        box_weight=arguments["box_weight"],
        cost_weights=tuple(arguments["reg_weights"]),
        class_wise_weights=tuple((int(k), tuple(v)) for k, v in (arguments["cls_wise_reg_weights"] or {}).items()),
    )


def denoising_config(arguments: dict) -> DenoisingConfig:
    return DenoisingConfig(
        arguments["num_dn_groups"],
        arguments["num_temp_dn_groups"],
        tuple(arguments["dn_noise_scale"]),
        arguments["max_dn_gt"],
        arguments["add_neg_dn"],
    )


def recorded_targets(data: Golden, tag: str) -> Targets:
    samples = range(len(data.keys(f"{tag}_gt_box")))
    labels = [data.tensor(f"{tag}_gt_label{i}") for i in samples]
    ids = [data.tensor(f"{tag}_gt_id{i}") if f"{tag}_gt_id0" in data else torch.arange(len(labels[i])) for i in samples]
    return Targets.of([data.tensor(f"{tag}_gt_box{i}") for i in samples], labels, ids)


@pytest.mark.parametrize(("file", "tag"), golden_parameters("target_losses_blocks", ["sample_a", "sample_b"]))
def test_golden_assignment(golden, file, tag):
    data = Golden(golden, file)
    config = matcher_config(data.json("constructor_args_json")[tag])
    targets = recorded_targets(data, tag)
    logits, boxes = data.tensor(f"{tag}_cls_pred"), data.tensor(f"{tag}_box_pred")
    data.check(f"{tag}_gt_encoded0", targets.boxes[0, : targets.counts[0]], atol=1e-6)
    recorded_cost = config.class_weight * class_cost(logits[0], targets.labels[0, : targets.counts[0]], LOSSES)
    data.check(f"{tag}_cls_cost0", recorded_cost, atol=1e-5)
    result = assign(logits, boxes, targets, config, LOSSES)
    data.check(f"{tag}_out_cls_target", result.classes, atol=0)
    data.check(f"{tag}_out_box_target", scatter_to_rows(targets.boxes, result.rows, logits.shape[1]), atol=1e-6)
    data.check(f"{tag}_out_reg_weights", scatter_to_rows(result.weights, result.rows, logits.shape[1]), atol=0)


@pytest.mark.parametrize(
    ("file", "tag"), golden_parameters("target_losses_blocks", ["dn_a", "dn_trunc", "dn_noneg", "dn_onegroup"])
)
def test_golden(golden, file, tag):
    data = Golden(golden, file)
    arguments = data.json("constructor_args_json")[tag]
    config = denoising_config(arguments)
    positive = data.tensor(f"{tag}_rand0")
    rest = [data.tensor(f"{tag}_rand{i}") if f"{tag}_rand{i}" in data else positive for i in (1, 2)]
    draws = Draws(positive, *rest, group_order=torch.arange(config.num_groups))
    queries = noisy_queries(recorded_targets(data, tag), config, matcher_config(arguments), draws)
    data.check(f"{tag}_out_dn_anchor", queries.anchor[..., :10], atol=1e-6, rtol=1e-6)
    assert (queries.anchor[..., 10] == 0).all()
    data.check(f"{tag}_out_dn_reg_target", queries.boxes, atol=1e-6)
    data.check(f"{tag}_out_dn_cls_target", queries.classes, atol=0)
    data.check(f"{tag}_out_dn_attn_mask", queries.attention_mask(0), atol=0)
    data.check(f"{tag}_out_dn_valid_mask", queries.valid, atol=0)
    if f"{tag}_out_dn_id_target" in data:
        data.check(f"{tag}_out_dn_id_target", queries.instance_ids, atol=0)


@pytest.mark.parametrize(("file", "tag"), golden_parameters("target_losses_blocks", ["boxloss"]))
def test_golden_box_losses(golden, file, tag):
    data = Golden(golden, file)
    arguments = data.json("constructor_args_json")[tag]
    config = replace(
        LOSSES,
        box_weight=arguments["loss_box"]["loss_weight"],
        reversible_classes=tuple(arguments["cls_allow_reverse"]),
    )
    box, quality = (data.tensor(f"boxloss_{name}").requires_grad_() for name in ("box", "quality"))
    losses = box_losses(
        box,
        data.tensor("boxloss_box_target"),
        data.tensor("boxloss_weight"),
        quality,
        data.tensor("boxloss_cls_target"),
        config,
    )
    for name, loss in losses.items():
        value = loss / 11  # the recorded average factor
        data.check(f"boxloss_out_loss_{name}_0", value, atol=1e-6, rtol=1e-5)
        gradients = torch.autograd.grad(value, (box, quality), allow_unused=True, retain_graph=True)
        for key, gradient in zip(("gradbox", "gradquality"), gradients, strict=True):
            if f"boxloss_{key}_loss_{name}_0" in data:
                gradient = torch.zeros(()) if gradient is None else gradient
                data.check(
                    f"boxloss_{key}_loss_{name}_0", gradient.expand_as(box if key == "gradbox" else quality), 1e-6
                )


@pytest.mark.parametrize(("file", "tag"), golden_parameters("target_losses_blocks", ["focal"]))
def test_golden_focal_loss(golden, file, tag):
    data = Golden(golden, file)
    logits = data.tensor("focal_pred").requires_grad_()
    loss = LOSSES.class_weight * focal_loss(logits, data.tensor("focal_target"), LOSSES) / 7  # recorded average factor
    loss.backward()
    data.check("focal_out", loss, atol=1e-5, rtol=1e-6)
    data.check("focal_grad", logits.grad, atol=1e-6)


BOX = torch.tensor([[1.0, 2, 0, 4, 2, 1.5, 0.3, 1, 0]])


def objects(count: int, **changes) -> Targets:
    values = {
        "boxes": [BOX.repeat(count, 1)],
        "labels": [torch.zeros(count, dtype=torch.int64)],
        "instance_ids": [torch.arange(count)],
    }
    return Targets.of(**{**values, **changes})


def test_no_objects_no_noisy_queries():
    assert noisy_queries(objects(0), DenoisingConfig(), MatcherConfig()) is None


@pytest.mark.parametrize("denoising", [True, False])
def test_every_batch_has_the_same_terms_and_takes_the_same_means(denoising):
    """Two processes, one of them without objects, would otherwise wait for each other's means."""
    taken, terms = [], []
    for count in (0, 2):
        targets = objects(count)
        queries = noisy_queries(targets, DenoisingConfig(), MatcherConfig()) if denoising else None
        rows = 5 + (0 if queries is None else queries.anchor.shape[1])
        layers = [torch.zeros(1, rows, 11, requires_grad=True) for _ in range(2)]
        logits = [torch.zeros(1, rows, 10, requires_grad=True) for _ in range(2)]
        quality = [torch.zeros(1, rows, 2, requires_grad=True) for _ in range(2)]
        output = ModelOutput(layers, logits, quality, layers[0], layers[0])
        means = []

        def average(value, means=means):
            means.append(value.shape)
            return value

        losses = detection_losses(
            output, targets, MatcherConfig(), LOSSES, queries, average=average, denoising=denoising
        )
        taken.append(means)
        terms.append(list(losses))
        if count == 0:
            assert all(loss.item() == 0 for name, loss in losses.items() if name not in ("cls_0", "cls_1"))
    assert taken[0] == taken[1] and len(taken[0]) == (4 if denoising else 2)
    assert terms[0] == terms[1] and ("cls_dn_1" in terms[0]) == denoising


def test_unknown_velocities_do_not_spread():
    boxes = BOX.repeat(2, 1)
    boxes[0, 7:] = float("nan")
    targets = objects(2, boxes=[boxes])
    queries = noisy_queries(targets, DenoisingConfig(), MatcherConfig())
    assert queries.anchor.isfinite().all() and queries.boxes.isfinite().all()
    result = assign(torch.zeros(1, 5, 10), torch.zeros(1, 5, 11), targets, MatcherConfig(), LOSSES)
    assert targets.boxes[0, 0].isnan().any() and (result.weights[0, 0, 8:] == 0).all()
    assert (result.weights[0, 1] == 1).all() and (result.rows[0] < 5).all()


def test_predictions_that_are_not_finite_do_not_stop_the_matching():
    boxes = torch.zeros(1, 4, 11)
    boxes[0, 0], boxes[0, 1] = float("nan"), float("inf")
    result = assign(torch.zeros(1, 4, 10), boxes, objects(2), MatcherConfig(), LOSSES)
    assert (result.classes[0, 2:] == 0).all() and (result.classes[0, :2] == 10).all()


def test_sizes_that_are_not_positive_are_refused():
    boxes = BOX.repeat(2, 1)
    boxes[1, 4] = 0
    with pytest.raises(ValueError, match="boxes: sample 0 holds sizes that are not positive"):
        objects(2, boxes=[boxes])


def test_classes_that_are_not_learned_are_refused():
    with pytest.raises(ValueError, match="labels: sample 0 holds classes that are not learned"):
        objects(2, labels=[torch.tensor([0, -1])])


def test_batch_of_targets_keeps_depth_only_if_every_sample_has_it():
    depth = [torch.ones(1, 6, 4, 4)]
    joined = collate_targets([objects(1, depth=depth), objects(2, depth=depth)])
    assert (
        joined.counts == (1, 2)
        and joined.labels.tolist() == [[0, -1], [0, 0]]
        and joined.depth[0].shape == (2, 6, 4, 4)
    )
    assert collate_targets([objects(1, depth=depth), objects(1)]).depth is None


CONTINUITY = MatcherConfig(continuity=8.0, continuity_radius=2.0)


def test_an_object_stays_with_the_instance_that_brought_it():
    """A new instance scores better, but the carried one is near: without continuity it would lose its object."""
    target = objects(1)
    boxes = torch.zeros(1, 3, 11)
    boxes[0, :, :10] = target.boxes[0]
    boxes[0, 1, 0] += 1.5  # the carried one is a little off
    logits = torch.full((1, 3, 10), -4.0)
    logits[0, 0] = 2.0
    carried = torch.tensor([[0.0, 0.9, 0.0]])
    assert assign(logits, boxes, target, MatcherConfig(), LOSSES, carried).classes[0].tolist() == [0, 10, 10]
    assert assign(logits, boxes, target, CONTINUITY, LOSSES, carried).classes[0].tolist() == [10, 0, 10]
    assert assign(logits, boxes, target, CONTINUITY, LOSSES).classes[0].tolist() == [0, 10, 10]


def test_an_instance_that_lost_sight_of_its_object_does_not_hold_it():
    target = objects(1)
    boxes = torch.zeros(1, 2, 11)
    boxes[0, :, :10] = target.boxes[0]
    boxes[0, 1, 1] += 2.5  # m: beyond the radius
    logits = torch.zeros(1, 2, 10)
    carried = torch.tensor([[0.0, 1.0]])
    assert assign(logits, boxes, target, CONTINUITY, LOSSES, carried).classes[0].tolist() == [0, 10]


def test_only_instances_of_the_same_scene_are_carried():
    config = preset("demo")
    count = config.temporal.num_instances
    cached = CachedInstances(
        feature=torch.zeros(2, count, 1),
        anchor=torch.zeros(2, count, 11),
        confidence=torch.full((2, count), 0.5),
        timestamp=torch.tensor([10.0, 10.0], dtype=torch.float64),
        T_global_from_model=torch.eye(4, dtype=torch.float64).expand(2, 4, 4),
    )
    timestamp = torch.tensor([10.5, 10.5 + config.temporal.max_interval], dtype=torch.float64)
    carried = carried_confidence(TemporalState(cached), timestamp, config)
    assert carried.shape == (2, config.num_anchors)
    assert (carried[0, :count] == 0.5).all() and (carried[0, count:] == 0).all() and (carried[1] == 0).all()
    assert carried_confidence(TemporalState(), timestamp, config) is None


def test_the_vertical_velocity_of_found_objects_is_learned_to_be_zero():
    """Of the rows with an object, in noisy queries too; the published losses do not see it."""
    torch.manual_seed(0)
    target = objects(2)
    queries = noisy_queries(target, DenoisingConfig(1, 0, negatives=False), MatcherConfig())
    anchor = torch.zeros(1, 4, 11)
    anchor[0, 1:3, :10] = target.boxes[0]
    anchor = torch.cat([anchor, queries.anchor], dim=1)
    anchor[..., VZ] = 0.7
    logits = torch.zeros(1, anchor.shape[1], 10)

    def losses(config: LossConfig, anchor: torch.Tensor):
        output = ModelOutput([anchor], [logits], [None], None, None)
        return detection_losses(output, target, MatcherConfig(), config, queries, queries)

    learned = LossConfig(vertical_velocity=2.0)
    leaf = anchor.clone().requires_grad_()
    terms = losses(learned, leaf)
    sum(terms.values()).backward()
    gradient = leaf.grad[0, :, VZ]
    assert (gradient[[0, 3]] == 0).all() and (gradient[[1, 2, 4, 5]] > 0).all()
    published, still = losses(LossConfig(), anchor), anchor.clone()
    still[..., VZ] = 0
    assert terms["box_0"].item() == pytest.approx(published["box_0"].item() + 0.25 * 2.0 * 0.7, rel=1e-5)
    assert all(torch.equal(published[name], value) for name, value in losses(LossConfig(), still).items())
