"""Whole detectors over recorded sequences, on the operator's path and on the grid-sample path."""

from __future__ import annotations

import functools
import pathlib
import re

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters
from golden_sequence import (
    SEQUENCES,
    Alignment,
    match_rows,
    near_ties,
    num_frames,
    recorded_config,
    recorded_input,
    recorded_model,
)

from sparse4d_core.inference.decode import best_of, detections_of
from sparse4d_core.model_io import ModelInput, ModelOutput
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState
from sparse4d_core.types import Detections

BOXES, LOGITS, SCORES = 1e-3, 1e-3, 5e-5  # tolerances recommended in the golden README, section 6
FEATURES = 1e-4

RUNS = [
    pytest.param(*parameter.values, id=parameter.id, marks=[pytest.mark.slow] if "full" in file else [])
    for file in SEQUENCES
    for parameter in golden_parameters(file, ["default"] + ["grid_sample"] * ("v1" not in file))
]


@pytest.mark.parametrize(("file", "path"), RUNS)
def test_golden(golden, file, path):
    data = Golden(golden, file)
    prefix, sampling = ("gs_", "grid_sample") if path == "grid_sample" else ("", None)
    if f"{prefix}f0_raw_cls_last" not in data:
        pytest.skip(f"the folder's file does not hold this case: {path}")
    check = SequenceCheck(data, prefix)
    for frame, inputs, features, output, old, new in run(data, sampling):
        if not prefix:
            check.features(frame, features)
        check.frame(frame, output, old, new, inputs.timestamp)
    check.nothing_left_out()


def run(data: Golden, sampling: str | None):
    """Frame by frame: number, input, feature maps, output, state before and after."""
    model = recorded(data.folder, data.name, sampling)
    state = None
    for frame, (inputs, features) in enumerate(encoded(data.folder, data.name)):
        with torch.inference_mode():
            output, new_state = model.decode_features(features, inputs, state)
            yield frame, inputs, features, output, state, new_state
        state = new_state


@functools.lru_cache(maxsize=1)
def recorded(folder: pathlib.Path, file: str, sampling: str | None) -> Sparse4D:
    """The recording's detector. Its weights take seconds to generate; `run` and `encoded` want the same one."""
    return recorded_model(Golden(folder, file), sampling)


@functools.lru_cache(maxsize=1)
def encoded(folder: pathlib.Path, file: str) -> list[tuple[ModelInput, list[torch.Tensor]]]:
    """Input and feature maps of every frame. Both paths begin with them, and they are most of the work."""
    data, model = Golden(folder, file), recorded(folder, file, None)
    inputs = [recorded_input(data, frame, model.config) for frame in range(num_frames(data))]
    with torch.inference_mode():
        return [(one, model.image_features(one.images)) for one in inputs]


class SequenceCheck:
    """Compares one run with the record, frame by frame."""

    def __init__(self, data: Golden, prefix: str):
        self.data, self.prefix = data, prefix
        self.alignment = Alignment.of(data)

    def frame(self, frame: int, output: ModelOutput, old: TemporalState | None, new: TemporalState, timestamp) -> None:
        key = f"{self.prefix}f{frame}_"
        config = recorded_config(self.data)
        detections = detections_of(best_of(output, config), config.score_threshold)
        orders = [self.row_order(key, b, output, old, timestamp) for b in range(len(detections))]
        self.raw(key, output, np.stack(orders))
        for b, found in enumerate(detections):
            self.detections(f"{key}b{b}_", found)
        if f"{key}bank_confidence" in self.data:
            self.bank(key, new)
        if f"{key}bank_mask" in self.data:
            gap = (timestamp - old.instances.timestamp).abs()
            self.data.check(f"{key}bank_mask", gap <= 2, 0)
        if self.prefix and f"f{frame}_bank_cached_feature_mean" in self.data:
            self.cached_features(f"f{frame}_bank_cached_feature_", new)

    def row_order(self, key: str, b: int, output: ModelOutput, old: TemporalState | None, timestamp) -> np.ndarray:
        """Our row for every recorded row of sample b, after the take-up of cached instances."""
        cached = None
        if old is not None and old.instances is not None and abs(timestamp[b] - old.instances.timestamp[b]) <= 2:
            cached = old.instances.confidence[b]
        runs = self.alignment.rows(cached, None if cached is None else output.class_logits[0][b])
        order = match_rows(output.class_logits[-1][b].numpy(), self.data[f"{key}raw_cls_last"][b], runs)
        if cached is not None and output.instance_ids is not None:
            self.alignment.exchange_new_ids(output.instance_ids[b].numpy(), order, len(cached))
        return order

    def raw(self, key: str, output: ModelOutput, order: np.ndarray) -> None:
        rows = np.arange(len(order))[:, None], order

        def check(name: str, value, tolerance: float) -> None:
            if f"{key}{name}" in self.data:
                self.data.check(f"{key}{name}", value, tolerance)

        check("raw_cls_last", output.class_logits[-1].numpy()[rows], LOGITS)
        if output.class_logits[0] is not None:
            check("raw_cls_first", output.class_logits[0], LOGITS)
        if output.quality[-1] is not None:
            check("raw_quality_first", output.quality[0], LOGITS)
            check("raw_quality_last", output.quality[-1].numpy()[rows], LOGITS)
        anchors = [output.anchors[0].numpy()] + [a.numpy()[rows] for a in output.anchors[1:]]
        check("raw_anchor_all", np.stack(anchors, axis=1), BOXES)
        check("time_interval", output.time_interval, 1e-6)
        if f"{key}raw_instance_id" in self.data:
            # Ids of cached rows move with them; new ids count rows.
            ids = output.instance_ids.numpy()
            cached = int(self.data["num_temp_instances"])
            moved = np.concatenate([ids[rows][:, :cached], ids[:, cached:]], axis=1)
            translated = self.alignment.translate(moved)
            translated[:, cached:] = moved[:, cached:]
            check("raw_instance_id", translated, 0)

    def bank(self, key: str, state: TemporalState) -> None:
        cached, data = state.instances, self.data
        order = np.stack(
            [
                match_rows(
                    cached.anchor[b].numpy(),
                    data[f"{key}bank_cached_anchor"][b],
                    near_ties(cached.confidence[b], self.alignment.confidence_gap),
                )
                for b in range(len(cached.anchor))
            ]
        )
        rows = np.arange(len(order))[:, None], order
        data.check(f"{key}bank_confidence", cached.confidence.numpy()[rows], SCORES)
        data.check(f"{key}bank_cached_anchor", cached.anchor.numpy()[rows], BOXES)
        if f"{key}bank_instance_id" in data:
            expected = data[f"{key}bank_instance_id"]
            ids = np.full(expected.shape, -1)
            ids[:, : order.shape[1]] = self.alignment.translate(cached.ids.numpy()[rows])
            data.check(f"{key}bank_instance_id", ids, 0)
            data.check(f"{key}bank_prev_id", state.next_id, 0)

    def cached_features(self, key: str, state: TemporalState) -> None:
        """Their first columns and means; recorded on the grid-sample path, under names without its prefix."""
        first, means = self.data[f"{key}first8"], self.data[f"{key}mean"]
        for b, (feature, confidence) in enumerate(
            zip(state.instances.feature, state.instances.confidence, strict=True)
        ):
            actual = torch.cat([feature[:, :8], feature.mean(-1, keepdim=True)], dim=1).numpy()
            expected = np.column_stack([first[b], means[b]])
            rows = match_rows(actual, expected, near_ties(confidence, self.alignment.confidence_gap))
            self.data.check(f"{key}first8", actual[rows, :8], LOGITS, expected=first[b])
            self.data.check(f"{key}mean", actual[rows, 8], LOGITS, expected=means[b])

    def nothing_left_out(self) -> None:
        """Every recorded array of this path was compared."""
        recorded = {key for key in self.data if re.match(rf"{self.prefix}f\d+_", key)}
        features = {key for key in self.data if "_bank_cached_feature_" in key}
        expected = recorded | features if self.prefix else recorded - features
        assert expected and not expected - self.data.compared, sorted(expected - self.data.compared)

    def detections(self, key: str, found: Detections) -> None:
        data = self.data
        boxes = data[f"{key}boxes_3d"]
        columns = [np.column_stack([np.delete(b, 6, 1), lab]) for b, lab in (
            (found.boxes, found.labels), (boxes, data[f"{key}labels_3d"]))]  # fmt: skip
        order = match_rows(*columns, near_ties(torch.from_numpy(found.scores), self.alignment.confidence_gap))
        yaw = found.boxes[order, 6]
        data.check(f"{key}boxes_3d", np.delete(found.boxes[order], 6, 1), BOXES, expected=np.delete(boxes, 6, 1))
        data.check(f"{key}boxes_3d[yaw]", yaw, BOXES, expected=boxes[:, 6], angle=True)
        data.check(f"{key}scores_3d", found.scores[order], SCORES)
        data.check(f"{key}labels_3d", found.labels[order], 0)
        if f"{key}cls_scores" in data:
            data.check(f"{key}cls_scores", found.class_scores, SCORES)
        if f"{key}instance_ids" in data:
            data.check(f"{key}instance_ids", self.alignment.translate(found.ids[order]), 0)

    def features(self, frame: int, levels: list[torch.Tensor]) -> None:
        key, data = f"f{frame}_", self.data
        for number, level in enumerate(levels):
            name, axes = f"{key}feat{number}_", (2, 3, 4)
            values = {
                "shape": np.array(level.shape),
                "mean": level.mean(axes),
                "std": level.std(axes),
                "absmax": level.abs().amax(axes),
                "center": level[..., level.shape[-2] // 2, level.shape[-1] // 2],
                "cam0_full": level[:, 0],
            }
            for statistic, value in values.items():
                if name + statistic in data:
                    data.check(name + statistic, value, FEATURES, rtol=1e-4)
