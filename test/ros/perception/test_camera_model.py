"""CameraInfo: intrinsics, binning, distortion policies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("sensor_msgs")
from sensor_msgs.msg import CameraInfo  # noqa: E402

from sparse4d_ros.perception.camera_model import camera_model  # noqa: E402
from sparse4d_ros.perception.image_decoding import ConversionError  # noqa: E402

K = np.array([[120.0, 0, 80], [0, 121.0, 45], [0, 0, 1]])
MODELS = {
    "plumb_bob": [-0.3, 0.1, 0.001, -0.002, 0.01],
    "rational_polynomial": [-0.2, 0.05, 0.001, 0.0, 0.01, 0.1, 0.02, 0.0],
    "equidistant": [-0.05, 0.01, -0.002, 0.0005],
}


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


@pytest.mark.parametrize("name", MODELS)
def test_undistort_puts_points_where_the_pinhole_has_them(name):
    """A blurred dot drawn at the distorted projection of a 3D point ends up at K * point."""
    d = np.array(MODELS[name])
    model = camera_model(camera_info(distortion_model=name, d=d), "undistort")
    project = cv2.fisheye.projectPoints if name == "equidistant" else cv2.projectPoints
    for point in np.array([(-0.3, 0.2, 1), (0.4, -0.2, 1), (0.05, 0.1, 1)]):
        u, v = project(point.reshape(1, 1, 3), np.zeros(3), np.zeros(3), K, d)[0].ravel()
        y, x = np.mgrid[:90, :160]
        dot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)
        rectified = model.rectify(np.repeat(dot[..., None], 3, axis=2).astype(np.uint8))[..., 0].astype(float)
        centre = np.array(((rectified * x).sum(), (rectified * y).sum())) / rectified.sum()
        np.testing.assert_allclose(centre, (K @ point)[:2], atol=0.2)


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


def test_image_of_another_size():
    with pytest.raises(ConversionError, match="80x45 pixels; its CameraInfo says 160x90") as caught:
        camera_model(camera_info()).rectify(np.zeros((45, 80, 3), np.uint8))
    assert caught.value.cause == "image_size"
