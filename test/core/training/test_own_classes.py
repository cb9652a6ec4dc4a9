"""A model of other classes than the published: from the data set's names to boxes that carry them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparse4d_core.checkpoint.file import read_checkpoint
from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.keyframe_run import run_keyframes
from sparse4d_core.evaluation.model_sheet import __main__ as model_sheet
from sparse4d_core.evaluation.rates import __main__ as rates
from sparse4d_core.evaluation.robustness import __main__ as robustness
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.training import train
from sparse4d_core.training.schedule import for_classes, training_config
from sparse4d_core.types import CLASS_NAMES
from sparse4d_core.visualization import CLASS_COLORS_RGB, class_color, draw_overlay

CLASSES = ("barrier", "robot.small", "car")  # one of them is no class of nuScenes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two scenes of three key frames, in which the pedestrians are small robots."""
    root = tmp_path_factory.mktemp("robots")
    render_dataset(root, 2, 77, duration=1.5, rate=2, rig=NUSCENES_RIG.resized(160, 90))
    path = root / "v1.0-mini" / "category.json"
    path.write_text(path.read_text().replace("human.pedestrian.adult", "robot.small"))
    return root


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    """model.pt of a run of one step."""
    run = tmp_path_factory.mktemp("own") / "run"
    words = ["--model", "demo", "--device", "cpu", "--workers", "0", "--iterations", "1", "--batch-size", "1"]
    words += ["--dataroot", str(world), "--out", str(run), f"--preset.class_names={json.dumps(CLASSES)}"]
    assert train.main(words) == 0
    return run / "model.pt"


def test_the_data_set_labels_its_objects_by_these_classes(world):
    ours, published = (NuScenesDataset(world, classes=c, cache=None) for c in (CLASSES, CLASS_NAMES))
    for i in ours.keyframes:
        names = [CLASSES[label] for label in ours.annotations(i).labels]
        theirs = [CLASS_NAMES[label] for label in published.annotations(i).labels]
        assert [n for n in names if n != "robot.small"] == [n for n in theirs if n in CLASSES]
        assert "robot.small" in names and "pedestrian" not in theirs


def test_the_checkpoint_brings_its_classes_and_every_box_has_one_of_them(world, checkpoint):
    assert read_checkpoint(checkpoint).config.class_names == CLASSES
    pipeline = Pipeline.from_preset("demo", checkpoint)
    assert pipeline.config.class_names == CLASSES
    data = NuScenesDataset(world, classes=CLASSES, cache=None)
    step = pipeline.step(data.frame(int(data.keyframes[0])))
    assert step.detections.class_names == step.tracks.class_names == CLASSES
    assert len(step.detections.labels) and set(step.detections.names()) <= set(CLASSES)
    assert draw_overlay(data.frame(int(data.keyframes[0])), step.detections, tile_width=160).any()


def test_results_have_the_names(world, checkpoint):
    data = NuScenesDataset(world, classes=CLASSES, cache=None)
    writer = run_keyframes(Pipeline.from_preset("demo", checkpoint), data)
    found = {box["detection_name"] for boxes in writer.detection.values() for box in boxes}
    assert found and found <= set(CLASSES)


def test_a_published_checkpoint_keeps_the_published_classes():
    assert Pipeline.from_preset("demo").config.class_names == CLASS_NAMES


def test_a_class_that_the_data_does_not_have_is_named_before_the_first_step(world, tmp_path, capsys):
    words = ["--model", "demo", "--device", "cpu", "--dataroot", str(world), "--out", str(tmp_path / "run")]
    assert train.main([*words, '--preset.class_names=["car","tram"]']) == 2
    said = capsys.readouterr().err
    assert "class_names: tram: no annotation" in said and "robot.small" in said
    assert not (tmp_path / "run").exists()


def test_validation_of_classes_that_are_not_scored_is_refused_before_the_first_step(world, tmp_path, capsys):
    words = ["--model", "demo", "--device", "cpu", "--workers", "0", "--iterations", "1", "--batch-size", "1"]
    words += ["--dataroot", str(world), "--out", str(tmp_path / "run"), '--preset.class_names=["robot.small","truck"]']
    assert train.main([*words, "--validation-split", "all", "--validation-epochs", "1"]) == 2
    assert "validation-split: all cannot be scored" in (said := capsys.readouterr().err) and "robot.small" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "more"), [(robustness, ["--rows", "clean"]), (rates, []), (model_sheet, [])])
def test_sheets_of_classes_that_are_not_scored_are_refused_before_the_first_row(
    world, checkpoint, tmp_path, capsys, command, more
):
    words = ["--model", "demo", "--checkpoint", str(checkpoint), "--dataroot", str(world), "--out", str(tmp_path / "o")]
    assert command.main([*words, *more]) == 2
    assert "model.pt: cannot be scored" in (said := capsys.readouterr().err) and "robot.small" in said
    assert not list((tmp_path / "o").rglob("rows/*/*"))


def test_rules_of_single_classes_go_with_their_class():
    training = for_classes(training_config("v3_r50"), CLASSES)
    assert training.losses.reversible_classes == (0,)  # barrier
    assert training.matcher.class_wise_weights == ()  # no cone
    turned = for_classes(training_config("v3_r50"), CLASS_NAMES[::-1])
    assert turned.matcher.class_wise_weights[0][0] == 0 and turned.losses.reversible_classes == (4,)
    assert for_classes(training_config("v3_r50"), CLASS_NAMES) == training_config("v3_r50")


def test_given_rules_of_single_classes_stay():
    words = ["--model", "demo", "--dataroot", "world", "--out", "run", f"--preset.class_names={json.dumps(CLASSES)}"]
    moved, given = train.parse(words), train.parse([*words, "--training.losses.reversible_classes=[1,2]"])
    assert moved.training.losses.reversible_classes == (0,)
    assert given.training.losses.reversible_classes == (1, 2)
    # A position that is also the preset's, in another list.
    own = '["car","truck","bus","pedestrian","bicycle","robot.small"]'
    words[-1] = f"--preset.class_names={own}"
    assert train.parse(words).training.losses.reversible_classes == ()
    given = train.parse([*words, "--training.losses.reversible_classes=[5]"])
    assert given.training.losses.reversible_classes == (5,) == training_config("demo").losses.reversible_classes
    assert moved.preset.class_names == CLASSES and preset("demo").class_names == CLASS_NAMES


def test_colours_of_own_classes_are_bright_and_stay():
    first, second = class_color("robot.small"), class_color("robot.large")
    assert first != second and max(first) == 255 and first == class_color("robot.small")
    assert class_color("car") == CLASS_COLORS_RGB["car"][::-1]
    assert len({class_color(f"class {i}") for i in range(20)}) > 15
    assert np.asarray(first).dtype.kind == "i"
