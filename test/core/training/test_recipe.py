"""`--recipe published` refuses whatever would quietly differ from the publication, and says what to give instead."""

from __future__ import annotations

import logging
import pathlib
from dataclasses import replace

import pytest

from sparse4d_core.config import PRESETS, preset
from sparse4d_core.training import train
from sparse4d_core.training.batches.loader import Streams
from sparse4d_core.training.recipe import Plan, check_published
from sparse4d_core.training.schedule import training_config

FILE = pathlib.Path("some.file")


def published(name: str = "v3_r50") -> Plan:
    """Eight GPUs with the command of docs/training.md."""
    training = training_config(name)
    streams = Streams.divide(training.schedule.batch_size, 8, 1)
    return Plan(
        name, preset(name), training, "v1.0-trainval", "train", FILE, None, FILE, precision="float16", streams=streams
    )


@pytest.mark.parametrize("name", ["v3_r50", "v2_r50", "v1_r101_t1", "v1_r101_t4"])
def test_the_published_training_passes(name):
    check_published(published(name))


def test_one_gpu_may_accumulate():
    check_published(replace(published(), streams=Streams.divide(48, 1, 8)))


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"v3_r50", "v2_r50", "v1_r101_t1", "v1_r101_t4"}))
def test_presets_whose_training_was_never_published_are_refused(name):
    with pytest.raises(ValueError, match=f"no training was published for {name}"):
        check_published(published(name))


TRAINING = training_config("v3_r50")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": None}, "give --version v1.0-trainval --split train, not --version v1.0-trainval without --split"),
        ({"version": "v1.0-mini", "split": "mini_train"}, "not --version v1.0-mini --split mini_train"),
        ({"backbone": None}, "give --backbone FILE .*resnet50-19c8e357"),
        ({"init": FILE}, "leave --init away"),
        ({"anchors": None}, "give --anchors FILE"),
        ({"precision": "float32"}, "give --precision float16, not float32"),
        ({"streams": Streams.divide(48, 1, 1)}, "takes 48 samples at a time.*instead of 6.*product is 8"),
        ({"model": replace(preset("v3_r50"), num_anchors=600)}, "preset.num_anchors: 900 as published, 600 now"),
        (
            {"training": replace(TRAINING, optimizer=replace(TRAINING.optimizer, lr=1e-4))},
            "training.optimizer.lr: 0.0006 as published, 0.0001 now",
        ),
        ({"training": replace(TRAINING, denoising=None)}, "training.denoising: .*now"),
    ],
)
def test_what_differs_is_named(change, said):
    with pytest.raises(ValueError, match=f"would not train v3_r50 as it was published: .*{said}"):
        check_published(replace(published(), **change))


def test_everything_is_named_at_once(capsys):
    """By the command, before it looks for data."""
    words = "--model v3_r50 --dataroot nowhere --out run --recipe published --batch-size 16 --device cpu".split()
    assert train.main(words) == 2
    error = capsys.readouterr().err
    for part in ("--split train", "--backbone FILE", "--anchors FILE", "--precision float16", "batch_size: 48"):
        assert part in error


def test_what_may_surprise_is_logged(caplog):
    words = "--model v3_r50 --dataroot nowhere --out run --batch-size 16 --version v1.0-trainval".split()
    with caplog.at_level(logging.WARNING):
        train.note_surprises(train.parse(words))
    assert "16 instead of 48; the learning rate stays 0.0006 and the length 58600 iterations" in caplog.text
    assert "the scenes of val" in caplog.text
    caplog.clear()
    train.note_surprises(train.parse("--model v3_r50 --dataroot nowhere --out run --split train".split()))
    assert not caplog.records
