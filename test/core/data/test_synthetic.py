"""Rendered scenes: deterministic, geometrically true, and readable by the official devkit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.nuscenes.table_writer import CATEGORY_OF
from sparse4d_core.data.synthetic import __main__ as command
from sparse4d_core.data.synthetic import dataset_renderer
from sparse4d_core.data.synthetic.annotations import schedule
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.data.synthetic.ego_path import Motion, overlaps, poses
from sparse4d_core.data.synthetic.renderer import Renderer, ego_matrix
from sparse4d_core.data.synthetic.world import Actor, build_world
from sparse4d_core.types import CLASS_NAMES

SMALL = NUSCENES_RIG.resized(160, 90)


def digest(root: pathlib.Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        render_dataset(tmp_path / name, 2, 5, duration=1.0, rate=2, rig=SMALL, workers=workers)
    render_dataset(tmp_path / "other", 2, 6, duration=1.0, rate=2, rig=SMALL)
    one, two, other = (digest(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert set(one.values()) & set(other.values()) <= {one["maps/placeholder.png"], *_constant_tables(tmp_path / "one")}


def _constant_tables(root: pathlib.Path) -> set[str]:
    """Tables without scenes in them."""
    names = ("category", "attribute", "visibility", "sensor", "calibrated_sensor")
    return {hashlib.sha256((root / "v1.0-mini" / f"{name}.json").read_bytes()).hexdigest() for name in names}


def test_the_devkit_reads_it(world):
    from nuscenes import NuScenes

    nusc = NuScenes("v1.0-mini", str(world), verbose=False)
    assert len(nusc.scene) == 2 and len(nusc.sample) == 8
    for sample in nusc.sample:
        assert set(sample["data"]) == {camera.channel for camera in SMALL.cameras} | {"LIDAR_TOP"}
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        stamps = [nusc.get("sample_data", token)["timestamp"] for token in sample["data"].values()]
        assert lidar["timestamp"] == sample["timestamp"] == max(stamps)
        assert 40_000 < max(stamps) - min(stamps) < 50_000 and len(set(stamps)) == 7
    for scene in nusc.scene:
        chain = [scene["first_sample_token"]]
        while following := nusc.get("sample", chain[-1])["next"]:
            chain.append(following)
        assert len(chain) == scene["nbr_samples"] and chain[-1] == scene["last_sample_token"]
    for record in nusc.sample_data:
        assert record["sensor_modality"] == "lidar" or (world / record["filename"]).is_file()
        if record["next"]:
            assert nusc.get("sample_data", record["next"])["prev"] == record["token"]
    for instance in nusc.instance:
        chain = nusc.field2token("sample_annotation", "instance_token", instance["token"])
        assert len(chain) == instance["nbr_annotations"]
        assert nusc.get("sample_annotation", instance["last_annotation_token"])["next"] == ""


def test_velocities_follow_from_the_annotations(world):
    from nuscenes import NuScenes

    nusc = NuScenes("v1.0-mini", str(world), verbose=False)
    speeds = {name: [] for name in map(CATEGORY_OF.get, CLASS_NAMES)}
    for record in nusc.sample_annotation:
        velocity = nusc.box_velocity(record["token"])
        if np.isfinite(velocity).all():
            speeds[record["category_name"]].append(np.linalg.norm(velocity))
    assert max(speeds["movable_object.barrier"]) < 1e-6
    assert 0.5 < max(speeds["human.pedestrian.adult"]) < 2.5
    assert 2 < max(speeds["vehicle.car"]) < 15


@pytest.mark.parametrize("seed", [0, 7, 100_000])
def test_every_class_is_seen(seed):
    world = build_world(seed, 0, 4.0)
    assert {actor.name for actor in world.actors} == set(CLASS_NAMES)
    renderer = Renderer(world, SMALL)
    visible = np.zeros(len(world.actors))
    for t in (0.0, 1.3, 2.6, 3.9):
        for i in range(len(SMALL.cameras)):
            visible += renderer.view(i, t).visible_pixels
    assert {a.name for a, pixels in zip(world.actors, visible, strict=True) if pixels >= 4} == set(CLASS_NAMES)


def test_nothing_touches():
    world = build_world(3, 0, 4.0)
    t = np.arange(0, 4.2, 0.25)
    pose, size = world.actor_poses(t), np.array([actor.size[:2] for actor in world.actors])
    for i in range(len(pose) - 1):
        assert not overlaps(pose[i], size[i], pose[i + 1 :], size[i + 1 :, None]).any()


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_pixels_lie_in_the_projected_box(name):
    """An object alone on the road fills its box's outline, seen from where the camera really is."""
    world = build_world(11, 0, 4.0)
    size = next(actor.size for actor in world.actors if actor.name == name)
    alone = Actor(name, size, Motion(11.0, -1.0, 0.7), look=1)
    world = dataclasses.replace(world, actors=(alone,), scenery=())
    rig, t = NUSCENES_RIG.resized(704, 396), 0.4
    camera = rig.cameras[0]
    drawn = Renderer(world, rig).view(0, t).owners == 0
    x, y, yaw = poses(world.path, world.ego, [alone.motion], np.array([t]))[0, 0]
    length, width, height = size
    corners = np.array(
        [[i * length / 2, j * width / 2, k * height, 1] for i in (-1, 1) for j in (-1, 1) for k in (0, 1)]
    )
    T_cam_from_box = np.linalg.inv(ego_matrix(world.ego_pose(t)) @ camera.T_ego_from_cam) @ ego_matrix(
        np.array([x, y, yaw])
    )
    pixels = camera.intrinsic @ (T_cam_from_box @ corners.T)[:3]
    pixels = (pixels[:2] / pixels[2]).T
    outline = np.zeros(drawn.shape, np.uint8)
    cv2.fillConvexPoly(outline, cv2.convexHull(np.round(pixels).astype(np.int32)), 1)
    allowed = cv2.dilate(outline, np.ones((5, 5), np.uint8)).astype(bool)
    assert not (drawn & ~allowed).any()
    # Silhouettes have holes, but they reach the box's ends in both directions.
    assert drawn[outline.astype(bool)].mean() > 0.2
    for axis in (0, 1):
        extent, full = (np.ptp(np.flatnonzero(mask.any(axis=axis))) for mask in (drawn, outline))
        assert extent > 0.55 * full


def test_annotated_boxes_move_with_the_pictures(world):
    """Boxes in the model frame, projected at the cameras' own poses, cover what the renderer drew there."""
    dataset = NuScenesDataset(world, cache=None)
    frame, annotations = dataset[2]
    assert len(annotations) > 5
    centres = np.c_[annotations.boxes[:, :3], np.ones(len(annotations))]
    inside = 0
    for K, T in zip(frame.intrinsics, frame.T_cam_from_model, strict=True):
        x, y, z = K @ (T @ centres.T)[:3]
        inside += ((z > 0) & (x > 0) & (x < 160 * z) & (y > 0) & (y < 90 * z)).astype(int)
    assert (inside >= 1).mean() > 0.8  # large objects may be seen while their centre is not


@settings(max_examples=40, deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-4, 4), st.floats(-4, 4), st.floats(0.5, 8), st.floats(0.5, 3))
def test_overlap_agrees_with_sampling(x, y, yaw_a, yaw_b, length, width):
    a, b = np.array([0.0, 0.0, yaw_a]), np.array([x, y, yaw_b])
    size_a, size_b = np.array([6.0, 2.0]), np.array([length, width])
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.5, 0.5, 41)), -1).reshape(-1, 2)
    points = (ego_matrix(b)[:2, :2] @ (grid * size_b).T).T + b[:2]
    local = (ego_matrix(a)[:2, :2].T @ points.T).T
    if (np.abs(local) < size_a / 2).all(axis=1).any():
        assert overlaps(a, size_a, b, size_b)
    assert overlaps(a, size_a, b, size_b) == overlaps(b, size_b, a, size_a)


def test_every_set_can_be_a_keyframe(tmp_path):
    """What training at mixed intervals needs: annotations at 10 Hz."""
    words = ["--scenes", "1", "--seed", "5", "--duration", "0.5", "--image-size", "160", "90", "--workers", "1"]
    assert command.main(["--out", str(tmp_path), *words, "--rate", "10", "--keyframe-rate", "10"]) == 0
    dataset = NuScenesDataset(tmp_path, cache=None, unknown_velocity=np.nan)
    assert len(dataset) == len(dataset.keyframes) == 5
    assert (np.diff(dataset.index.stamp_us) == 100_000).all()
    world = build_world(5, 0, 0.5)
    moving = np.linalg.norm(np.diff(world.actor_poses(np.array([0.1, 0.3]))[..., :2], axis=1), axis=-1).ravel() / 0.2
    speeds = np.linalg.norm(dataset.annotations(2).boxes[:, 7:9], axis=1)
    assert len(speeds) and all(np.abs(moving - speed).min() < 0.1 for speed in speeds)


def test_refuses_bad_arguments(tmp_path, capsys):
    with pytest.raises(ValueError, match="multiple of 4 Hz .*, got 10"):
        schedule(build_world(0, 0, 2.0), 10, 4)
    with pytest.raises(ValueError, match="keyframe-rate"):
        schedule(build_world(0, 0, 2.0), 10, 0)
    with pytest.raises(ValueError, match="rate"):
        schedule(build_world(0, 0, 2.0), 3)
    with pytest.raises(ValueError, match="duration"):
        build_world(0, 0, float("nan"))
    with pytest.raises(ValueError, match="image size"):
        NUSCENES_RIG.resized(10, 10)
    (tmp_path / "v1.0-mini").mkdir()
    with pytest.raises(FileExistsError, match="v1.0-mini"):
        render_dataset(tmp_path, 1, 0, rig=SMALL)
    assert command.main(["--out", str(tmp_path), "--scenes", "1"]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_tables(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(dataset_renderer, "_write_jpeg", fail)
    with pytest.raises(OSError, match="disk full"):
        render_dataset(tmp_path, 1, 0, duration=1.0, rate=2, rig=SMALL)
    assert not (tmp_path / "v1.0-mini").exists()


def test_splits_name_every_scene(world):
    scenes = json.loads((world / "v1.0-mini" / "scene.json").read_text())
    assert json.loads((world / "v1.0-mini" / "splits.json").read_text()) == {"all": [s["name"] for s in scenes]}
