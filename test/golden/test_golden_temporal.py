"""The temporal memory over recorded frames, and the attention of the official head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters, weight

from sparse4d_core.checkpoint.reference_names import from_reference, to_reference
from sparse4d_core.config import BackboneConfig, TemporalConfig, preset
from sparse4d_core.geometry import elapsed, project_anchors, relative_transform
from sparse4d_core.model_io import ModelInput
from sparse4d_core.network.decoder import MemoryKeys
from sparse4d_core.network.instance_memory import assign_ids, decayed_confidence, merge, recall, remember
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.network.state import TemporalState

ATOL = RTOL = 1e-5

BANKS = golden_parameters("blocks_v3", ("bank_a", "bank_thr", "bank_bschange", "bank_dn")) + golden_parameters(
    "blocks_v2", ("bank", "bank_bschange")
)
GRAPH = golden_parameters("blocks_v3", ["graph"])


class BankCheck:
    """One recorded instance bank, frame by frame."""

    def __init__(self, data: Golden, tag: str):
        self.data, self.tag = data, tag
        self.first_frames: list[int] = []  # that had no memory
        self.args = data.json("constructor_args_json")[tag]
        self.config = TemporalConfig(
            num_instances=self.args["num_temp_instances"],
            confidence_decay=self.args["confidence_decay"],
            default_interval=self.args["default_time_interval"],
            max_interval=self.args["max_time_interval"],
            swap_yaw_on_projection=data.name == "blocks_v3",
        )

    def check(self, key: str, actual) -> None:
        name = f"{self.tag}_{key}"
        if name in self.data:
            self.data.check(name, actual, ATOL, RTOL)

    def frame(self, frame: int, state: TemporalState) -> TemporalState:
        def given(name: str) -> torch.Tensor:
            return self.data.tensor(f"{self.tag}_f{frame}_{name}")

        key, num = f"f{frame}_", self.args["num_anchor"]
        empty = torch.empty(0)
        inputs = ModelInput(empty, empty, empty, given("timestamp"), given("T_global"))
        if state.batch_size not in (None, len(inputs.timestamp)):
            state = TemporalState()
        memory = recall(state, inputs, self.config)
        if memory is None:
            self.first_frames.append(frame)
        self.got(key, memory, len(inputs.timestamp))
        self.noisy(key, state, inputs, frame)

        feature, anchor, logits = (given(f"upd_in_{name}") for name in ("feature", "anchor", "cls"))
        if memory is not None:
            updated = merge(memory, feature[:, :num], anchor[:, :num], logits[:, :num])
            feature, anchor = (
                torch.cat([new, old[:, num:]], dim=1) for new, old in zip(updated, (feature, anchor), strict=True)
            )
        self.check(f"{key}upd_out_feature", feature)
        self.check(f"{key}upd_out_anchor", anchor)
        return self.cached(key, inputs, memory, state, *(given(f"cache_in_{n}") for n in ("feature", "anchor", "cls")))

    def nothing_left_out(self) -> None:
        """Every recorded result was compared, except v2's mask of a scene that a change of batch size has ended."""
        given = ("timestamp", "T_global", "T_global_inv", "dn_anchor_in")
        recorded = {
            name
            for name in self.data.keys(f"{self.tag}_f")
            if not name.endswith(given) and "_upd_in_" not in name and "_cache_in_" not in name
        }
        left = recorded - self.data.compared
        stale = {f"{self.tag}_f{frame}_mask" for frame in self.first_frames[1:]}
        assert recorded and not left - stale, sorted(left - stale)

    def got(self, key: str, memory, batch: int) -> None:
        table = weight(f"{self.tag}.instance_feature", (self.args["num_anchor"], self.args["embed_dims"]),
                       int(self.data["weight_seed"]))  # fmt: skip
        self.check(f"{key}get_feature", np.tile(table, (batch, 1, 1)))
        self.check(
            f"{key}get_anchor", np.tile(self.data[self.args.get("anchor", f"{self.tag}_anchor_init")], (batch, 1, 1))
        )
        if memory is None:
            assert f"{self.tag}_{key}get_temp_feature" not in self.data
            self.check(f"{key}get_time_interval", np.full(batch, self.config.default_interval, np.float32))
            return
        self.check(f"{key}get_temp_feature", memory.feature)
        self.check(f"{key}get_temp_anchor", memory.anchor)
        self.check(f"{key}get_time_interval", memory.time_interval)
        self.check(f"{key}mask", memory.same_scene)

    def noisy(self, key: str, state: TemporalState, inputs: ModelInput, frame: int) -> None:
        """Cached noisy anchors [B, K, R, 11] are moved as the cached instances are."""
        name = f"{self.tag}_{key}dn_anchor_out"
        if name not in self.data:
            return
        anchor = self.data.tensor(f"{self.tag}_{key}dn_anchor_in")
        T = relative_transform(inputs.T_global_from_model, state.instances.T_global_from_model)
        dt = elapsed(inputs.timestamp, state.instances.timestamp)
        moved = project_anchors(anchor.flatten(1, 2), T, -dt, self.config.swap_yaw_on_projection)
        self.check(f"{key}dn_anchor_out", moved.view_as(anchor))

    def cached(self, key, inputs, memory, state, feature, anchor, logits) -> TemporalState:
        confidence = decayed_confidence(memory, logits)
        self.check(f"{key}temp_confidence", confidence)
        ids, next_id = None, None
        if f"{self.tag}_{key}instance_id" in self.data:
            ids, next_id = assign_ids(memory, logits, state.next_id, self.args["threshold"])
            self.check(f"{key}instance_id", ids)
            self.check(f"{key}prev_id", next_id)
        cached = remember(confidence, feature, anchor, inputs, self.config.num_instances, ids)
        self.check(f"{key}cached_feature", cached.feature)
        self.check(f"{key}cached_anchor", cached.anchor)
        self.check(f"{key}confidence", cached.confidence)
        if ids is not None:
            padded = torch.full_like(ids, -1)
            padded[:, : cached.ids.shape[1]] = cached.ids
            self.check(f"{key}next_instance_id", padded)
        return TemporalState(cached, next_id)


@pytest.mark.parametrize(("file", "tag"), BANKS + GRAPH)
def test_golden(golden, file, tag):
    data = Golden(golden, file)
    if f"{tag}_{'gnn' if tag == 'graph' else 'f0_timestamp'}" not in data:
        pytest.skip(f"the folder's file does not hold this case: {tag}")
    if tag == "graph":
        return check_graph(data)
    check, state, frame = BankCheck(data, tag), TemporalState(), 0
    while f"{tag}_f{frame}_timestamp" in data:
        state = check.frame(frame, state)
        frame += 1
    assert frame > 1
    check.nothing_left_out()


def check_graph(data: Golden) -> None:
    """Attention of the second decoder layer with the full model's weight names."""
    config = replace(preset("v3_r50"), backbone=BackboneConfig(depth=18, base_width=8), num_decoder_layers=2)
    model = Sparse4D(config)
    state = to_reference(model.state_dict(), config)
    for name, old in state.items():
        if old.is_floating_point() and not name.endswith("fix_scale"):
            state[name] = torch.from_numpy(weight(name, tuple(old.shape), int(data["weight_seed"])))
    model.load_state_dict(from_reference(state, config))
    decoder = model.eval().decoder
    layer = decoder.layers[1]
    feature, embed, temp_feature, temp_embed, mask = (
        data.tensor(f"graph_{name}")
        for name in ("instance_feature", "anchor_embed", "temp_instance_feature", "temp_anchor_embed", "attn_mask")
    )
    with torch.inference_mode():
        keys = MemoryKeys(temp_feature, decoder.fc_before(temp_feature), temp_embed)
        results = {
            "gnn": decoder.attend(layer.attention, feature, embed, None),
            "gnn_masked": decoder.attend(layer.attention, feature, embed, mask),
            "temp_gnn": decoder.attend_to_memory(layer.temporal_attention, feature, embed, keys, None, None),
            "temp_gnn_first_frame": decoder.attend_to_memory(
                layer.temporal_attention, feature, embed, None, None, None
            ),
        }
    for name, actual in results.items():
        data.check(f"graph_{name}", actual, ATOL, RTOL)
