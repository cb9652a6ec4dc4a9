"""Faults do what they are called, the same every time; rows, the sheet and its two figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sparse4d_core.boxes import inverse
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.evaluation.report.breakdown import camera_views
from sparse4d_core.evaluation.report.confidence import by_class, scores
from sparse4d_core.evaluation.report.detection_matches import collect
from sparse4d_core.evaluation.results import ResultsWriter
from sparse4d_core.evaluation.robustness import __main__ as command
from sparse4d_core.evaluation.robustness import frame_faults as faults
from sparse4d_core.evaluation.robustness.corruptions import CORRUPTIONS
from sparse4d_core.evaluation.robustness.frame_faults import Instant
from sparse4d_core.evaluation.robustness.rows import all_rows, chosen, data_rate
from sparse4d_core.evaluation.robustness.sheet import (
    DETR3D,
    Measured,
    markdown,
    mean_corruption_error,
    mean_resilience_rate,
    seen_scores,
)
from sparse4d_core.evaluation.run_folder import scene_content

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One scene of 2 s at 4 Hz: eight sets, four of them key frames."""
    root = tmp_path_factory.mktemp("robust")
    render_dataset(root, 1, 100_777, duration=2.0, rate=4, rig=NUSCENES_RIG.resized(160, 90))
    return NuScenesDataset(root, sweeps=True, cache=None)


@pytest.fixture(scope="module")
def frame(data):
    return data.frame(4)


@pytest.fixture(scope="module")
def instant(data, frame):
    return Instant(data, data.index.scene_names[0], frame.stamp_ns)


@pytest.fixture(scope="module")
def rows(data):
    return {row.name: row for row in all_rows(data.camera_names)}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_harder_is_further_from_the_image(frame, kind):
    image = frame.images[0]
    spoiled = [CORRUPTIONS[kind](image, severity, np.random.default_rng(0)) for severity in range(3)]
    far = [np.abs(one.astype(float) - image).mean() for one in spoiled]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in spoiled)
    assert 1 < far[0] < far[1] < far[2] < 130


def test_what_corruptions_are(frame):
    image, rng = frame.images[0], np.random.default_rng(0)
    assert CORRUPTIONS["brightness"](image, 0, rng).mean() > image.mean() + 20
    assert CORRUPTIONS["low_light"](image, 0, rng).mean() < 0.8 * image.mean()
    assert len(np.unique(CORRUPTIONS["color_quant"](image, 2, rng))) <= 4
    assert CORRUPTIONS["fog"](image, 2, rng).std() < image.std()
    step = np.zeros((40, 160, 3), np.uint8)
    step[:, 80:] = 255
    blurred = CORRUPTIONS["motion_blur"](step, 2, rng)
    assert len(np.unique(blurred[20])) > 3 and blurred.mean() == pytest.approx(step.mean(), abs=4)


def test_every_fault_is_the_same_every_time(frame, instant, rows):
    for row in rows.values():
        one, two = (row.fault.apply(frame, instant) for _ in range(2))
        for name in ("intrinsics", "T_cam_from_model", "T_global_from_model"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), row.name
        for a, b in zip(one.images, two.images, strict=True):
            assert (a is None and b is None) or np.array_equal(a, b), row.name


def test_cameras_and_images_that_are_missing(frame, instant, data):
    one = faults.CamerasGone(names=("CAM_BACK",)).apply(frame, instant)
    assert [name for name, image in zip(frame.camera_names, one.images, strict=True) if image is None] == ["CAM_BACK"]
    for count in (2, 4, 5):
        fault = faults.CamerasGone(of_six=count)
        assert sum(image is None for image in fault.apply(frame, instant).images) == count
        later = replace(instant, stamp_ns=instant.stamp_ns + 1)
        assert fault.gone(data.camera_names, instant) == fault.gone(data.camera_names, later), "not for the whole scene"
    stamps = [replace(instant, stamp_ns=instant.stamp_ns + n) for n in range(200)]
    lost = [image is None for at in stamps for image in faults.ImagesLost(0.3).apply(frame, at).images]
    assert np.mean(lost) == pytest.approx(0.3, abs=0.05)


def test_calibration_is_off_by_what_it_is_called(frame, instant):
    turned = faults.ExtrinsicsOff(degrees=1.0).apply(frame, instant).T_cam_from_model
    moved = faults.ExtrinsicsOff(metres=0.05).apply(frame, instant).T_cam_from_model
    for before, one, two in zip(frame.T_cam_from_model, turned, moved, strict=True):
        angle = Rotation.from_matrix((one @ inverse(before))[:3, :3]).magnitude()
        assert np.degrees(angle) == pytest.approx(1.0) and np.allclose((one @ inverse(before))[:3, 3], 0)
        assert np.linalg.norm((two @ inverse(before))[:3, 3]) == pytest.approx(0.05)
    focal = faults.IntrinsicsOff(0.02).apply(frame, instant).intrinsics[:, 0, 0] / frame.intrinsics[:, 0, 0]
    assert np.abs(focal - 1) == pytest.approx(0.02)


def test_wrong_stamps_are_poses_of_another_time(data, frame, instant):
    """One set later is exactly the next pose; a camera's pose is then where the vehicle was or will be."""
    rows = data.scene_frames(instant.scene)
    here = int(np.flatnonzero(rows == 4)[0])
    gap = (data.index.stamp_us[rows[here + 1]] - data.index.stamp_us[rows[here]]) * 1e-6
    moved = instant.motion(gap) @ frame.T_global_from_model
    np.testing.assert_allclose(moved, data.index.T_global_from_model[rows[here + 1]], atol=1e-9)
    np.testing.assert_allclose(instant.motion(0.0), np.eye(4), atol=1e-12)
    late = faults.EgoStampsOff(gap).apply(frame, instant).T_global_from_model
    np.testing.assert_allclose(late, data.index.T_global_from_model[rows[here - 1]], atol=1e-9)
    off = faults.StampsOff(0.1).apply(frame, instant).T_cam_from_model
    shift = [np.linalg.norm((one @ inverse(two))[:3, 3]) for one, two in zip(off, frame.T_cam_from_model, strict=True)]
    speed = np.linalg.norm(instant.motion(0.1)[:3, 3] + (instant.motion(0.1)[:3, :3] - np.eye(3)) @ moved[:3, 3]) / 0.1
    assert np.mean(shift) == pytest.approx(0.1 * speed, rel=0.3)


def test_noise_of_the_pose(frame, instant):
    stamps = [replace(instant, stamp_ns=instant.stamp_ns + n) for n in range(300)]
    poses = [faults.EgoNoise(0.2, 0.5).apply(frame, at).T_global_from_model for at in stamps]
    off = np.array([inverse(frame.T_global_from_model) @ pose for pose in poses])
    assert off[:, :2, 3].std() == pytest.approx(0.2, rel=0.15)
    assert np.degrees(np.arctan2(off[:, 1, 0], off[:, 0, 0])).std() == pytest.approx(0.5, rel=0.2)


def test_rates(data, rows):
    scene = data.index.scene_names[0]
    assert data_rate(data) == pytest.approx(4, rel=0.05)
    assert rows["rate_2_hz"].rows(data, scene) == data.keyframes.tolist() == rows["clean"].rows(data, scene)
    assert rows["rate_1_hz"].rows(data, scene) == data.keyframes[::2].tolist()
    assert rows["rate_10_hz"].rows(data, scene) == data.scene_frames(scene).tolist()


def test_which_rows_are_chosen(rows):
    every = list(rows.values())
    assert len(rows) == len(every) > 50 and sum(row.benchmark for row in every) == 24
    some = chosen(every, [], 4.0)
    assert len({row.group for row in some}) == len(some) and "fog_moderate" in {row.name for row in some}
    assert [row.name for row in chosen(every, ["snow_*"], 4.0)] == ["clean", "snow_easy", "snow_moderate", "snow_hard"]
    assert "rate_20_hz" not in {row.name for row in chosen(every, ["*"], 4.0)}
    with pytest.raises(ValueError, match="hail"):
        chosen(every, ["hail"], 4.0)
    with pytest.raises(ValueError, match="more than the 4 Hz"):
        chosen(every, ["rate_20_hz"], 4.0)


def test_error_and_resilience(rows):
    every = list(rows.values())
    severe = enumerate(row for row in every if row.benchmark)
    as_detr3d = {row.name: Measured(DETR3D[row.group][number % 3], 0.3) for number, row in severe}
    found = {"clean": Measured(0.4224, 0.3468), **as_detr3d}
    assert mean_corruption_error(every, found) == pytest.approx(1.0)
    expected = np.mean([np.mean(DETR3D[name]) / 0.4224 for name in DETR3D])
    assert mean_resilience_rate(every, found) == pytest.approx(expected) and 0.7 < expected < 0.71
    unhurt = {name: Measured(0.5, 0.3) for name in found}
    assert mean_resilience_rate(every, unhurt) == 1 and mean_corruption_error(every, unhurt) < 1
    del found["fog_hard"]
    assert mean_corruption_error(every, found) is None and mean_resilience_rate(every, found) is None
    assert "| fog_easy | 0.4047 | 96 % |" in markdown([rows["clean"], rows["fog_easy"]], every, found)


def test_scores_of_what_remaining_cameras_see(three_scenes, shifted_truth):
    """Nothing gone: the score of all. With a camera gone, boxes that are missing there cost nothing."""
    data = NuScenesDataset(three_scenes, cache=None)
    matches = collect(three_scenes, "v1.0-mini", shifted_truth[0], data.index.scene_names.tolist())
    views = camera_views(data, matches.objects), camera_views(data, matches.boxes)
    full = scores(by_class(matches), np.ones(3))
    anywhere = [[seen or ("X",) for seen in side] for side in views]
    assert seen_scores(matches, *anywhere, {}) == (full["NDS"], full["mAP"])
    gone = {scene: {"CAM_BACK"} for scene in matches.scenes}
    blind = np.array([seen == ("CAM_BACK",) for seen in views[1]])
    missing = replace(matches.boxes, score=np.where(blind, 0.0, matches.boxes.score))
    assert blind.sum() > 3
    assert seen_scores(replace(matches, boxes=missing), *views, gone) == seen_scores(matches, *views, gone)


def test_a_rig_of_one_camera_has_its_row_without_it(tmp_path, monkeypatch):
    """No frame of that row is run, and nobody sees what could be scored by itself."""
    rig = NUSCENES_RIG.resized(160, 90)
    render_dataset(tmp_path / "one", 1, 100_777, duration=1.0, rate=2, rig=replace(rig, cameras=rig.cameras[:1]))

    def find_nothing(task, streams, *_):
        for scene in (scene for stream in streams for scene in stream.scenes):
            task.folder.write_scene(scene, scene_content(scene, ResultsWriter()))

    monkeypatch.setattr(command, "run_streams", find_nothing)
    words = ["--model", "demo", "--dataroot", str(tmp_path / "one"), "--out", str(tmp_path / "sheet"), "--no-tracking"]
    assert command.main([*words, "--rows", "camera_gone_*"]) == 0
    rows = json.loads((tmp_path / "sheet" / "sheet.json").read_text())["rows"]
    assert list(rows) == ["clean", "camera_gone_cam_front"]
    assert rows["camera_gone_cam_front"]["nds"] == 0 and rows["camera_gone_cam_front"]["seen_nds"] is None


def test_the_command(data, tmp_path, monkeypatch, capsys):
    calls = []
    evaluate = command.evaluate
    monkeypatch.setattr(command, "evaluate", lambda *a, **k: calls.append(a) or evaluate(*a, **k))
    words = ["--model", "demo", "--dataroot", str(data.dataroot), "--out", str(tmp_path / "sheet"), "--no-tracking"]
    words += ["--workers", "0", "--rows", "camera_crash_hard", "rate_1_hz"]
    assert command.main(words) == 0
    sheet = json.loads((tmp_path / "sheet" / "sheet.json").read_text())["rows"]
    assert list(sheet) == ["clean", "camera_crash_hard", "rate_1_hz"] and len(calls) == 3
    assert sheet["camera_crash_hard"]["nds"] < sheet["clean"]["nds"] and sheet["clean"]["seen_nds"] is None
    assert sheet["camera_crash_hard"]["seen_nds"] > sheet["camera_crash_hard"]["nds"]
    assert 0 < sheet["rate_1_hz"]["map"] < sheet["clean"]["map"], "between two results the newest boxes move on"
    assert "data:image/svg+xml" in (tmp_path / "sheet" / "sheet.html").read_text()
    assert command.main(words) == 2 and "--resume" in capsys.readouterr().err
    assert command.main([*words, "--resume"]) == 0 and len(calls) == 3, "a row that was done was run again"
    (tmp_path / "sheet" / "rows" / "rate_1_hz" / "measured.json").unlink()
    assert command.main([*words, "--resume"]) == 0 and len(calls) == 4
    assert json.loads((tmp_path / "sheet" / "sheet.json").read_text())["rows"] == sheet
    assert command.main([*words[:4], "--list"]) == 0
    assert "ego_noise_5_cm" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(words[:4])
    assert "--out" in capsys.readouterr().err
