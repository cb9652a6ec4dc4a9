"""What cannot be learned from is named and counted, and a run that meets it loses nothing."""

from __future__ import annotations

import json
import pathlib
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import tiny_run
import torch

from sparse4d_core.checkpoint.file import CheckpointError
from sparse4d_core.checkpoint.weights import save_checkpoint
from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.nuscenes.tables import DatasetError
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.training import train
from sparse4d_core.training.batches.keyframes import Keyframes
from sparse4d_core.training.batches.loader import Streams, make_loader
from sparse4d_core.training.run.processes import Processes
from sparse4d_core.training.schedule import training_config
from sparse4d_core.training.starting_model import build_model

TRAINING = training_config("demo")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Two scenes of four key frames."""
    root = tmp_path_factory.mktemp("rendered")
    render_dataset(root, 2, 321, duration=2.0, rate=2, rig=NUSCENES_RIG.resized(160, 90))
    return root


@pytest.fixture
def world(rendered, tmp_path):
    return shutil.copytree(rendered, tmp_path / "world")


def edit(root: pathlib.Path, table: str, change) -> None:
    """Apply `change` to every record; records for which it returns False are dropped."""
    path = root / "v1.0-mini" / f"{table}.json"
    path.write_text(json.dumps([r for r in json.loads(path.read_text()) if change(r) is not False]))


def run_command(capsys, *arguments) -> str:
    """What the training command says when it gives up."""
    assert train.main(["--model", "demo", "--device", "cpu", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def targets(root: pathlib.Path):
    """All samples of a data set as training sees them."""
    data = NuScenesDataset(root, cache=None)
    config, training = preset("demo"), training_config("demo")
    keyframes = Keyframes(data)
    loader = make_loader(keyframes, config, training, Streams(1, 1), Processes(), 0, 0)
    return data.problems, [loader.take(1)[0].targets for _ in range(2 * len(data))]


def test_a_data_set_without_annotations_is_refused(world, tmp_path, capsys):
    edit(world, "sample_annotation", lambda record: False)
    said = run_command(capsys, "--dataroot", world, "--out", tmp_path / "run")
    assert "no annotation to learn from in 8 key frames" in said and not (tmp_path / "run").exists()


def test_missing_images_are_counted_and_named_before_the_run(world, tmp_path, capsys):
    files = NuScenesDataset(world, cache=None).index.files
    for file in (files[0, 1], files[5, 3]):
        (world / file).unlink()
    said = run_command(capsys, "--dataroot", world, "--out", tmp_path / "run")
    assert "2 of 48 images are missing" in said and files[0, 1] in said and files[5, 3] in said


def test_a_key_frame_without_any_image_is_named_before_the_run(world, tmp_path, capsys):
    data = NuScenesDataset(world, cache=None)
    blind = str(data.index.tokens[3])
    edit(world, "sample_data", lambda r: r["sample_token"] != blind or "CAM_" not in r["filename"])
    said = run_command(capsys, "--dataroot", world, "--out", tmp_path / "run")
    assert f"1 key frames of {world} v1.0-mini have no image of any camera, the first is {blind}" in said


def test_boxes_of_zero_size_are_counted_and_not_learned(world):
    _, before = targets(world)
    edit(world, "sample_annotation", lambda r: r.update(size=[1.0, 0.0, 1.0]) if r["num_lidar_pts"] else None)
    path = world / "v1.0-mini" / "sample_annotation.json"
    problems, after = targets(world)
    count = sum(r["size"][1] == 0 for r in json.loads(path.read_text()))
    assert problems["annotations with a size that is not positive (left out)"] == count > 0
    assert sum(t.counts[0] for t in before) > 0 == sum(t.counts[0] for t in after)


def test_positions_that_are_not_finite_are_counted_and_not_learned(world):
    def spoil(record):
        if record["num_lidar_pts"]:
            record["translation"][0] = float("nan")

    edit(world, "sample_annotation", spoil)
    problems, after = targets(world)
    assert problems["annotations that are not finite (left out)"] > 0
    assert all(t.counts == (0,) for t in after)


def test_unknown_velocities_are_counted_and_stay_finite(world):
    edit(world, "sample_annotation", lambda record: record.update(prev="", next=""))
    problems, after = targets(world)
    assert problems["annotations without a known velocity (it counts as zero)"] > 0
    boxes = np.concatenate([t.boxes[0].numpy() for t in after])
    assert len(boxes) and (boxes[:, 8:] == 0).all()


def test_scenes_of_one_frame_are_counted_and_train(world):
    tables = world / "v1.0-mini"
    first = {}
    for sample in json.loads((tables / "sample.json").read_text()):
        first.setdefault(sample["scene_token"], sample["token"])
    kept = set(first.values())
    edit(world, "sample", lambda r: r["token"] in kept and r.update(prev="", next=""))
    edit(world, "sample_data", lambda r: r["sample_token"] in kept)
    edit(world, "sample_annotation", lambda r: r["sample_token"] in kept)
    problems, batches = targets(world)
    assert problems["scenes of one frame"] == 2
    assert len(batches) == 4 and all(t.counts[0] for t in batches)


def test_a_picture_that_breaks_later_ends_the_run_and_loses_nothing(tmp_path):
    trainer = tiny_run.tiny_trainer(tmp_path)
    take = trainer.loader.take

    def taking(count):
        if trainer.iteration == 3:
            raise DatasetError("image samples/CAM_FRONT/7.jpg cannot be decoded")
        return take(count)

    trainer.loader.take = taking
    with pytest.raises(DatasetError, match="7.jpg"):
        trainer.run()
    assert trainer.store.newest()["iteration"] == 3
    assert "7.jpg" in (tmp_path / "log.jsonl").read_text()


def test_starting_from_a_checkpoint_of_another_model_is_refused(tmp_path):
    other = replace(preset("demo"), num_anchors=100, num_output=100)
    save_checkpoint(tmp_path / "other.pt", Sparse4D(other))
    with pytest.raises(CheckpointError, match="does not fit demo.*decoder.anchor.*num_anchors=100"):
        build_model(preset("demo"), TRAINING, 0, init=tmp_path / "other.pt")


def test_given_anchors_replace_those_of_the_checkpoint(tmp_path):
    config = preset("demo")
    save_checkpoint(tmp_path / "start.pt", Sparse4D(config))
    np.save(tmp_path / "anchors.npy", np.full((config.num_anchors, 11), 0.25, np.float32))
    model = build_model(config, TRAINING, 0, anchors=tmp_path / "anchors.npy", init=tmp_path / "start.pt")
    assert (model.decoder.anchor == 0.25).all()
    np.save(tmp_path / "few.npy", np.zeros((7, 11), np.float32))
    with pytest.raises(ValueError, match="few.npy has shape .7, 11., demo needs .256, 11."):
        build_model(config, TRAINING, 0, anchors=tmp_path / "few.npy")


def test_a_backbone_of_another_task_fills_the_backbone(tmp_path):
    config = preset("demo")
    trained = Sparse4D(config).backbone.state_dict()
    torch.save(trained, tmp_path / "imagenet.pt")
    model = build_model(config, TRAINING, 5, backbone=tmp_path / "imagenet.pt")
    assert all(torch.equal(value, trained[name]) for name, value in model.backbone.state_dict().items())
    with pytest.raises(ValueError, match="backbone: --init brings the whole model"):
        build_model(config, TRAINING, 5, init=tmp_path / "x.pt", backbone=tmp_path / "imagenet.pt")


@contextmanager
def files_up_to(size: int):
    """Writing more than `size` bytes into a file fails, half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path):
    trainer = tiny_run.tiny_trainer(tmp_path, iterations=1)
    trainer.run()
    weights = (tmp_path / "model.pt").read_bytes()
    trainer.iteration = 2
    with files_up_to(50_000):
        with pytest.raises(
            OSError, match="000000002.pt: checkpoint could not be written.*earlier checkpoints are kept"
        ):
            trainer.save()
        with pytest.raises(OSError, match="model.pt: checkpoint could not be written"):
            trainer.export()
    assert trainer.store.newest()["iteration"] == 1 and (tmp_path / "model.pt").read_bytes() == weights
    assert not list(tmp_path.rglob("*.partial*")) and not list(tmp_path.rglob("*.tmp"))
