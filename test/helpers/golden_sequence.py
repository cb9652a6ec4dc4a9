"""A recorded sequence: the detector it was recorded with, its inputs, and comparison up to legal swaps of rows.

Rows are ordered by sorted confidences, so two rows whose values nearly tie may come in either order (golden README,
section 6). `Alignment` allows exactly these swaps: within runs of neighbouring sorted values that differ by less than
the stated gap, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from golden_data import Golden, weight
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparse4d_core.checkpoint.reference_names import from_reference, to_reference
from sparse4d_core.config import Sparse4DConfig, preset
from sparse4d_core.model_io import ModelInput
from sparse4d_core.network.sparse4d import Sparse4D

NOT_GENERATED = ("anchor", "fix_scale", "num_batches_tracked")

# file -> preset and, for v1, the layout of its parameter names
SEQUENCES = {
    "sequence_v3": ("v3_r50", "original"),
    "sequence_v3_bs2": ("v3_r50", "original"),
    "sequence_v3_full": ("v3_r50", "original"),
    "sequence_v2": ("v2_r50", "original"),
    "sequence_v1_H1": ("v1_r101_t1", "original"),
    "sequence_v1_H4": ("v1_r101_t4", "original"),
    "sequence_v1_H4_later_layout": ("v1_r101_t4", "later"),
}


def recorded_config(data: Golden, sampling: str | None = None) -> Sparse4DConfig:
    """The official architecture with the sizes stored in the file."""
    name, layout = SEQUENCES[data.name]
    config = replace(preset(name), num_anchors=len(data["anchor"]), num_output=int(data["num_output"]))
    if config.temporal is not None:
        config = replace(config, temporal=replace(config.temporal, num_instances=int(data["num_temp_instances"])))
    if layout == "later" and config.history is not None:
        config = replace(config, history=replace(config.history, measured_interval=False))
    if sampling is not None:
        config = replace(config, aggregation=replace(config.aggregation, sampling=sampling))
    return config


def generated_weights(model: Sparse4D, seed: int, anchor: np.ndarray, layout: str = "original") -> Sparse4D:
    """The weight rule over the reference's names; loaded through the name mapping, strictly. Evaluation mode."""
    config = model.config
    state = to_reference(model.state_dict(), config, layout)
    for name, old in state.items():
        last = name.rsplit(".", 1)[-1]
        if last == "anchor":
            state[name] = torch.from_numpy(anchor)
        elif last not in NOT_GENERATED:
            state[name] = torch.from_numpy(weight(name, tuple(old.shape), seed, v1=config.generation == 1))
    model.load_state_dict(from_reference(state, config))
    return model.eval()


def recorded_model(data: Golden, sampling: str | None = None) -> Sparse4D:
    model = Sparse4D(recorded_config(data, sampling), scene_reset="reference")
    return generated_weights(model, int(data["weight_seed"]), data["anchor"], SEQUENCES[data.name][1])


def num_frames(data: Golden) -> int:
    return len(data["timestamp"])


def recorded_input(data: Golden, frame: int, config: Sparse4DConfig) -> ModelInput:
    factor = int(data["img_upsample"])
    image = torch.from_numpy(data["img_u8_coarse"][frame]).float()
    image = image.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config.image.mean, config.image.std))
    calibration = (
        torch.from_numpy(data[key][frame]) for key in ("projection_mat", "image_wh", "timestamp", "T_global")
    )
    return ModelInput((image - mean) / std, *calibration, focal=torch.from_numpy(data["focal"][frame]))


def near_ties(values: Tensor, gap: float, offset: int = 0) -> list[list[int]]:
    """Runs of neighbouring rows of descending `values` [K] that may come in another order."""
    close = ((values[:-1] - values[1:]) < gap).tolist()
    runs: list[list[int]] = []
    for row, tied in enumerate(close):
        if tied and runs and runs[-1][-1] == row + offset:
            runs[-1].append(row + offset + 1)
        elif tied:
            runs.append([row + offset, row + offset + 1])
    return runs


def match_rows(actual: np.ndarray, expected: np.ndarray, runs: Sequence[Sequence[int]]) -> np.ndarray:
    """Order [A] such that actual[order] is closest to expected; rows move within their run only."""
    order = np.arange(len(expected))
    for run in runs:
        rows = np.asarray(run)
        cost = np.abs(expected[rows][:, None] - actual[rows][None]).max(-1)
        order[rows] = rows[linear_sum_assignment(cost)[1]]
    return order


@dataclass
class Alignment:
    """Which of our rows and ids stand for which recorded ones, so far in the sequence."""

    confidence_gap: float
    logit_gap: float
    ids: dict[int, int] = field(default_factory=dict)  # ours -> recorded, where a legal swap exchanged new ids

    @staticmethod
    def of(data: Golden) -> Alignment:
        """The gaps that the README states; official size differs more between float32 and float64."""
        return Alignment(1.7e-5, 7e-5) if data.name.endswith("_full") else Alignment(7e-6, 3e-5)

    def rows(self, cached: Tensor | None, first_logits: Tensor | None) -> list[list[int]]:
        """Runs of a frame's rows. cached [T]: confidences of the cached instances that were taken up, None if none
        were; first_logits [A, classes] order the rows behind them."""
        if cached is None:
            return []
        num_cached, num_new = len(cached), len(first_logits) - len(cached)
        update = first_logits.amax(-1).topk(num_new).values
        return near_ties(cached, self.confidence_gap) + near_ties(update, self.logit_gap, num_cached)

    def exchange_new_ids(self, ids: np.ndarray, order: np.ndarray, num_cached: int) -> None:
        """New ids count rows, so two swapped rows behind the cached ones exchange theirs."""
        for row in np.flatnonzero(order != np.arange(len(order))):
            if row >= num_cached:
                self.ids[int(ids[order[row]])] = int(ids[row])

    def translate(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self.ids.get(int(i), int(i)) for i in ids.ravel()], dtype=np.int64).reshape(ids.shape)
