"""One camera's messages: decoded, reduced, rectified, with maps that live as long as their calibration."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("sensor_msgs")
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from sparse4d_ros.messages.stamps import make_header  # noqa: E402
from sparse4d_ros.perception import camera_model as camera_model_module  # noqa: E402
from sparse4d_ros.perception.camera_reader import CameraReader  # noqa: E402
from sparse4d_ros.perception.frame_builder import FrameBuilder  # noqa: E402
from sparse4d_ros.perception.image_decoding import ConversionError, compressed_wh  # noqa: E402
from sparse4d_ros.perception.rig import RigFrames  # noqa: E402
from sparse4d_ros.perception.synchronizer import SyncedSet  # noqa: E402
from sparse4d_ros.perception.transforms import TransformBuffer  # noqa: E402

K = np.array([[120.0, 0, 80], [0, 121.0, 45], [0, 0, 1]])
D = [-0.3, 0.1, 0.001, -0.002, 0.01]
STAMP = 1_000_000_000


def camera_info(width: int = 160, height: int = 90, **changes) -> CameraInfo:
    info = CameraInfo(width=width, height=height, distortion_model="plumb_bob", k=K.ravel(), d=[0.0] * 5)
    info.header.frame_id = "front_optical"
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def picture(width: int = 160, height: int = 90) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x, 2 * y, 255 - x], axis=-1).clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> CompressedImage:
    data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 98))[1].tobytes()
    return CompressedImage(header=make_header("front_optical", STAMP), format="jpeg", data=data)


def raw(image: np.ndarray) -> Image:
    height, width = image.shape[:2]
    header = make_header("front_optical", STAMP)
    return Image(header=header, height=height, width=width, encoding="bgr8", step=3 * width, data=image.tobytes())


def test_raw_and_rectified_streams():
    """K of the one, P of the other, whatever D says of the other."""
    P = np.array([[100.0, 0, 80, 0], [0, 100, 45, 0], [0, 0, 1, 0]])
    info = camera_info(d=D, p=P.ravel())
    image, model = CameraReader("front", rectified=True).read(raw(picture()), info)
    np.testing.assert_array_equal(image, picture())
    assert model.intrinsics[0, 0] == 100
    image, model = CameraReader("front", rectified=False, distortion="undistort").read(raw(picture()), info)
    assert model.intrinsics[0, 0] == 120 and np.abs(image.astype(int) - picture()).max() > 5
    with pytest.raises(ConversionError, match="CameraInfo of front: D = .*'undistort'.*'rectified: true'"):
        CameraReader("front", rectified=False).read(raw(picture()), info)


@pytest.mark.parametrize("distortion", [None, "undistort"])
@pytest.mark.parametrize("size", [(160, 90), (161, 91)])
def test_a_reduced_image_has_reduced_intrinsics(size, distortion):
    """Decoded at half the size, undistorted or not, it is the picture that the whole one gives when made smaller."""
    info = camera_info(*size, d=[0.0] * 5 if distortion is None else D)
    message = jpeg(picture(*size))
    sizes = []

    def reduction(size_wh):
        sizes.append(size_wh)
        return 2

    whole, model = CameraReader("front", False, distortion or "refuse").read(message, info)
    reader = CameraReader("front", False, distortion or "refuse", reduction=reduction)
    half, reduced = reader.read(message, info)
    assert sizes == [size]
    np.testing.assert_array_equal(reduced.intrinsics, np.diag((0.5, 0.5, 1)) @ model.intrinsics)
    assert half.shape == (-(-size[1] // 2), -(-size[0] // 2), 3)
    smaller = cv2.resize(whole, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
    inside = (slice(8, 36), slice(8, 70))
    assert np.abs(half[inside].astype(int) - smaller[inside]).max() <= 4
    image, model = reader.read(raw(picture(*size)), info)  # what is no JPEG keeps its size
    assert image.shape == (size[1], size[0], 3) and model.intrinsics[0, 0] == 120


def test_maps_are_made_when_the_calibration_changes_and_only_then(monkeypatch):
    made = []
    original = camera_model_module.undistorted
    monkeypatch.setattr(camera_model_module, "undistorted", lambda *a: made.append(a[1].tolist()) or original(*a))
    reader = CameraReader("front", False, "undistort")
    info = camera_info(d=D)
    for stamp in range(3):
        info.header = make_header("front_optical", stamp)
        reader.read(raw(picture()), info)
    assert len(made) == 1
    changes = [
        {"d": [0.01, 0.0, 0.0, 0.0]}, {"distortion_model": "equidistant"}, {"k": (K + np.diag((1, 1, 0))).ravel()},
        {"r": np.eye(3).ravel()}, {"p": np.ones(12)},
    ]  # fmt: skip
    fields = {"d": D}
    for number, change in enumerate(changes):
        fields |= change
        reader.read(raw(picture()), camera_info(**fields))
        assert len(made) == 2 + number, change


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_data_that_unpack_to_more_than_the_camera_has_are_not_unpacked(monkeypatch, ending):
    """Few bytes can be gigabytes of pixels."""
    data = cv2.imencode(ending, picture(320, 90))[1].tobytes()
    monkeypatch.setattr("sparse4d_ros.perception.camera_reader.decode_image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ConversionError, match="image of front: 320x90 pixels; its CameraInfo says 160x90") as caught:
        CameraReader("front", False).read(CompressedImage(format="", data=data), camera_info())
    assert caught.value.cause == "image_size"


def test_the_size_that_compressed_data_give():
    for parameters in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        data = cv2.imencode(".jpg", picture(70, 30), parameters)[1].tobytes()
        assert compressed_wh(CompressedImage(data=data)) == (70, 30)
        assert compressed_wh(CompressedImage(data=data[:2] + b"\xff" + data[2:])) == (70, 30)  # a fill byte
        assert compressed_wh(CompressedImage(data=data[:30])) is None
    assert compressed_wh(CompressedImage(data=cv2.imencode(".png", picture(70, 30))[1].tobytes())) == (70, 30)
    assert compressed_wh(CompressedImage(data=b"nothing")) is compressed_wh(raw(picture())) is None


@pytest.mark.parametrize(
    ("message", "info", "says", "cause"),
    [
        (raw(picture()), None, "camera front: image without CameraInfo", "camera_info"),
        (raw(picture(80, 45)), camera_info(), "image of front: 80x45 pixels; its CameraInfo says 160x90", "image_size"),
        (raw(picture()), camera_info(k=np.zeros(9)), "CameraInfo of front: K = ", "camera_info"),
        (raw(picture()), camera_info(width=0), "CameraInfo of front: width, height = ", "camera_info"),
        (CompressedImage(format="jpeg", data=b"\xff\xd8"), camera_info(), "camera front: JPEG: no end", "image_data"),
    ],
    ids=["no_info", "size", "K", "no_size", "truncated"],
)
def test_errors_name_the_camera(message, info, says, cause):
    with pytest.raises(ConversionError, match=says) as caught:
        CameraReader("front", False).read(message, info)
    assert caught.value.cause == cause


def test_waiting_for_poses_does_not_undistort_again(monkeypatch):
    """Every transform that arrives wakes the builder; the images stay what they are."""
    remaps = []
    original = cv2.remap
    monkeypatch.setattr(cv2, "remap", lambda *a, **k: remaps.append(1) or original(*a, **k))
    buffer = TransformBuffer()
    rig = RigFrames({"front": "front_optical"}, "map", "base_link", "lidar_top", np.eye(4))
    still, upright = np.zeros(3), np.array((0.0, 0.0, 0.0, 1.0))
    arriving = [("odd", "one"), ("odd", "two"), ("base_link", "front_optical"), ("map", "base_link")]

    def next_transform(revision, timeout):
        parent, child = arriving.pop(0)
        buffer.insert(parent, child, STAMP, still, upright, static=True)
        return True

    monkeypatch.setattr(buffer, "wait_for_change", next_transform)
    builder = FrameBuilder(rig, buffer, "undistort", tf_timeout=1.0)
    synced = SyncedSet(STAMP, {"front": (STAMP, raw(picture()))}, {"front": camera_info(d=D)})
    frame, _ = builder.build(synced)
    builder.close()
    assert not arriving and len(remaps) == 1
    np.testing.assert_array_equal(frame.intrinsics[0], K)


def test_the_rectifying_rotation_and_the_stereo_shift_enter_the_extrinsics():
    R = cv2.Rodrigues(np.array((0.1, -0.2, 0.05)))[0]
    P = np.array([[100.0, 0, 80, -12], [0, 100, 45, 0], [0, 0, 1, 0]])
    buffer = TransformBuffer()
    buffer.insert("base_link", "front_optical", STAMP, np.array((1.0, 2.0, 3.0)), np.array((0.5, 0.5, 0.5, 0.5)), True)
    buffer.insert("map", "base_link", STAMP, np.zeros(3), np.array((0.0, 0.0, 0.0, 1.0)), True)
    rig = RigFrames({"front": "front_optical"}, "map", "base_link", "", np.eye(4), rectified=frozenset({"front"}))
    synced = SyncedSet(STAMP, {"front": (STAMP, raw(picture()))}, {"front": camera_info(r=R.ravel(), p=P.ravel())})
    builder = FrameBuilder(rig, buffer)
    frame, _ = builder.build(synced)
    builder.close()
    point = np.array((9.0, 1.0, 4.0, 1.0))  # in base_link
    optical = buffer.lookup("front_optical", "base_link", STAMP).matrix @ point
    u, v, w = P @ np.append(R @ optical[:3], 1)
    seen = frame.intrinsics[0] @ (frame.T_cam_from_model[0] @ point)[:3]
    np.testing.assert_allclose(seen / seen[2], (u / w, v / w, 1), atol=1e-9)
