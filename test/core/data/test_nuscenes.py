"""nuScenes data sets as frames and annotations."""

from __future__ import annotations

import json
import pathlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from golden_data import Golden, golden_parameters

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset, loaded_annotations
from sparse4d_core.data.nuscenes.index import CAMERAS, build_index
from sparse4d_core.data.nuscenes.tables import MODEL_CHANNEL, DatasetError, SceneTables
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset


def tables_of(calibration: dict, stamp: int) -> SceneTables:
    """One sample with the recorded calibration."""
    data, calibrated, poses, sensors = [], {}, {}, {}
    sources = [
        (c, calibration["camera_calibrated_sensor"][c], calibration["camera_ego_pose"][c])
        for c in calibration["cameras"]
    ]
    sources.append((MODEL_CHANNEL, calibration["lidar_calibrated_sensor"], calibration["lidar_ego_pose"]))
    for channel, mount, pose in sources:
        modality = "lidar" if channel == MODEL_CHANNEL else "camera"
        sensors[channel] = {"token": channel, "channel": channel, "modality": modality}
        calibrated[channel] = {"token": channel, "sensor_token": channel, **mount}
        poses[channel] = {"token": channel, **pose}
        data.append(
            {"token": channel, "calibrated_sensor_token": channel, "ego_pose_token": channel, "timestamp": stamp,
             "is_key_frame": True, "filename": f"{channel}.jpg"}
        )  # fmt: skip
    scene = {"token": "scene", "name": "scene"}
    sample = {"token": "sample", "timestamp": stamp}
    return SceneTables(
        dataroot="", scenes=[scene], samples={"scene": [sample]}, sample_data={"sample": data},
        annotations={"sample": []}, calibrated_sensor=calibrated, sensor=sensors, ego_pose=poses,
        instance={}, category={}, attribute={},
    )  # fmt: skip


@pytest.mark.parametrize("file, case", golden_parameters("preprocess", ["cal", "gt"]))
def test_golden(golden, file, case):
    data = Golden(golden, file)
    if case == "gt":
        names = data.json("meta_json")["gt_raw_names"]
        points, ids = data["gt_raw_num_lidar_pts"], data["gt_raw_instance_inds"]
        loaded = loaded_annotations(data["gt_raw_boxes_f64"], data["gt_raw_velocity_f64"], names, points, ids)
        data.check("gt_loaded_boxes_f64", loaded.boxes, 1e-12)
        data.check("gt_loaded_labels", loaded.labels, 0)
        data.check("gt_loaded_instance_inds", loaded.instance_ids, 0)
        return
    stamp = round(float(data["cal_timestamp_f64"]) * 1e6)
    index = build_index(tables_of(data.json("meta_json")["calibration"], stamp))
    assert tuple(index.camera_names) == CAMERAS
    T_lidar_from_cam = np.linalg.inv(index.T_cam_from_model[0])
    data.check("cal_sensor2lidar_rotation_f64", T_lidar_from_cam[:, :3, :3], 1e-9)
    data.check("cal_sensor2lidar_translation_f64", T_lidar_from_cam[:, :3, 3], 1e-8)
    data.check("cal_intrinsic_f64", index.intrinsics[0], 1e-12)
    K = np.tile(np.eye(4), (len(CAMERAS), 1, 1))
    K[:, :3, :3] = index.intrinsics[0]
    data.check("cal_lidar2img_f64", K @ index.T_cam_from_model[0], 1e-6, rtol=1e-9)
    data.check("cal_lidar2global_f64", index.T_global_from_model[0], 1e-9)
    data.check("cal_timestamp_f64", np.float64(index.stamp_us[0] * 1e-6), 1e-6)


def test_boxes_and_velocities_equal_the_devkits(world):
    from nuscenes import NuScenes
    from nuscenes.eval.common.utils import quaternion_yaw
    from pyquaternion import Quaternion

    nusc = NuScenes("v1.0-mini", str(world), verbose=False)
    index = NuScenesDataset(world, cache=None).index
    for i, token in enumerate(index.tokens):
        sample = nusc.get("sample", token)
        rows = slice(index.annotation_start[i], index.annotation_start[i + 1])
        _, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        by_token = {box.token: box for box in boxes}
        mine = dict(zip(sample["anns"], zip(index.boxes[rows], index.velocity[rows], strict=True), strict=True))
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        chain = [
            Quaternion(nusc.get("ego_pose", lidar["ego_pose_token"])["rotation"]).inverse,
            Quaternion(nusc.get("calibrated_sensor", lidar["calibrated_sensor_token"])["rotation"]).inverse,
        ]
        for annotation, (box, velocity) in mine.items():
            theirs = by_token[annotation]
            np.testing.assert_allclose(box[:3], theirs.center, atol=1e-6)
            np.testing.assert_allclose(box[3:6], theirs.wlh[[1, 0, 2]])
            assert abs((box[6] - quaternion_yaw(theirs.orientation) + np.pi) % (2 * np.pi) - np.pi) < 1e-6
            expected = chain[1].rotate(chain[0].rotate(nusc.box_velocity(annotation)))
            np.testing.assert_allclose(velocity, expected[:2], atol=1e-6)


def test_frames(world):
    dataset = NuScenesDataset(world, sweeps=True, cache=None)
    assert len(dataset) == 16 and len(dataset.keyframes) == 8 and not dataset.missing_images()
    assert (np.diff(dataset.index.stamp_us) > 0).all()
    assert dataset.index.scene.tolist() == [0] * 8 + [1] * 8
    frame, annotations = dataset[0]
    assert frame.camera_names == CAMERAS and frame.images[3].shape == (90, 160, 3)
    assert frame.stamp_ns == dataset.index.stamp_us[0] * 1000 >= dataset.index.camera_stamp_us[0].max() * 1000
    assert len(annotations) and (annotations.labels >= 0).all()
    sweep, nothing = dataset[1]
    assert sweep.token == "" and len(nothing) == 0
    assert dataset.frame(0, images=False).images == (None,) * 6
    name = str(dataset.index.scene_names[1])
    assert dataset.scene_frames(name).tolist() == list(range(8, 16))
    assert len(NuScenesDataset(world, scenes=[name], cache=None)) == 4
    assert len(NuScenesDataset(world, split="all", cache=None)) == 8


def test_sweeps_are_sets_of_their_own_time(tmp_path):
    """At 20 Hz the cameras, which fire in turn, take nearly a period: the image nearest in time is of another set."""
    render_dataset(tmp_path, 1, 5, duration=0.5, rate=20, rig=NUSCENES_RIG.resized(160, 90))
    index = NuScenesDataset(tmp_path, sweeps=True, cache=None).index
    assert np.diff(index.stamp_us).tolist() == [50_000] * 9
    turns = index.camera_stamp_us - index.stamp_us[:, None]
    assert (turns == turns[:1]).all() and len(np.unique(index.files)) == index.files.size


def test_index_is_cached_without_pickles(world, tmp_path, monkeypatch):
    first = NuScenesDataset(world, cache=tmp_path).index
    (file,) = tmp_path.glob("*.npz")
    np.load(file, allow_pickle=False).close()
    with monkeypatch.context() as patch:
        patch.setattr("sparse4d_core.data.nuscenes.index.build_index", None)  # must not be called
        again = NuScenesDataset(world, cache=tmp_path).index
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(again, name))
    file.write_bytes(file.read_bytes()[:500])
    assert len(NuScenesDataset(world, cache=tmp_path)) == 8  # damaged: built again


def test_processes_that_start_together_read_the_tables_once(world, tmp_path, monkeypatch):
    """As ranks of a training do; threads stand for them, a file lock holds between those as well."""
    builds, second = [], threading.Event()

    def slow_build(*arguments):
        builds.append(threading.get_ident())
        if len(builds) == 2:
            second.set()
        second.wait(0.3)  # time for the other to come here too, if nothing kept it
        return build_index(*arguments)

    monkeypatch.setattr("sparse4d_core.data.nuscenes.index.build_index", slow_build)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: NuScenesDataset(world, cache=tmp_path).index.tokens.tolist(), range(2)))
    assert len(builds) == 1 and found[0] == found[1]


def test_the_index_lies_in_the_users_cache(world, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    NuScenesDataset(world)
    assert list((tmp_path / "sparse4d_ros").glob("index-*.npz"))


@pytest.mark.parametrize("home", ["regular file", "unknown"])
def test_without_a_place_for_the_index_the_data_set_is_there(world, tmp_path, monkeypatch, caplog, home):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").write_text("")
    if home == "unknown":
        monkeypatch.setattr(pathlib.Path, "home", raising(RuntimeError("Could not determine home directory.")))
    assert len(NuScenesDataset(world)) == 8
    assert caplog.text.count("is not cached") == 1 and "XDG_CACHE_HOME" in caplog.text


def raising(error: Exception):
    def raises(*_):
        raise error

    return raises


@pytest.fixture
def copy(world, tmp_path):
    return shutil.copytree(world, tmp_path / "copy")


def edit(root, table, change) -> None:
    path = root / "v1.0-mini" / f"{table}.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([r for r in records if change(r) is not False]))


def test_names_what_is_missing(copy):
    file = NuScenesDataset(copy, cache=None).index.files[0][2]
    (copy / file).write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(DatasetError, match="cannot be decoded"):
        NuScenesDataset(copy, cache=None).frame(0)
    (copy / file).unlink()
    with pytest.raises(DatasetError, match=str(file)):
        NuScenesDataset(copy, cache=None).frame(0)
    assert NuScenesDataset(copy, cache=None).missing_images() == [file]
    with pytest.raises(DatasetError, match="scene-0000"):
        NuScenesDataset(copy, scenes=["scene-0000"], cache=None)
    with pytest.raises(DatasetError, match="unknown 'nothing'"):
        NuScenesDataset(copy, split="nothing", cache=None)
    (copy / "v1.0-mini" / "ego_pose.json").unlink()
    with pytest.raises(DatasetError, match="ego_pose.json"):
        NuScenesDataset(copy, cache=None)


def test_counts_what_cannot_be_learned(copy):
    first = NuScenesDataset(copy, cache=None)
    visible = json.loads((copy / "v1.0-mini" / "sample_annotation.json").read_text())
    chosen = next(r["token"] for r in visible if r["num_lidar_pts"] and r["sample_token"] == first.index.tokens[0])
    edit(copy, "sample_annotation", lambda r: r.update(size=[0, 1, 1]) if r["token"] == chosen else None)
    dataset = NuScenesDataset(copy, cache=None)
    assert dataset.problems["annotations with a size that is not positive (left out)"] == 1
    assert len(dataset.annotations(0)) == len(first.annotations(0)) - 1
    edit(copy, "sample_annotation", lambda r: False)
    empty = NuScenesDataset(copy, cache=None)
    assert empty.problems == {"keyframes without any annotation": 8} and len(empty.annotations(0)) == 0


def test_unknown_velocity_is_zero_or_kept():
    boxes, velocity = np.ones((2, 7)), np.array([[np.nan, np.nan], [1.0, 2.0]])
    arguments = (boxes, velocity, ["car", "car"], np.array([1, 1]), np.array([0, 1]))
    assert loaded_annotations(*arguments).boxes[0, 7:].tolist() == [0, 0]
    assert np.isnan(loaded_annotations(*arguments, unknown_velocity=np.nan).boxes[0, 7:]).all()


def test_boxes_with_few_lidar_points_are_left_out(world):
    points = NuScenesDataset(world, cache=None).index.num_lidar_points
    for least in (0, 1, 3):
        dataset = NuScenesDataset(world, min_lidar_points=least, cache=None)
        assert sum(len(dataset.annotations(i)) for i in dataset.keyframes) == (points >= least).sum()
