"""Scores while a run goes on: on whose scenes, with which weights, and what is kept."""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import dataclass, field, replace

import pytest
import tiny_run
import torch

from sparse4d_core.checkpoint.file import read_checkpoint
from sparse4d_core.config import BackboneConfig, preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training import train
from sparse4d_core.training.run.processes import Processes
from sparse4d_core.training.run.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = replace(
    preset("demo"),
    backbone=BackboneConfig(depth=18, base_width=8),
    num_anchors=24,
    num_output=24,
    num_decoder_layers=2,
    temporal=replace(preset("demo").temporal, num_instances=8),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> NuScenesDataset:
    """Two scenes of two key frames."""
    root = tmp_path_factory.mktemp("validation")
    render_dataset(root, 2, 5, duration=1.0, rate=2, rig=NUSCENES_RIG.resized(160, 90))
    return NuScenesDataset(root, cache=None)


class Scripted:
    """Stands in for a validation: these NDS, one after the other, after every second step."""

    def __init__(self, *nds: float):
        self.nds, self.every, self.models = list(nds), 2, []

    def scores(self, model: Sparse4D, processes: Processes) -> dict[str, float]:
        self.models.append(model)
        return {"nds": self.nds[len(self.models) - 1], "map": 0.5}


def validated_run(out, validation, iterations=6):
    trainer = tiny_run.tiny_trainer(out, iterations=iterations)
    trainer.validation = validation
    return trainer


def test_the_best_weights_are_kept(tmp_path):
    validation = Scripted(0.1, 0.3, 0.2)
    trainer = validated_run(tmp_path, validation)
    trainer.run()
    best = read_checkpoint(tmp_path / "best.pt")
    assert best.meta["iterations"] == 4 and best.meta["scores"] == {"nds": 0.3, "map": 0.5}
    assert all(model is trainer.average.module for model in validation.models), "the weights that will be used"
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    reported = [(line["iteration"], line["validation/nds"]) for line in lines if "validation/nds" in line]
    assert reported == [(2, 0.1), (4, 0.3), (6, 0.2)]


def test_a_resumed_run_remembers_its_best(tmp_path):
    trainer = validated_run(tmp_path, Scripted(0.3), iterations=2)
    trainer.run()
    again = validated_run(tmp_path, Scripted(0.2, 0.4), iterations=6)
    assert again.resume() and again.best == 0.3
    again.iteration = 3
    again.run()
    assert read_checkpoint(tmp_path / "best.pt").meta["scores"]["nds"] == 0.4


def test_validation_changes_nothing_that_trains(data, tmp_path):
    model = Sparse4D(SMALL, "clean").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    scores = Validation(data, tmp_path, every=1).scores(model, Processes())
    assert scores.keys() == {"nds", "map", "mATE", "mASE", "mAOE", "mAVE", "mAAE"}
    assert model.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == len(data.keyframes)


@dataclass(frozen=True)
class OneOfTwo(Processes):
    """One process of two; the second runs before the first and leaves here what it sends. What the second gets from the
    first: its statistics, and scores."""

    sent: list = field(default_factory=list)
    statistics: list = field(default_factory=list)

    def gather(self, value):
        self.sent.append(value)
        return self.sent[::-1]

    def from_first(self, value):
        return value if self.is_first or value is None else self.statistics


def test_processes_divide_the_scenes(data, tmp_path):
    """All run the first one's model, though batch norm has seen other batches in each."""
    model = Sparse4D(SMALL, "clean").train()
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 1.0
    alone = Validation(data, tmp_path / "alone", every=1).scores(model, Processes())
    sent = []
    first, second = (Validation(data, tmp_path / name, every=1) for name in ("first host", "second host"))
    of_two = OneOfTwo(1, 2, sent=sent, statistics=[buffer.clone() for buffer in model.buffers()])
    assert second.scores(other, of_two) is None and not (tmp_path / "second host").exists()
    assert first.scores(model, OneOfTwo(0, 2, sent=sent)) == alone
    parts = [json.loads(zlib.decompress(part)) for part in sent]
    assert [len(part) for part in parts] == [len(data.keyframes) / 2] * 2 and not parts[0].keys() & parts[1].keys()
    read = [json.loads((tmp_path / name / "results.json").read_text())["results"] for name in ("alone", "first host")]
    assert read[0] == read[1]


def test_the_command_validates(data, tmp_path):
    words = ["--model", "demo", "--dataroot", str(data.dataroot), "--out", str(tmp_path / "run"), "--device", "cpu"]
    words += ["--batch-size", "4", "--workers", "0", "--iterations", "2", "--validation-split", "all"]
    small = ["--preset.num_anchors=24", "--preset.num_output=24", "--preset.num_decoder_layers=2"]
    small += ["--preset.temporal.num_instances=8", "--training.denoising=null"]
    assert train.main([*words, *small, "--validation-epochs", "1"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in log if "validation/map" in line] == [1, 2]
    assert read_checkpoint(tmp_path / "run" / "best.pt").meta["scores"]["nds"] >= 0
    refused = [*words[:5], str(tmp_path / "other"), *words[6:], "--validation-epochs", "0"]
    assert train.main(refused) == 2
