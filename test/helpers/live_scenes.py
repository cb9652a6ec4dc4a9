"""Scenes that the live view's tests share."""

from __future__ import annotations

import cv2
import numpy as np

from sparse4d_core.types import CLASS_NAMES, Tracks
from sparse4d_ros.live_view.scene import CameraImage, ObjectSet

SECOND = 1_000_000_000
START = 1_500_000_000 * SECOND  # stamp of the first set, ns


def tracks(*rows: tuple[int, str, float, tuple[float, float]]) -> Tracks:
    """Objects 4 m long, 2 m wide and 1.5 m high that drive 3 m/s to +y; each (id, class, score, (x, y))."""
    boxes = np.array([(x, y, 1.0, 4.0, 2.0, 1.5, 0.0, 0.0, 3.0, 0.0) for _, _, _, (x, y) in rows]).reshape(-1, 10)
    labels = np.array([CLASS_NAMES.index(name) for _, name, _, _ in rows], np.int64)
    scores, ids = np.array([row[2] for row in rows], np.float64), np.array([row[0] for row in rows], np.int64)
    return Tracks(boxes, scores, labels, ids=ids)


def objects(seconds: float, *rows, ego_x: float = 0.0) -> ObjectSet:
    """A set of `tracks`, so many seconds after START, seen from a vehicle at (ego_x, 0)."""
    pose = np.eye(4)
    pose[0, 3] = ego_x
    return ObjectSet(START + round(seconds * SECOND), tracks(*rows), pose)


def picture(seconds: float, shade: int = 128) -> CameraImage:
    """A grey 64x36 image of a camera that looks along +x from 1.5 m above the ground."""
    _, data = cv2.imencode(".jpg", np.full((36, 64, 3), shade, np.uint8))
    T_base_from_cam = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    intrinsics = np.array([[40.0, 0, 32], [0, 40, 18], [0, 0, 1]])
    stamp_ns = START + round(seconds * SECOND)
    return CameraImage(stamp_ns, data.tobytes(), (64, 36), intrinsics, T_base_from_cam, T_base_from_cam)
