"""What would quietly make a training differ from the published one, and what to do about it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import Sparse4DConfig, preset
from .batches.loader import Streams
from .run_record import differences
from .schedule import TrainingConfig, training_config


@dataclass(frozen=True)
class Plan:
    """What a run is about to do, as far as the publication says how it has to be."""

    name: str  # of the preset
    model: Sparse4DConfig
    training: TrainingConfig
    version: str  # folder of the tables
    split: str | None
    backbone: pathlib.Path | None
    init: pathlib.Path | None
    anchors: pathlib.Path | None
    precision: str
    streams: Streams


def check_published(plan: Plan) -> None:
    """Refuse a run that would not be the published training of its preset.

    Raises:
        ValueError: naming everything that differs, each with what to give instead.
    """
    if found := list(_deviations(plan)):
        raise ValueError(f"recipe: this would not train {plan.name} as it was published: {'; '.join(found)}")


def _deviations(plan: Plan) -> Iterator[str]:
    model, published = preset(plan.name), training_config(plan.name)
    if published.assumptions or model.published.split not in ("val", "test"):
        yield f"no training was published for {plan.name}; leave --recipe away"
        return
    if (plan.version, plan.split) != ("v1.0-trainval", "train"):
        given = f"--version {plan.version}" + (f" --split {plan.split}" if plan.split else " without --split")
        yield f"give --version v1.0-trainval --split train, not {given}, which has other scenes"
    if plan.init is not None:
        yield "leave --init away: published models did not start from a trained one"
    elif plan.backbone is None:
        yield f"give --backbone FILE with the weights it started from ({published.initial_backbone})"
    if plan.anchors is None:
        yield "give --anchors FILE, made of the same data by python -m sparse4d_core.data.anchors"
    if plan.precision != "float16":
        yield f"give --precision float16, not {plan.precision}"
    at_a_time = published.schedule.samples_per_process
    if plan.streams.per_batch != at_a_time:
        yield (
            f"a process takes {plan.streams.per_batch} samples at a time, over which batch norms are computed, instead "
            f"of {at_a_time}; choose processes and --accumulation so that their product is "
            f"{published.schedule.batch_size // at_a_time}"
        )
    yield from differences(model, plan.model, "preset", "as published")
    yield from differences(published, plan.training, "training", "as published")
