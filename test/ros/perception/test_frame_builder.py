"""Sets to frames: every camera at the pose of its own image, late poses awaited, damaged input refused by cause."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
from rig_messages import SIZE, camera_info, raw, transform
from tf2_msgs.msg import TFMessage

from sparse4d_core.types import Frame
from sparse4d_ros.messages.incoming import insert_transforms
from sparse4d_ros.perception.camera_model import CameraModel
from sparse4d_ros.perception.frame_builder import FrameBuilder
from sparse4d_ros.perception.image_decoding import ConversionError
from sparse4d_ros.perception.rig import RigFrames
from sparse4d_ros.perception.synchronizer import SyncedSet
from sparse4d_ros.perception.transforms import ExtrapolationFailed, LookupFailed, TransformBuffer

STAMP = 1_532_402_927_612_460_123
MS = 10**6
CAMERAS = ("cam_front", "cam_back")
RIG = RigFrames(cameras={camera: camera for camera in CAMERAS})
BACKWARD = (0.0, 0.0, 1.0, 0.0)  # half a turn about z


def moving_rig(until: int = 1) -> TransformBuffer:
    """The base drives along x at 10 m/s; the back camera looks along -x of the base (a rotation about z will do)."""
    buffer = TransformBuffer()
    static = [
        transform("base_link", "cam_front", 0, (1, 0, 0)),
        transform("base_link", "cam_back", 0, (-1, 0, 0), BACKWARD),
        transform("base_link", "lidar_top", 0, (0, 0, 2)),
    ]
    insert_transforms(buffer, TFMessage(transforms=static), static=True)
    insert_transforms(buffer, TFMessage(transforms=[ego_pose(k) for k in range(-1, until + 1)]), static=False)
    return buffer


def ego_pose(k: int):
    """k tenths of a second after the stamp."""
    return transform("odom", "base_link", STAMP + k * 100 * MS, (100 + k, 0, 0))


def a_set(stamps: dict[str, int], infos: dict | None = None) -> SyncedSet:
    """Raw images at these stamps."""
    images = {camera: (stamp, raw(camera, stamp)) for camera, stamp in stamps.items()}
    infos = {camera: camera_info(camera, 0) for camera in stamps} | (infos or {})
    return SyncedSet(STAMP, images, infos)


BOTH = {"cam_front": STAMP - 50 * MS, "cam_back": STAMP}


@pytest.fixture
def builders() -> Iterator[list[FrameBuilder]]:
    made: list[FrameBuilder] = []
    yield made
    for builder in made:
        builder.close()


@pytest.fixture
def build(builders):
    def build(synced: SyncedSet, buffer: TransformBuffer, rig: RigFrames = RIG, **options) -> Frame:
        builders.append(FrameBuilder(rig, buffer, **options))
        return builders[-1].build(synced)[0]

    return build


def test_frame_uses_the_pose_at_each_image(build):
    """A point 10 m ahead at the set's stamp is 10.5 m ahead of where the car was 50 ms before."""
    frame = build(a_set(BOTH), moving_rig())
    point = np.array((10.0, 0, 0, 1))  # model frame: 2 m above the base
    np.testing.assert_allclose(frame.T_cam_from_model[0] @ point, (10 - 1 + 0.5, 0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(frame.T_cam_from_model[1] @ point, (-10 - 1, 0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(frame.T_global_from_model[:3, 3], (100, 0, 2), atol=1e-9)
    assert frame.camera_names == CAMERAS and frame.stamp_ns == STAMP
    for image, camera in zip(frame.images, CAMERAS, strict=True):
        np.testing.assert_array_equal(image.reshape(-1), raw(camera, 0).data)
    np.testing.assert_array_equal(frame.intrinsics[0], np.reshape(camera_info("cam_front", 0).k, (3, 3)))


def test_model_frame_given_as_numbers(build):
    numbers = np.eye(4)
    numbers[2, 3] = 2
    rig = RigFrames(RIG.cameras, model_frame="not in tf", T_base_from_model=numbers)
    by_name, by_number = (build(a_set(BOTH), moving_rig(), r) for r in (RIG, rig))
    np.testing.assert_allclose(by_number.T_cam_from_model, by_name.T_cam_from_model, atol=1e-12)
    np.testing.assert_allclose(by_number.T_global_from_model, by_name.T_global_from_model, atol=1e-12)


def test_missing_camera_is_none_and_has_the_pose_of_the_sets_stamp(build):
    """Pictures are laid out by where the cameras look, the one that is missing among them."""
    buffer = moving_rig()
    missing = build(a_set({"cam_front": STAMP - 50 * MS}), buffer)
    assert missing.images[0] is not None and missing.images[1] is None
    np.testing.assert_array_equal(missing.T_cam_from_model, build(a_set(BOTH), buffer).T_cam_from_model)


def test_a_missing_camera_whose_pose_nobody_knows_costs_no_set(build):
    rig = RigFrames(RIG.cameras | {"cam_side": "cam_side"})
    frame = build(a_set(BOTH), moving_rig(), rig)
    assert frame.images[2] is None
    np.testing.assert_array_equal(frame.T_cam_from_model[2], np.eye(4))


@pytest.mark.parametrize(
    ("synced", "rig", "error", "message"),
    [
        (a_set(BOTH, {"cam_front": None}), RIG, ConversionError, "camera cam_front: image without CameraInfo"),
        (a_set(BOTH | {"cam_front": STAMP + 10**9}), RIG, ExtrapolationFailed, "odom <- base_link"),
        (a_set(BOTH), RigFrames(dict.fromkeys(CAMERAS, "cam_side")), LookupFailed, "cam_side"),
        (a_set(BOTH | {"cam_front": 0}), RIG, ConversionError, "time of exposure"),
    ],
    ids=["no_calibration", "pose", "frame", "stamp"],
)
def test_what_cannot_be_used_is_refused_by_name(build, synced, rig, error, message):
    with pytest.raises(error, match=message):
        build(synced, moving_rig(), rig)


def test_an_image_of_another_frame_is_refused(build):
    synced = a_set(BOTH)
    synced.images["cam_front"][1].header.frame_id = "cam_back"
    with pytest.raises(ConversionError, match="camera cam_front: image: frame 'cam_back'; the rig expects 'cam_front'"):
        build(synced, moving_rig())


def test_images_are_decoded_while_the_pose_is_awaited(build):
    """The pose comes once every image has been looked at: a builder that waits first waits until its time is up."""
    buffer, looked_at = moving_rig(until=-1), threading.Semaphore(0)

    def to_message(camera, item):
        looked_at.release()
        return item

    def send_poses() -> None:
        for _ in CAMERAS:
            assert looked_at.acquire(timeout=PATIENCE)
        insert_transforms(buffer, TFMessage(transforms=[ego_pose(0)]), static=False)

    sender = threading.Thread(target=send_poses)
    sender.start()
    frame = build(a_set(BOTH), buffer, tf_timeout=PATIENCE, to_message=to_message)
    sender.join()
    np.testing.assert_allclose(frame.T_global_from_model[:3, 3], (100, 0, 2), atol=1e-9)


def test_undistortion_runs_once_however_many_transforms_come_meanwhile(build, monkeypatch):
    """Five messages of other frames come while the pose is awaited; each makes the builder look again."""
    buffer, rectified, looked = moving_rig(until=-1), [], threading.Semaphore(0)
    rectify, lookup_full = CameraModel.rectify, TransformBuffer.lookup_full

    def count(self, image):
        rectified.append(self.frame_id)
        return rectify(self, image)

    def look(self, *arguments):
        looked.release()
        return lookup_full(self, *arguments)

    monkeypatch.setattr(CameraModel, "rectify", count)
    monkeypatch.setattr(TransformBuffer, "lookup_full", look)

    def send() -> None:
        for k in range(5):
            assert looked.acquire(timeout=PATIENCE)
            insert_transforms(buffer, TFMessage(transforms=[transform("base_link", "arm", k + 1)]), static=False)
        insert_transforms(buffer, TFMessage(transforms=[ego_pose(0)]), static=False)

    sender = threading.Thread(target=send)
    sender.start()
    infos = {camera: camera_info(camera, 0, d=(-0.3, 0.1, 0, 0, 0)) for camera in CAMERAS}
    frame = build(a_set(BOTH, infos), buffer, tf_timeout=PATIENCE, distortion="undistort")
    sender.join()
    assert sorted(rectified) == sorted(CAMERAS)
    assert frame.images[0].shape == (SIZE[1], SIZE[0], 3)


def test_a_pose_that_never_comes_ends_the_wait_with_its_error(build):
    with pytest.raises(ExtrapolationFailed, match="after its data"):
        build(a_set(BOTH), moving_rig(until=-1), tf_timeout=0.05)
