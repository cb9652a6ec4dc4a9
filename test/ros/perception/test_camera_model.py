"""CameraInfo: intrinsics, binning, distortion policies."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs")
from sensor_msgs.msg import CameraInfo  # noqa: E402

from sparse4d_ros.perception.camera_model import camera_model, is_rectified  # noqa: E402
from sparse4d_ros.perception.image_decoding import ConversionError  # noqa: E402

K = np.array([[120.0, 0, 80], [0, 121.0, 45], [0, 0, 1]])
MODELS = {
    "plumb_bob": [-0.3, 0.1, 0.001, -0.002, 0.01],
    "rational_polynomial": [-0.2, 0.05, 0.001, 0.0, 0.01, 0.1, 0.02, 0.0],
    "thin_prism": [-0.2, 0.05, 0.001, 0.0, 0.01, 0.1, 0.02, 0.0, 0.02, -0.01, 0.01, 0.005],
    "tilted": [-0.2, 0.05, 0.001, 0.0, 0.01, 0.1, 0.02, 0.0, 0.02, -0.01, 0.01, 0.005, 0.02, -0.03],
    "equidistant": [-0.05, 0.01, -0.002, 0.0005],
}
ROS_NAME = {"thin_prism": "rational_polynomial", "tilted": "rational_polynomial"}


def camera_info(**changes) -> CameraInfo:
    info = CameraInfo(width=160, height=90, distortion_model="plumb_bob", k=K.ravel(), d=[0.0] * 5)
    info.header.frame_id = "cam_front"
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def test_rectified_camera():
    model = camera_model(camera_info())
    np.testing.assert_array_equal(model.intrinsics, K)
    assert (model.size_wh, model.frame_id, model.maps) == ((160, 90), "cam_front", None)


@pytest.mark.parametrize("k", [np.zeros(9), np.full(9, np.nan), [120.0, 0, 80, 0, -1, 45, 0, 0, 1], np.ones(9)])
def test_bad_k_is_refused(k):
    with pytest.raises(ConversionError, match="cam_front: K") as caught:
        camera_model(camera_info(k=k))
    assert caught.value.cause == "camera_info"


def test_distortion_is_refused_by_default():
    with pytest.raises(ConversionError, match="'undistort'") as caught:
        camera_model(camera_info(d=MODELS["plumb_bob"]))
    assert caught.value.cause == "distortion"


def test_rectified_policy_takes_p():
    P = np.hstack([np.diag((100.0, 101.0, 1.0)), np.zeros((3, 1))])
    model = camera_model(camera_info(d=MODELS["plumb_bob"], p=P.ravel()), "rectified")
    np.testing.assert_array_equal(model.intrinsics, P[:, :3])
    assert model.maps is None


def dot_at(u: float, v: float, size_wh: tuple[int, int] = (160, 90)) -> np.ndarray:
    """[H, W, 3] uint8 with a blurred dot."""
    y, x = np.mgrid[: size_wh[1], : size_wh[0]]
    dot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)
    return np.repeat(dot[..., None], 3, axis=2).astype(np.uint8)


def centre_of(image: np.ndarray) -> np.ndarray:
    """(u, v) of the brightness."""
    light = image[..., 0].astype(float)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    return np.array(((light * x).sum(), (light * y).sum())) / light.sum()


@pytest.mark.parametrize("name", MODELS)
def test_undistort_puts_points_where_the_pinhole_has_them(name):
    """A blurred dot drawn at the distorted projection of a 3D point ends up where the model projects the point."""
    d = np.array(MODELS[name])
    model = camera_model(camera_info(distortion_model=ROS_NAME.get(name, name), d=d), "undistort")
    if name != "equidistant":
        np.testing.assert_array_equal(model.intrinsics, K)
    np.testing.assert_array_equal(model.T_cam_from_optical, np.eye(4))
    project = cv2.fisheye.projectPoints if name == "equidistant" else cv2.projectPoints
    for point in np.array([(-0.3, 0.2, 1), (0.4, -0.2, 1), (0.05, 0.1, 1)]):
        u, v = project(point.reshape(1, 1, 3), np.zeros(3), np.zeros(3), K, d)[0].ravel()
        rectified = model.rectify(dot_at(u, v))
        np.testing.assert_allclose(centre_of(rectified), (model.intrinsics @ point)[:2], atol=0.2)


# ---------------------------------------------------------------------------------------------------- rectified streams


@pytest.mark.parametrize(
    ("topic", "setting", "expected"),
    [
        ("/front/image_rect", "auto", True),
        ("/front/image_rect_color/compressed", "auto", True),
        ("/front/image_raw", "auto", False),
        ("/front/image/compressed", "auto", False),
        ("/front/image_raw", "true", True),
        ("/front/image_rect", "false", False),
    ],
)
def test_what_a_stream_is_comes_from_topic_or_setting(topic, setting, expected):
    assert is_rectified(topic, setting) is expected


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="rectified: expected 'auto', 'true' or 'false', got 'yes'"):
        is_rectified("/front/image", "yes")
    with pytest.raises(ValueError, match="policy: expected 'refuse'"):
        camera_model(camera_info(), "ignore")


def rotation(vector) -> np.ndarray:
    return cv2.Rodrigues(np.array(vector, float))[0]


def projection(fx: float, fy: float, cx: float, cy: float, tx: float = 0.0, ty: float = 0.0) -> np.ndarray:
    return np.array([[fx, 0, cx, tx], [0, fy, cy, ty], [0, 0, 1, 0]])


def test_image_proc_and_this_model_agree():
    """A dot at the raw projection of a point, rectified as image_proc does, lies where the model projects the point."""
    d, R, P = np.array(MODELS["plumb_bob"]), rotation((0.03, -0.05, 0.02)), projection(110, 111, 78, 47)
    model = camera_model(camera_info(d=d, r=R.ravel(), p=P.ravel()), "refuse", rectified=True)
    assert model.maps is None
    maps = cv2.initUndistortRectifyMap(K, d, R, P[:, :3], (160, 90), cv2.CV_32FC1)
    for point in np.array([(-0.3, 0.2, 1), (0.4, -0.2, 1), (0.05, 0.1, 1)]):
        u, v = cv2.projectPoints(point.reshape(1, 1, 3), np.zeros(3), np.zeros(3), K, d)[0].ravel()
        rectified = model.rectify(cv2.remap(dot_at(u, v), *maps, cv2.INTER_LINEAR))
        seen = model.intrinsics @ (model.T_cam_from_optical[:3, :3] @ point + model.T_cam_from_optical[:3, 3])
        np.testing.assert_allclose(centre_of(rectified), seen[:2] / seen[2], atol=0.2)


angles, pixels = st.floats(-0.5, 0.5), st.floats(20, 140)


@settings(max_examples=60, deadline=None)
@given(
    turn=st.tuples(angles, angles, angles), centre=st.tuples(pixels, pixels), baseline=st.tuples(angles, angles),
    point=st.tuples(angles, angles, st.floats(2, 50)),
    region=st.sampled_from([None, (20, 10, 100, 60), (0, 4, 160, 86)]),
    binning=st.sampled_from([(0, 0), (1, 1), (2, 2), (4, 2)]), reduction=st.sampled_from([1, 2, 4, 8]),
)  # fmt: skip
def test_points_are_projected_as_the_message_defines_it(turn, centre, baseline, point, region, binning, reduction):
    """[u v w] = P [R X 1], then the region of interest, binning and the reduction of decoding."""
    R, P = rotation(turn), projection(120, 130, *centre, -120 * baseline[0], -130 * baseline[1])
    info = camera_info(r=R.ravel(), p=P.ravel(), d=[0.1] * 5, binning_x=binning[0], binning_y=binning[1])
    if region is not None:
        info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = region
        info.roi.do_rectify = True
    offset, size = ((0, 0), (160, 90)) if region is None else (region[:2], region[2:])
    divisor = np.maximum(binning, 1)
    model = camera_model(info, rectified=True, reduction=reduction)
    assert model.size_wh == tuple(-(-(size // divisor) // reduction))
    u, v, w = P @ np.append(R @ point, 1)
    seen = model.intrinsics @ (model.T_cam_from_optical @ np.append(point, 1))[:3]
    expected = (np.array((u, v)) / w - offset) / divisor / reduction
    np.testing.assert_allclose(seen[:2] / seen[2], expected, rtol=1e-9, atol=1e-9)


def test_a_rectified_camera_without_r_is_not_turned():
    """CameraInfo has R for stereo cameras only; a single one may leave it out."""
    model = camera_model(camera_info(p=projection(100, 101, 80, 45).ravel()), rectified=True)
    np.testing.assert_array_equal(model.T_cam_from_optical, np.eye(4))
    assert model.intrinsics[0, 0] == 100


def test_without_p_a_camera_without_lens_and_rotation_has_k():
    for r in (np.zeros(9), np.eye(3).ravel()):
        model = camera_model(camera_info(r=r), rectified=True)
        np.testing.assert_array_equal(model.intrinsics, K)
        np.testing.assert_array_equal(model.T_cam_from_optical, np.eye(4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"p": np.zeros(12), "d": [0.1] * 5}, r"cam_front: P = \[0.0, .*the projection of the rectified image"),
        ({"p": np.zeros(12), "r": rotation((0, 0.1, 0)).ravel()}, r"cam_front: P = \[0.0, .*'rectified: false'"),
        ({"p": projection(100, 0, 80, 45).ravel()}, "cam_front: P = .*positive focal lengths"),
        ({"p": np.full(12, np.inf)}, "cam_front: P = .*finite numbers"),
        ({"p": np.vstack([projection(100, 100, 80, 45)[:2], [0, 0, 1, 0.5]]).ravel()}, "P = .*last row of 0 0 1"),
        ({"r": np.full(9, np.nan)}, "cam_front: R = .*finite numbers"),
        ({"r": np.diag((1.0, 1.0, 0.0)).ravel()}, "cam_front: R = .*a rotation"),
        ({"r": np.diag((1.0, 1.0, -1.0)).ravel()}, "cam_front: R = .*a rotation"),
        ({"r": 2 * np.eye(3).ravel()}, "cam_front: R = .*a rotation"),
        ({"r": np.zeros(9), "p": projection(100, 100, 80, 45, -12).ravel()}, "cam_front: R = .*a rotation"),
        ({"k": np.zeros(9)}, "cam_front: K = .*all zeros mean that it is not"),
    ],
)
def test_a_rectified_camera_that_is_none_is_refused(changes, says):
    good = {"p": projection(100, 101, 80, 45).ravel(), "r": np.eye(3).ravel()}
    camera_model(camera_info(**good), rectified=True)
    with pytest.raises(ConversionError, match=says) as caught:
        camera_model(camera_info(**good | changes), rectified=True)
    assert caught.value.cause == "camera_info"


def test_a_raw_camera_ignores_r_and_p():
    info = camera_info(r=rotation((0, 0.1, 0)).ravel(), p=projection(100, 101, 80, 45, -12).ravel())
    model = camera_model(info)
    np.testing.assert_array_equal(model.intrinsics, K)
    np.testing.assert_array_equal(model.T_cam_from_optical, np.eye(4))


# -------------------------------------------------------------------------------------------------------------- fisheye


def fisheye_info(field_of_view_deg: float, **changes) -> CameraInfo:
    """200x100 pixels, equidistant, that many degrees across the width."""
    focal = 99.5 / np.radians(field_of_view_deg / 2)
    k = np.array([[focal, 0, 99.5], [0, focal, 49.5], [0, 0, 1]])
    fields = dict(width=200, height=100, distortion_model="equidistant", k=k.ravel(), d=[1e-9, 0.0, 0.0, 0.0])
    return camera_info(**fields | changes)


@pytest.mark.parametrize(
    ("field_of_view", "limit", "kept"), [(200, 110, 110), (220, 150, 150), (90, 110, 90), (130, 60, 60)]
)
def test_a_fisheye_becomes_the_widest_pinhole_within_the_limit(field_of_view, limit, kept, caplog):
    """All the lens sees across its width, or the limit; the rest is reported, in a number and in one sentence."""
    with caplog.at_level(logging.INFO):
        model = camera_model(fisheye_info(field_of_view), "undistort", max_field_of_view_deg=limit)
    half = np.degrees(np.arctan(99.5 / model.intrinsics[0, 0]))
    np.testing.assert_allclose(2 * half, kept, atol=0.02)
    np.testing.assert_allclose(model.intrinsics[:2, 2], (99.5, 49.5), atol=1e-6)
    np.testing.assert_allclose(model.intrinsics[1, 1], model.intrinsics[0, 0])  # square pixels stay square
    height = 2 * np.degrees(np.arctan(49.5 / model.intrinsics[1, 1]))
    lens_height = field_of_view * 49.5 / 99.5
    expected = (field_of_view - kept, max(0, lens_height - height))
    np.testing.assert_allclose(model.lost_field_of_view_deg, expected, atol=0.02)
    [record] = caplog.records
    assert record.levelno == (logging.WARNING if any(np.array(expected) > 0.02) else logging.INFO)
    assert f"camera cam_front: a fisheye lens of {field_of_view:.1f} x" in record.getMessage()
    assert f"{model.lost_field_of_view_deg[0]:.1f} degrees across" in record.getMessage()


@pytest.mark.parametrize("limit", [70, 110])
def test_the_limit_holds_across_the_height_of_an_upright_fisheye(limit):
    """100x200 pixels, 180 degrees across the height; a pinhole that shows its whole width would show 127."""
    focal = 99.5 / np.radians(90)
    k = np.array([[focal, 0, 49.5], [0, focal, 99.5], [0, 0, 1]])
    model = camera_model(fisheye_info(90, width=100, height=200, k=k.ravel()), "undistort", max_field_of_view_deg=limit)
    np.testing.assert_allclose(2 * np.degrees(np.arctan(99.5 / model.intrinsics[1, 1])), limit, atol=0.02)
    np.testing.assert_allclose(model.intrinsics[0, 0], model.intrinsics[1, 1])  # square pixels stay square
    np.testing.assert_allclose(model.intrinsics[:2, 2], (49.5, 99.5), atol=1e-6)
    width = 2 * np.degrees(np.arctan(49.5 / model.intrinsics[0, 0]))
    expected = (2 * np.degrees(49.5 / focal) - width, 180 - limit)
    np.testing.assert_allclose(model.lost_field_of_view_deg, expected, atol=0.02)


@pytest.mark.parametrize("field_of_view", [100, 180, 220])
@pytest.mark.parametrize("name", ["equidistant", "fisheye"])
def test_a_wide_fisheye_puts_points_where_the_pinhole_has_them(field_of_view, name):
    """Against the definition of the lens: distance in the image = focal * angle from the axis."""
    size, centre = (800, 400), np.array((399.5, 199.5))
    focal = 399.5 / np.radians(field_of_view / 2)
    k = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    info = fisheye_info(field_of_view, distortion_model=name, width=size[0], height=size[1], k=k.ravel())
    model = camera_model(info, "undistort", max_field_of_view_deg=120)
    for direction, angle in ((0.2, 20), (2.0, 15), (3.4, 40)):  # rad, degrees
        at = np.array((np.cos(direction), np.sin(direction)))
        point = np.append(at * np.tan(np.radians(angle)), 1)
        u, v = centre + focal * np.radians(angle) * at
        seen = centre_of(model.rectify(dot_at(u, v, size)))
        np.testing.assert_allclose(seen, (model.intrinsics @ point)[:2], atol=0.5)


def test_the_pinhole_of_an_off_centre_fisheye_keeps_both_sides():
    """The principal point moves so that the outermost columns see what the lens sees there."""
    k = np.array([[100.0, 0, 60], [0, 100.0, 49.5], [0, 0, 1]])
    model = camera_model(
        fisheye_info(100, k=k.ravel(), d=[0.0, 0.0, 0.0, 1e-12]), "undistort", max_field_of_view_deg=170
    )
    f, cx = model.intrinsics[0, 0], model.intrinsics[0, 2]
    np.testing.assert_allclose(np.arctan((cx / f, (199 - cx) / f)), (0.6, 1.39), atol=1e-3)
    assert model.lost_field_of_view_deg[0] < 0.02


def test_what_the_lens_model_does_not_reach_stays_black():
    """Where the polynomial falls again it would show the picture a second time."""
    white = np.full((100, 200, 3), 255, np.uint8)
    folding = fisheye_info(160, d=[-0.3, 0.0, 0.0, 0.0])  # rises up to sqrt(1 / 0.9) = 1.05 rad = 60 degrees
    model = camera_model(folding, "undistort", max_field_of_view_deg=140)
    x = (np.arange(200) - model.intrinsics[0, 2]) / model.intrinsics[0, 0]
    y = (np.arange(100) - model.intrinsics[1, 2]) / model.intrinsics[1, 1]
    radius = np.hypot(x, y[:, None])
    seen = model.rectify(white)[..., 0] > 0
    assert not seen[radius > np.tan(np.sqrt(1 / 0.9)) * 1.01].any()
    barrel = camera_info(d=[-0.6, 0.0, 0.0, 0.0, 0.0])  # rises up to a radius of sqrt(1 / 1.8) = 0.745
    seen = camera_model(barrel, "undistort").rectify(np.full((90, 160, 3), 255, np.uint8))[..., 0] > 0
    assert seen[45, 80] and seen[45, 5] and not seen[0, 0] and not seen[89, 159]


def test_a_fisheye_image_beside_the_axis_is_refused():
    info = fisheye_info(200)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 170, 0, 30, 100
    with pytest.raises(ConversionError, match="cam_front: K = .*no field of view within 110 degrees") as caught:
        camera_model(info, "undistort")
    assert caught.value.cause == "distortion"


@pytest.mark.parametrize(("name", "d"), [("plumb_bob", [0.1] * 3), ("thin_prism", [0.1] * 5), ("", [0.1] * 5)])
def test_unknown_distortion_models(name, d):
    with pytest.raises(ConversionError, match="coefficients; expected plumb_bob") as caught:
        camera_model(camera_info(distortion_model=name, d=d), "undistort")
    assert caught.value.cause == "distortion"


def test_binning_and_region_of_interest():
    """Pixel (u, v) of the sensor is ((u - x_offset) / binning, ...) of the delivered image."""
    info = camera_info(binning_x=2, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 20, 10, 100, 60
    model = camera_model(info)
    assert model.size_wh == (50, 30)
    point = np.array((0.1, -0.05, 1.0))
    sensor = (K @ point)[:2]
    np.testing.assert_allclose((model.intrinsics @ point)[:2], (sensor - (20, 10)) / 2)


@pytest.mark.parametrize(
    ("roi", "binning", "size", "says"),
    [
        ((0, 0, 0, 0), (0, 0), (0, 90), "width, height = .*positive numbers"),
        ((100, 0, 61, 90), (0, 0), (160, 90), "roi = 61x90 at 100, 0; expected a part of the 160x90 pixels"),
        ((0, 50, 160, 41), (0, 0), (160, 90), "roi = 160x41 at 0, 50"),
        ((8, 0, 0, 0), (0, 0), (160, 90), "roi = 0x0 at 8, 0"),
        ((0, 0, 100, 0), (0, 0), (160, 90), "roi = 100x0 at 0, 0"),
        ((0, 0, 0, 0), (200, 1), (160, 90), "binning_x, binning_y = .*an image that is left"),
    ],
)
def test_a_part_of_the_sensor_that_is_none_is_refused(roi, binning, size, says):
    info = camera_info(binning_x=binning[0], binning_y=binning[1], width=size[0], height=size[1])
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = roi
    with pytest.raises(ConversionError, match=f"CameraInfo of front: {says}") as caught:
        camera_model(info, name="front")
    assert caught.value.cause == "camera_info"


@pytest.mark.parametrize("field", ["k", "d", "r", "p"])
def test_numbers_that_are_not_finite_are_refused(field):
    values = np.array(getattr(camera_info(p=projection(100, 100, 80, 45).ravel()), field), float)
    values[0] = np.nan
    with pytest.raises(ConversionError, match=f"{field.upper()} = .*finite numbers"):
        camera_model(camera_info(**{field: values}), "undistort", rectified=field in "rp")


def test_skew_is_refused():
    with pytest.raises(ConversionError, match="no skew"):
        camera_model(camera_info(k=[120.0, 0.5, 80, 0, 121, 45, 0, 0, 1]))


def test_image_of_another_size():
    with pytest.raises(ConversionError, match="80x45 pixels; its CameraInfo says 160x90") as caught:
        camera_model(camera_info()).rectify(np.zeros((45, 80, 3), np.uint8))
    assert caught.value.cause == "image_size"
