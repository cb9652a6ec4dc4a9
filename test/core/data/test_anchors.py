"""Anchors by k-means."""

import numpy as np
import pytest

from sparse4d_core.data import anchors
from sparse4d_core.data.anchors import kmeans_anchors
from sparse4d_core.types import COS_YAW, LOG_HEIGHT, LOG_LENGTH, SIN_YAW


def clusters(rng, count, per_cluster=30):
    centres = np.stack([np.linspace(-40, 40, count), rng.uniform(-10, 10, count), rng.uniform(-1, 1, count)], axis=1)
    points = np.repeat(centres, per_cluster, axis=0) + rng.normal(0, 0.05, (count * per_cluster, 3))
    return centres, np.concatenate([points, rng.uniform(1, 5, (len(points), 3)), np.zeros((len(points), 3))], axis=1)


def test_finds_the_clusters_of_boxes_in_range():
    centres, boxes = clusters(np.random.default_rng(0), 8)
    far = np.array([[60.0, 0, 0, 100, 100, 100, 0, 0, 0]] * 50)
    found = kmeans_anchors(np.concatenate([boxes, far]), 8)
    assert found.shape == (8, 11) and found.dtype == np.float32
    np.testing.assert_allclose(found[np.argsort(found[:, 0]), :3], centres, atol=0.1)
    mean = boxes[:, 3:6].mean(axis=0)
    np.testing.assert_allclose(np.exp(found[:, LOG_LENGTH : LOG_HEIGHT + 1]), np.tile(mean, (8, 1)), rtol=1e-5)
    assert (found[:, COS_YAW] == 1).all() and (found[:, SIN_YAW] == 0).all() and (found[:, 8:] == 0).all()


def test_depends_on_the_seed_alone():
    _, boxes = clusters(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(kmeans_anchors(boxes, 30, seed=4), kmeans_anchors(boxes, 30, seed=4))


def test_scipy_before_1_15_takes_the_same_call(monkeypatch):
    """Its generator is called `seed`; `rng` came with 1.15. Later versions take both."""
    _, boxes = clusters(np.random.default_rng(1), 20)
    today = kmeans_anchors(boxes, 30)
    newer = anchors.kmeans2

    def older(data, k, iter=10, thresh=1e-05, minit="random", missing="warn", check_finite=True, *, seed=None):
        return newer(data, k, iter, thresh, minit, missing, check_finite, rng=seed)

    monkeypatch.setattr(anchors, "kmeans2", older)
    np.testing.assert_array_equal(kmeans_anchors(boxes, 30), today)


def test_needs_enough_boxes():
    _, boxes = clusters(np.random.default_rng(2), 2, per_cluster=3)
    with pytest.raises(ValueError, match="at least 900"):
        kmeans_anchors(boxes, 900)


def test_command(world, tmp_path, capsys):
    out = tmp_path / "anchors.npy"
    assert anchors.main(["--dataroot", str(world), "--num", "16", "--out", str(out)]) == 0
    assert np.load(out, allow_pickle=False).shape == (16, 11)
    cars = tmp_path / "cars.npy"
    assert anchors.main(["--dataroot", str(world), "--classes", "car", "--num", "4", "--out", str(cars)]) == 0
    sizes = [np.exp(np.load(path)[0, LOG_LENGTH : LOG_HEIGHT + 1]) for path in (out, cars)]
    assert not np.allclose(*sizes), "the sizes are those of all classes"
    assert anchors.main(["--dataroot", str(tmp_path), "--out", str(out)]) == 2
    assert "v1.0-mini" in capsys.readouterr().err
