"""Recorded sequences through exported steps: the artefact on its own memory gives what the reference gave."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_data import Golden
from golden_sequence import Alignment, match_rows, near_ties, num_frames, recorded_input, recorded_model

from sparse4d_core.export.exporter import ExportOptions, export_step
from sparse4d_core.inference.artefact import Artefact
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.state import TemporalState
from sparse4d_core.types import Detections

BOXES, SCORES = 1e-3, 5e-5  # tolerances recommended in the golden README, section 6
COMPILED = "SPARSE4D_GOLDEN_AOTI"  # set it to compile the recorded models, a minute of both cores each

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements/export.txt)")


def cases() -> list:
    not_asked = pytest.mark.skipif(
        not os.environ.get(COMPILED), reason=f"a minute of compilation; {COMPILED}=1 runs it"
    )
    return [
        pytest.param(file, form, id=f"{file}-{form}", marks=[not_asked] if form == "aoti" else [])
        for file in ("sequence_v3", "sequence_v2")
        for form in ("onnx", "aoti")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "form"), cases())
def test_golden(golden, file, form, tmp_path):
    data = Golden(golden, file)
    artefact = exported(data, form, tmp_path / "step")
    state = TemporalState()
    for frame in range(num_frames(data)):
        if f"f{frame}_bank_confidence" not in data:
            break  # the repository has the first frames of some recordings
        found, state = artefact.step(recorded_input(data, frame, artefact.config), state)
        gap = Alignment.of(data).confidence_gap
        check_detections(data, f"f{frame}_b0_", found, gap)
        check_memory(data, f"f{frame}_", state, gap)
    assert frame >= 1


def exported(data: Golden, form: str, folder: Path) -> Artefact:
    """The recorded detector as an artefact; its weights are random, so the proof is what follows here."""
    model = recorded_model(data)
    height, width = recorded_input(data, 0, model.config).images.shape[-2:]
    model.config = model.decoder.config = replace(
        model.config, image=replace(model.config.image, input_wh=(int(width), int(height)))
    )
    operator = "native" if form == "aoti" else "portable"
    export_step(Pipeline(model, trained=False), ExportOptions(form, operator=operator), folder, complete=False)
    return Artefact(folder)


def check_detections(data: Golden, key: str, found: Detections, gap: float) -> None:
    boxes = data[f"{key}boxes_3d"]
    columns = [np.column_stack([np.delete(b, 6, 1), labels]) for b, labels in (
        (found.boxes, found.labels), (boxes, data[f"{key}labels_3d"]))]  # fmt: skip
    order = match_rows(*columns, near_ties(torch.from_numpy(found.scores), gap))
    data.check(f"{key}boxes_3d", np.delete(found.boxes[order], 6, 1), BOXES, expected=np.delete(boxes, 6, 1))
    data.check(f"{key}boxes_3d[yaw]", found.boxes[order, 6], BOXES, expected=boxes[:, 6], angle=True)
    data.check(f"{key}scores_3d", found.scores[order], SCORES)
    data.check(f"{key}labels_3d", found.labels[order], 0)
    if f"{key}cls_scores" in data:
        data.check(f"{key}cls_scores", found.class_scores, SCORES)
        data.check(f"{key}instance_ids", found.ids[order], 0)


def check_memory(data: Golden, key: str, state: TemporalState, gap: float) -> None:
    cached = state.instances
    expected = data[f"{key}bank_cached_anchor"]
    order = match_rows(cached.anchor[0].numpy(), expected[0], near_ties(cached.confidence[0], gap))
    data.check(f"{key}bank_confidence", cached.confidence.numpy()[:, order], SCORES)
    data.check(f"{key}bank_cached_anchor", cached.anchor.numpy()[:, order], BOXES)
    if cached.ids is not None:
        ids = data[f"{key}bank_instance_id"]
        data.check(f"{key}bank_instance_id", cached.ids.numpy()[:, order], 0, expected=ids[:, : len(order)])
        data.check(f"{key}bank_prev_id", state.next_id, 0)
