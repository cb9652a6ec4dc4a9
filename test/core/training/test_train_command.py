"""The training command: every number can be given, wrong ones are named, a run continues with its own model."""

from __future__ import annotations

import json
import logging
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from sparse4d_core.checkpoint.file import read_checkpoint
from sparse4d_core.config import preset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.training import train
from sparse4d_core.training.run_record import differences, read_record, write_record
from sparse4d_core.training.schedule import training_config

REQUIRED = ["--dataroot", "world", "--out", "run"]


def changed(value: Any, hint: Any) -> Any:
    """Another value of the same kind."""
    if get_origin(hint) is Literal:
        return next(choice for choice in get_args(hint) if choice != value)
    if isinstance(value, bool):
        return not value
    if value == "all":  # of SamplingConfig.splits_per_scene, which else is a number
        return 3
    if isinstance(value, tuple):
        return tuple(changed(item, None) for item in value)
    if isinstance(value, str):
        return value + "_other"
    return value + 1


def all_changed(config: Any, name: str) -> tuple[Any, list[str]]:
    """The configuration with another value in every field, and the words that say so on the command line."""
    values, words = {}, []
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, option = getattr(config, field.name), f"{name}.{field.name}"
        if is_dataclass(value):
            values[field.name], more = all_changed(value, option)
            words += more
        elif value is not None:
            values[field.name] = changed(value, hints[field.name])
            text = values[field.name] if isinstance(values[field.name], str) else json.dumps(values[field.name])
            words.append(f"--{option}={text}")
    return replace(config, **values), words


@pytest.mark.parametrize("model", ["v3_r50", "v1_r101_t4", "demo"])
def test_every_field_can_be_given(model):
    """Between them these presets have every part: temporal memory and history, denoising and grid mask."""
    expected_model, words = all_changed(preset(model), "preset")
    expected_training, more = all_changed(training_config(model), "training")
    assert len(words) + len(more) > 90
    options = train.parse(["--model", model, *REQUIRED, *words, *more])
    assert options.preset == expected_model and options.training == expected_training


@pytest.mark.parametrize("model", ["v2_r50", "demo"])
def test_nothing_given_nothing_changed(model):
    options = train.parse(["--model", model, *REQUIRED])
    assert options.preset == preset(model) and options.training == training_config(model)


def test_parts_can_be_left_out_and_added():
    assert train.parse(["--model", "v3_r50", *REQUIRED, "--training.denoising=null"]).training.denoising is None
    given = train.parse(["--model", "v2_r50", *REQUIRED, "--training.denoising.num_groups=2"]).training.denoising
    assert given.num_groups == 2 and given.max_objects == 32


def test_short_options_reach_their_fields():
    words = "--lr 0.5 --batch-size 3 --iterations 7 --checkpoint-minutes 2 --precision bfloat16".split()
    options = train.parse(["--model", "demo", *REQUIRED, *words])
    training = options.training
    assert (training.optimizer.lr, training.schedule.batch_size, training.schedule.iterations) == (0.5, 3, 7)
    assert options.checkpoint_minutes == 2.0 and options.precision == "bfloat16" and options.workers == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--training.optimizer.lr=fast"], ['"training.optimizer.lr"', "float", "fast"]),
        (["--preset.num_anchors=1.5"], ['"preset.num_anchors"', "int", "1.5"]),
        (["--preset.backbone.kind=vgg"], ['"preset.backbone.kind"', "resnet", "vgg"]),
        (["--training.augmentation.scale_range=[0.4]"], ["training.augmentation.scale_range", "2 elements", "[0.4]"]),
        (["--training.optimizer.rate=1"], ["--training.optimizer.rate"]),
        (["--lr=1", "--training.optimizer.lr=2"], ["--lr and --training.optimizer.lr are the same"]),
        (["--iterations=0"], ["iterations: expected at least 1, got 0"]),
        (["--iterations=-5"], ["iterations: expected at least 1, got -5"]),
        (["--training.schedule.epochs=0"], ["epochs: expected at least 1, got 0"]),
        (["--training.schedule.epochs=10"], ["10 would count for nothing", "--training.schedule.iterations null"]),
        (["--model=v4"], ["v4", "v3_r50"]),
        (["--mod=demo"], ["--mod"]),
    ],
)
def test_what_cannot_be_used_is_named(capsys, words, said):
    with pytest.raises(SystemExit) as end:
        train.main(["--model", "demo", *REQUIRED, *words])
    error = capsys.readouterr().err
    assert end.value.code == 2 and all(part in error for part in said), error
    assert len(error.splitlines()) < 12


def test_a_length_in_epochs():
    words = ["--model", "demo", *REQUIRED, "--training.schedule.epochs=10", "--training.schedule.iterations=null"]
    assert train.num_iterations(train.parse(words).training, samples=24) == 10 * 24 // 8


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_the_data_is_read(capsys, device):
    assert train.main(["--model", "demo", *REQUIRED, "--device", device]) == 2
    assert f"device: {device} cannot be used: " in capsys.readouterr().err


def test_what_was_given_is_what_trains(tmp_path):
    """A smaller model than the preset, one step, by the command itself."""
    world, run = tmp_path / "world", tmp_path / "run"
    render_dataset(world, 1, 5, duration=1.0, rate=2, rig=NUSCENES_RIG.resized(160, 90))
    small = ["--preset.num_anchors=32", "--preset.num_output=32", "--preset.num_decoder_layers=2"]
    small += ["--preset.temporal.num_instances=8", "--training.denoising=null", "--training.schedule.ema_decay=0"]
    words = ["--model", "demo", "--dataroot", str(world), "--out", str(run), "--batch-size", "1", "--device", "cpu"]
    assert train.main([*words, "--workers", "0", "--iterations", "1", *small]) == 0
    recorded = read_record(run)
    assert recorded["training"]["denoising"] is None and "--preset.num_anchors=32" in recorded["command"]
    trained = read_checkpoint(run / "model.pt")
    assert trained.config == replace(
        preset("demo"),
        num_anchors=32,
        num_output=32,
        num_decoder_layers=2,
        temporal=replace(preset("demo").temporal, num_instances=8),
    )
    assert trained.state["decoder.anchor"].shape == (32, 11)
    assert train.main([*words, "--iterations", "1", *small]) == 2, "RUN holds a run already"


def test_another_model_cannot_continue_a_run(tmp_path):
    write_record(tmp_path, ["train"], preset("demo"), training_config("demo"))
    train.check_resumable(tmp_path, preset("demo"), training_config("demo"))
    other = replace(preset("demo"), num_anchors=300)
    with pytest.raises(ValueError, match="trains another model .preset.num_anchors: 256 in the run, 300 now"):
        train.check_resumable(tmp_path, other, training_config("demo"))


def test_another_training_continues_and_is_named(tmp_path, caplog):
    training = training_config("demo")
    write_record(tmp_path, ["train"], preset("demo"), training)
    with caplog.at_level(logging.WARNING):
        train.check_resumable(
            tmp_path, preset("demo"), replace(training, grid_mask=training_config("v3_r50").grid_mask)
        )
    assert "training.grid_mask: null in the run" in caplog.text
    caplog.clear()
    train.check_resumable(tmp_path, preset("demo"), training)
    assert not caplog.records


def test_fields_that_only_one_side_has_differ():
    assert list(differences({"a": 1, "b": 2}, {"a": 1, "c": 3}, "x")) == [
        "x.b: 2 in the run, null now",
        "x.c: null in the run, 3 now",
    ]
