"""Sets to frames: every camera at the pose of its own image, damaged input refused by cause."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
from rig_messages import transform
from tf2_msgs.msg import TFMessage

from sparse4d_ros.messages.incoming import insert_transforms
from sparse4d_ros.perception.camera_model import CameraModel
from sparse4d_ros.perception.frame_builder import build_frame
from sparse4d_ros.perception.image_decoding import ConversionError
from sparse4d_ros.perception.rig import RigFrames
from sparse4d_ros.perception.transforms import ExtrapolationFailed, LookupFailed, TransformBuffer

STAMP = 1_532_402_927_612_460_123
RIG = RigFrames(cameras={"front": "cam_front", "back": "cam_back"})
BACKWARD = (0.0, 0.0, 1.0, 0.0)  # half a turn about z


def moving_rig() -> TransformBuffer:
    """The base drives along x at 10 m/s; the back camera looks along -x of the base (a rotation about z will do)."""
    buffer = TransformBuffer()
    static = [
        transform("base_link", "cam_front", 0, (1, 0, 0)),
        transform("base_link", "cam_back", 0, (-1, 0, 0), BACKWARD),
        transform("base_link", "lidar_top", 0, (0, 0, 2)),
    ]
    insert_transforms(buffer, TFMessage(transforms=static), static=True)
    poses = [transform("map", "base_link", STAMP + k * 100_000_000, (100 + k, 0, 0)) for k in range(-1, 2)]
    insert_transforms(buffer, TFMessage(transforms=poses), static=False)
    return buffer


def camera() -> CameraModel:
    return CameraModel(np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), (64, 48), "cam_front")


def image(value: int = 0) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def test_frame_uses_the_pose_at_each_image():
    """A point 10 m ahead at the set's stamp is 10.5 m ahead of where the car was 50 ms before."""
    images = {"front": (STAMP - 50_000_000, image(1)), "back": (STAMP, image(2))}
    frame = build_frame(images, STAMP, {"front": camera(), "back": camera()}, RIG, moving_rig())
    point = np.array((10.0, 0, 0, 1))  # model frame: 2 m above the base
    np.testing.assert_allclose(frame.T_cam_from_model[0] @ point, (10 - 1 + 0.5, 0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(frame.T_cam_from_model[1] @ point, (-10 - 1, 0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(frame.T_global_from_model[:3, 3], (100, 0, 2), atol=1e-9)
    assert frame.camera_names == ("front", "back") and frame.stamp_ns == STAMP
    assert [int(pixels[0, 0, 0]) for pixels in frame.images] == [1, 2]


def test_model_frame_given_as_numbers():
    numbers = np.eye(4)
    numbers[2, 3] = 2
    rig = RigFrames(RIG.cameras, model_frame="not in tf", T_base_from_model=numbers)
    images = {"front": (STAMP - 30_000_000, image()), "back": (STAMP, image())}
    models = {"front": camera(), "back": camera()}
    by_name, by_number = (build_frame(images, STAMP, models, r, moving_rig()) for r in (RIG, rig))
    np.testing.assert_allclose(by_number.T_cam_from_model, by_name.T_cam_from_model, atol=1e-12)
    np.testing.assert_allclose(by_number.T_global_from_model, by_name.T_global_from_model, atol=1e-12)


def test_missing_camera_is_none():
    frame = build_frame({"back": (STAMP, image())}, STAMP, {"back": camera()}, RIG, moving_rig())
    assert frame.images[0] is None and frame.images[1] is not None


def test_frame_errors():
    images = {"front": (STAMP, image()), "back": (STAMP, image())}
    models = {"front": camera(), "back": camera()}
    with pytest.raises(ConversionError, match="without CameraInfo"):
        build_frame(images, STAMP, {"back": camera()}, RIG, moving_rig())
    with pytest.raises(ExtrapolationFailed):
        build_frame(images, STAMP + 10**9, models, RIG, moving_rig())
    with pytest.raises(LookupFailed, match="cam_side"):
        build_frame(images, STAMP, models, RigFrames({"front": "cam_side"}), moving_rig())
