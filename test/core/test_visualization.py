"""Pictures: what is drawn lies where it is, and nothing else is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from sparse4d_core.types import CLASS_NAMES, Detections, Frame
from sparse4d_core.visualization import (
    BACKGROUND,
    GROUND_TRUTH_COLOR,
    Trail,
    box_corners,
    class_color,
    draw_bev,
    draw_boxes,
    draw_drive,
    draw_overlay,
)

K = np.array([[100.0, 0, 160], [0, 100, 90], [0, 0, 1]])
FORWARD = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # looks along y of the model frame
BACKWARD = np.array([[-1.0, 0, 0, 0], [0, 0, -1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
CAR, PEDESTRIAN = CLASS_NAMES.index("car"), CLASS_NAMES.index("pedestrian")


def box(x: float, y: float, z: float = 0.0, size=(4.0, 2.0, 1.5), yaw: float = 0.0, speed=(0.0, 0.0)) -> list[float]:
    return [x, y, z, *size, yaw, *speed, 0.0]


def found(*boxes: list[float], label: int = CAR, ids: list[int] | None = None) -> Detections:
    count = len(boxes)
    ids = None if ids is None else np.array(ids)
    return Detections(np.array(boxes).reshape(-1, 10), np.full(count, 0.9), np.full(count, label), ids=ids)


def drawn(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns [n, 2] of the pixels in exactly this colour."""
    return np.argwhere((picture == color).all(-1))


def two_cameras(images) -> Frame:
    return Frame(tuple(images), np.stack([K, K]), np.stack([FORWARD, BACKWARD]), np.eye(4), 0, ("FRONT", "BACK"))


def test_corners_are_turned_by_the_yaw_and_the_first_four_are_in_front():
    (corners,) = box_corners(np.array([box(10, 20, 1, yaw=np.pi / 2)]))
    np.testing.assert_allclose(corners.mean(axis=0), (10, 20, 1))
    np.testing.assert_allclose(np.ptp(corners, axis=0), (2, 4, 1.5))
    np.testing.assert_allclose(corners[:4, 1], 22)


def test_a_box_is_drawn_where_the_camera_sees_it():
    image = np.zeros((180, 320, 3), np.uint8)
    draw_boxes(image, np.array([box(3, 20, 2, size=(2.0, 1.0, 2.0))]), [(0, 0, 255)], K, FORWARD, thickness=1)
    pixels = np.argwhere(image.any(-1))
    rows, columns = pixels.min(axis=0), pixels.max(axis=0)
    near = 19.5  # the face towards the camera is the largest
    expected = (90 - 100 * 3 / near, 160 + 100 * 2 / 20.5), (90 - 100 * 1 / 20.5, 160 + 100 * 4 / near)
    np.testing.assert_allclose((rows, columns), expected, atol=2.0)  # smoothed lines are three pixels wide


@pytest.mark.parametrize(("y", "seen"), [(-20.0, False), (20.0, True)])
def test_boxes_behind_a_camera_are_left_out(y, seen):
    image = np.zeros((180, 320, 3), np.uint8)
    draw_boxes(image, np.array([box(1, y)]), [(0, 0, 255)], K, FORWARD)
    assert image.any() == seen


def test_a_box_that_reaches_behind_the_camera_is_drawn_as_far_as_it_is_seen():
    """A lorry along the right side, 20 m ahead and 20 m back: its edges leave the picture at the right."""
    image = np.zeros((180, 320, 3), np.uint8)
    draw_boxes(image, np.array([box(3, 0, size=(40.0, 2.0, 1.5), yaw=np.pi / 2)]), [(0, 0, 255)], K, FORWARD)
    columns = np.flatnonzero(image.any((0, 2)))
    np.testing.assert_allclose((columns.min(), columns.max()), (160 + 100 * 2 / 20, 319), atol=2.0)


def test_overlay_shows_each_box_in_its_camera_and_names_a_missing_one():
    width, black = 200, np.zeros((180, 320, 3), np.uint8)
    picture = draw_overlay(two_cameras([black, black]), found(box(0, -15), label=PEDESTRIAN), tile_width=width)
    height = 112  # of a tile: front above, back below, bird's-eye view at the right
    assert picture.shape == (2 * height, width + 2 * height, 3)
    rows, columns = drawn(picture[:, :width], class_color("pedestrian")).T
    assert len(rows) > 20 and rows.min() >= height, "the box lies behind the vehicle"
    missing = draw_overlay(two_cameras([black, None]), found(), tile_width=width)
    assert (missing[height + 40 : 2 * height, :width] == 70).all(), "a grey tile"
    assert not (missing[:height, :width] == 70).all(axis=-1).any()


def test_overlay_draws_the_truth_in_grey():
    black = np.zeros((180, 320, 3), np.uint8)
    plain, with_truth = (
        draw_overlay(two_cameras([black, black]), found(), tile_width=200, ground_truth=truth)
        for truth in (None, found(box(0, 15)))
    )
    rows, columns = np.nonzero((plain != with_truth).any(-1))
    ahead = columns < 200
    assert 0 < rows[ahead].min() and rows[ahead].max() < 112, "in the front camera's tile"
    assert (columns >= 200).any(), "and in the bird's-eye view"
    new = with_truth[rows, columns][ahead].astype(int)
    assert np.ptp(new, axis=1).max() == 0 and new.max() > GROUND_TRUTH_COLOR[0] / 2, "shades of grey on black"


@pytest.mark.parametrize(("forward", "place"), [(np.pi / 2, (150, 80)), (0.0, (270, 200))])
def test_birds_eye_view_has_forward_up(forward, place):
    """A box 30 m along y and 15 m to the left of it, 4 pixels a metre: above when y is forward, right when x is."""
    picture = draw_bev(found(box(-15, 30), label=PEDESTRIAN), size=400, extent=50, forward=forward)
    rows, columns = drawn(picture, class_color("pedestrian")).T
    x, y = (-15, 30) if forward else (-30, -15)
    expected = 200 - 4 * y, 200 + 4 * x
    np.testing.assert_allclose(((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2), expected, atol=2)


def test_the_drive_has_the_path_in_white_and_each_track_in_the_colour_of_its_class():
    path = np.stack([np.zeros(5), np.arange(5) * 10.0], axis=1)
    tracks = {7: Trail(path + (20, 0), "pedestrian")}
    picture = draw_drive(path, tracks, size=400)
    assert picture.shape == (400, 400, 3) and tuple(picture[-1, -1]) == BACKGROUND
    legend = 240  # rows that the names of the classes take
    white, colored = drawn(picture[legend:], (255, 255, 255)), drawn(picture[legend:], class_color("pedestrian"))
    assert np.median(white[:, 1]) < np.median(colored[:, 1]), "the track lies right of the path"
