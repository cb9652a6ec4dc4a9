"""Lidar files beside key frames, and the depth they supervise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.nuscenes.lidar import LidarFiles
from sparse4d_core.data.nuscenes.tables import DatasetError
from sparse4d_core.training.batches.keyframes import Keyframes
from sparse4d_core.training.batches.loader import Streams, make_loader
from sparse4d_core.training.run.processes import Processes
from sparse4d_core.training.schedule import training_config

POINTS = np.array([[0.0, 20.0, 0.0, 10, 3], [5.0, 30.0, -1.0, 20, 7], [0.0, 0.0, 50.0, 0, 0]], np.float32)


@pytest.fixture
def with_lidar(world, tmp_path):
    """The rendered world with a file for the first key frame: two points before the car, one in the sky."""
    root = shutil.copytree(world, tmp_path / "copy")
    data = NuScenesDataset(root, cache=None)
    path = root / lidar_file(root, data, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    POINTS.tofile(path)
    return data, path


def lidar_file(root, data, i: int) -> str:
    """Name that the tables give to the file of key frame i."""
    records = json.loads((root / data.version / "sample_data.json").read_text())
    token = str(data.index.tokens[data.keyframes[i]])
    return next(
        r["filename"]
        for r in records
        if r["sample_token"] == token and r["is_key_frame"] and "LIDAR_TOP" in r["filename"]
    )


def test_points_of_frames_that_have_a_file(with_lidar):
    data, _ = with_lidar
    lidar = LidarFiles(data)
    assert len(lidar) == 1
    np.testing.assert_array_equal(lidar(int(data.keyframes[0])), POINTS)
    assert lidar(int(data.keyframes[1])) is None


def test_the_tables_are_not_read_again_for_the_lidar(with_lidar, monkeypatch):
    data, _ = with_lidar
    monkeypatch.setattr("sparse4d_core.data.nuscenes.tables.load_scenes", None)
    monkeypatch.setattr("json.loads", None)
    assert len(LidarFiles(data)) == 1


def test_a_file_that_is_cut_off_is_named(with_lidar):
    data, path = with_lidar
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DatasetError, match=f"{path.name}: 14 numbers are no multiple of 5"):
        LidarFiles(data)(int(data.keyframes[0]))


def test_depth_is_learned_where_there_are_points(with_lidar):
    """The point 20 m before the car stands in the front camera's depth map; frames without a file have no map."""
    data, _ = with_lidar
    still = replace(
        training_config("v3_r50"),
        augmentation=replace(training_config("v3_r50").augmentation, scale_range=None),
        sampling=replace(training_config("v3_r50").sampling, skip_probability=0.0, reverse_probability=0.0),
    )
    config = replace(preset("v3_r50"), image=preset("demo").image)
    loader = make_loader(Keyframes(data), config, still, Streams(1, 1), Processes(), seed=0, workers=0)
    batches = {batch.tokens[0]: batch for batch in (loader.take(1)[0] for _ in range(12))}
    depth = batches[str(data.index.tokens[data.keyframes[0]])].targets.depth
    assert [tuple(level.shape) for level in depth] == [(1, 6, 32, 88), (1, 6, 16, 44), (1, 6, 8, 22)]
    front = depth[0][0, data.camera_names.index("CAM_FRONT")]
    found = front[front > 0]
    assert len(found) == 2
    camera = data.frame(int(data.keyframes[0]), images=False)
    expected = camera.T_cam_from_model[data.camera_names.index("CAM_FRONT")] @ [0, 20, 0, 1]
    assert float((found - expected[2]).abs().min()) < 1e-3
    assert batches[str(data.index.tokens[data.keyframes[1]])].targets.depth is None
