"""What is drawn of a set, and what a click meets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_scenes import objects, picture, tracks

from sparse4d_core.visualization import box_corners, class_color_rgb
from sparse4d_ros.live_view.drawing import SELECTED_RGB, Choice, draw, hit
from sparse4d_ros.live_view.scene import Moment
from sparse4d_ros.live_view.strip import draw_strip, looking_around, silence
from sparse4d_ros.live_view.stroke_font import lines_in_space, text_lines

FOUND = tracks((4, "car", 0.9, (10, 0)), (5, "pedestrian", 0.6, (0, 8)), (6, "car", 0.1, (-9, 0)))


def test_score_and_classes_decide_what_is_drawn():
    assert draw(FOUND, Choice(0.3)).ids == (4, 5)
    assert draw(FOUND, Choice(0.0)).ids == (4, 5, 6)
    assert draw(FOUND, Choice(0.0, hidden_classes={"car"})).ids == (5,)
    assert draw(FOUND, Choice(0.3)).labels == ("car #4", "pedestrian #5")


def test_every_edge_has_the_colour_of_its_class_and_the_selected_object_another():
    drawing = draw(FOUND, Choice(0.3, selected=5))
    assert drawing.edges.shape == (2 * 14, 2, 3) and drawing.edge_colors.shape == (2 * 14, 2, 3)
    assert set(map(tuple, drawing.edge_colors[:14].reshape(-1, 3))) == {class_color_rgb("car")}
    assert set(map(tuple, drawing.edge_colors[14:].reshape(-1, 3))) == {SELECTED_RGB}
    corners = {tuple(corner) for corner in box_corners(FOUND.boxes[:1])[0]}
    assert {tuple(point) for point in drawing.edges[:14].reshape(-1, 3)} == corners


def test_arrows_show_a_second_of_motion_and_standing_objects_have_none():
    standing = tracks((4, "car", 0.9, (10, 0)), (5, "car", 0.9, (20, 0)))
    standing.boxes[0, 7:9] = 0.1
    drawing = draw(standing, Choice())
    np.testing.assert_allclose(drawing.arrows, [[[20, 0, 1], [20, 3, 1]]])


def test_trails_belong_to_what_is_shown():
    path = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    drawing = draw(FOUND, Choice(0.3), {4: path, 6: path + 5, 99: path + 9})
    np.testing.assert_allclose(drawing.trails, [path[:2], path[1:]])
    assert drawing.trail_colors[-1, 1].tolist() == list(class_color_rgb("car"))
    assert drawing.trail_colors[0, 0].sum() < drawing.trail_colors[1, 1].sum(), "older is darker"


def test_nothing_found_is_nothing_drawn():
    drawing = draw(tracks(), Choice())
    assert drawing.ids == () and len(drawing.edges) == len(drawing.arrows) == len(drawing.trails) == 0
    assert hit(drawing.boxes, np.zeros(3), np.array([1.0, 0, 0])) is None


@given(seed=st.integers(0, 2**32 - 1))
def test_a_ray_meets_the_box_that_it_is_aimed_at_or_one_before_it(seed):
    random = np.random.default_rng(seed)
    boxes = np.zeros((5, 10))
    boxes[:, :3] = random.uniform(-20, 20, (5, 3))
    boxes[:, 3:6], boxes[:, 6] = random.uniform(0.5, 4, (5, 3)), random.uniform(-4, 4, 5)
    inside = random.uniform(-0.49, 0.49, 3) * boxes[2, 3:6]
    cos, sin = np.cos(boxes[2, 6]), np.sin(boxes[2, 6])
    target = boxes[2, :3] + np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ inside
    origin = random.normal(size=3) * 60 + np.array([0, 0, 100.0])
    direction = target - origin
    row = hit(boxes, origin, direction)
    assert row is not None
    assert row == 2 or hit(boxes[[row]], origin, direction) == 0
    assert hit(boxes[[2]], origin, -direction) is None, "behind the eye"


def test_a_ray_along_an_axis():
    boxes = FOUND.boxes[:1]
    assert hit(boxes, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0])) == 0
    assert hit(boxes, np.array([0.0, 1.1, 1.0]), np.array([1.0, 0.0, 0.0])) is None


def test_the_strip_shows_boxes_where_they_are():
    moment = Moment(0.0, objects(0.0, (4, "car", 0.9, (10.0, 0.0))), {"front": picture(0.0)}, {"front": 0.0})
    plain, drawn = (draw_strip(moment, ["front"], Choice(score), (128, 72)) for score in (1.0, 0.3))
    changed = np.argwhere((plain != drawn).any(axis=2))
    assert len(changed) > 20
    rows, columns = changed[:, 0], changed[:, 1]
    np.testing.assert_allclose(columns.mean(), 64, atol=2)  # straight ahead
    assert rows.min() > 30 and rows.max() < 60  # below the horizon, which is in the middle


def test_a_dead_camera_is_told_in_the_strip():
    moment = Moment(9.0, None, {"front": picture(0.0)}, {"front": 5.0})
    assert silence(moment, "front") == "no image for 5 s" and silence(moment, "rear") == "no image"
    assert silence(Moment(9.0, None, {}, {"front": 0.2}), "front") is None
    strip = draw_strip(moment, ["front", "rear"], Choice(), (128, 72))
    assert strip.shape == (72, 256, 3)
    assert (strip[:, :, 0].astype(int) - strip[:, :, 1] > 100).any(axis=0)[:128].any(), "red letters"


def test_cameras_stand_as_one_looks_around():
    def turned(degrees: float):
        image = picture(0.0)
        angle = np.radians(degrees)
        R = np.eye(4)
        R[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return type(image)(0, image.jpeg, image.size_wh, image.intrinsics, R @ image.T_base_from_cam)

    images = {"rear": turned(180), "front": turned(0), "right": turned(-90), "left": turned(90)}
    names = looking_around(images, ("front", "rear", "left", "right", "unknown"))
    assert names == ["rear", "left", "front", "right", "unknown"]


def test_labels_face_the_camera():
    """A camera that looks along +x: letters stand upright in the y-z plane, left to right is +y to -y."""
    T_frame_from_camera = picture(0.0).T_base_from_cam
    lines, owners = lines_in_space(("l", "behind"), np.array([[10.0, 0, 0], [-5.0, 0, 0]]), T_frame_from_camera, 0.1)
    assert set(owners) == {0}, "what is behind the camera has no label"
    np.testing.assert_allclose(lines[..., 0], 10.0, atol=1e-9)
    assert lines[..., 2].min() == pytest.approx(0.0) and lines[..., 2].max() == pytest.approx(1.0)
    np.testing.assert_allclose(lines[0], [[10, 1 / 3, 1.0], [10, 1 / 3, 0.0]], atol=1e-9)  # stem of the L, left


def test_letters():
    assert len(text_lines(" ")) == 0
    np.testing.assert_array_equal(text_lines("car #12"), text_lines("CAR #12"))
    assert len(text_lines("é")) == 4, "an unknown letter is a box"
