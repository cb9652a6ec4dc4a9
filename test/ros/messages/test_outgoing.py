"""Sets to frames, tracks to messages and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("rclpy")
from geometry_msgs.msg import TransformStamped  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, PointCloud2  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402
from vision_msgs.msg import Detection3DArray  # noqa: E402
from visualization_msgs.msg import Marker  # noqa: E402

from sparse4d_core.geometry import transform_boxes  # noqa: E402
from sparse4d_core.types import CLASS_NAMES, Detections, Tracks  # noqa: E402
from sparse4d_ros.messages import outgoing as c  # noqa: E402
from sparse4d_ros.perception.camera_model import CameraModel  # noqa: E402
from sparse4d_ros.perception.transforms import ExtrapolationFailed, InvalidArgument, LookupFailed, TransformBuffer  # noqa: E402

STAMP = 1_532_402_927_612_460_123
HEADER = c.make_header("base_link", STAMP)
RIG = c.RigFrames(cameras={"front": "cam_front", "back": "cam_back"})


def transform_message(
    parent: str, child: str, stamp_ns: int, xyz=(0.0, 0.0, 0.0), yaw: float = 0.0
) -> TransformStamped:
    message = TransformStamped(header=c.make_header(parent, stamp_ns), child_frame_id=child)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(v) for v in xyz)
    q.z, q.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return message


def moving_rig() -> TransformBuffer:
    """The base drives along x at 10 m/s; the back camera looks along -x of the base (a rotation about z will do)."""
    buffer = TransformBuffer()
    static = [
        transform_message("base_link", "cam_front", 0, (1, 0, 0)),
        transform_message("base_link", "cam_back", 0, (-1, 0, 0), math.pi),
        transform_message("base_link", "lidar_top", 0, (0, 0, 2)),
    ]
    c.insert_transforms(buffer, TFMessage(transforms=static), static=True)
    poses = [transform_message("map", "base_link", STAMP + k * 100_000_000, (100 + k, 0, 0)) for k in range(-1, 2)]
    c.insert_transforms(buffer, TFMessage(transforms=poses), static=False)
    return buffer


def camera() -> CameraModel:
    return CameraModel(np.array([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]]), (64, 48), "cam_front")


def image(value: int = 0) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


@st.composite
def detections(draw, kind=Detections) -> Detections:
    """Any detections that a model can produce, float32."""
    count = draw(st.integers(0, 6))
    finite = {"allow_nan": False, "allow_infinity": False, "width": 32}
    boxes = draw(hnp.arrays(np.float32, (count, 10), elements=st.floats(-100, 100, **finite)))
    boxes[:, 3:6] = np.abs(boxes[:, 3:6]) + np.float32(0.1)
    boxes[:, 6] = boxes[:, 6] / 32
    scores = draw(hnp.arrays(np.float32, count, elements=st.floats(0, 1, **finite)))
    labels = draw(hnp.arrays(np.int64, count, elements=st.integers(0, len(CLASS_NAMES) - 1)))
    ids = draw(hnp.arrays(np.int64, count, elements=st.integers(0, 2**40)))
    return kind(boxes, scores, labels, ids=ids)


@given(stamp_ns=st.integers(0, 2**62))
def test_stamps_round_trip(stamp_ns):
    if stamp_ns < 2**31 * 10**9:
        assert c.ns_from_stamp(c.stamp_from_ns(stamp_ns)) == stamp_ns


@settings(max_examples=40, deadline=None)
@given(found=detections())
def test_detection_array_round_trip(found):
    """Through the wire format: every number comes back, the yaw to float32's last digit (modulo a turn)."""
    message = c.to_detection_array(found, found.boxes.astype(np.float64), HEADER)
    cloud = c.to_state_cloud(found, found.boxes.astype(np.float64), HEADER)
    message = deserialize_message(serialize_message(message), Detection3DArray)
    cloud = deserialize_message(serialize_message(cloud), PointCloud2)
    back = c.detections_from_messages(message, cloud)
    turn = np.remainder(back.boxes[:, 6] - found.boxes[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(turn, 0, atol=1e-14)
    np.testing.assert_array_equal(np.delete(back.boxes, 6, axis=1), np.delete(found.boxes, 6, axis=1))
    np.testing.assert_array_equal(back.scores, found.scores)
    np.testing.assert_array_equal(back.labels, found.labels)
    np.testing.assert_array_equal(back.ids, found.ids)
    assert c.ns_from_stamp(message.header.stamp) == STAMP and message.header.frame_id == "base_link"


@settings(max_examples=40, deadline=None)
@given(tracks=detections(Tracks))
def test_state_cloud_round_trip(tracks):
    cloud = deserialize_message(serialize_message(c.to_state_cloud(tracks, tracks.boxes, HEADER)), PointCloud2)
    assert (cloud.width, cloud.height, cloud.row_step) == (len(tracks.boxes), 1, len(cloud.data))
    states = c.states_from_cloud(cloud)
    columns = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy", "vz")
    np.testing.assert_array_equal(np.stack([states[name] for name in columns], axis=1), tracks.boxes)
    np.testing.assert_array_equal(states["score"], tracks.scores)
    np.testing.assert_array_equal(states["track_id"], tracks.ids % 2**32)


def test_size_is_length_width_height():
    box = np.array([[1.0, 2, 3, 4.5, 1.9, 1.6, math.pi / 2, 0, 5, 0]])
    message = c.to_detection_array(Tracks(box, np.array([0.9]), np.array([0]), ids=np.array([7])), box, HEADER)
    found = message.detections[0]
    assert (found.bbox.size.x, found.bbox.size.y, found.bbox.size.z) == (4.5, 1.9, 1.6)
    assert (found.id, found.results[0].hypothesis.class_id, found.results[0].hypothesis.score) == ("7", "car", 0.9)
    assert found.results[0].pose.pose == found.bbox.center
    assert math.isclose(found.bbox.center.orientation.z, math.sin(math.pi / 4))


@settings(max_examples=40, deadline=None)
@given(found=detections(), xyz=hnp.arrays(np.float64, 3, elements=st.floats(-50, 50)), yaw=st.floats(-3, 3))
def test_transform_boxes_inverts(found, xyz, yaw):
    buffer = TransformBuffer()
    c.insert_transforms(buffer, TFMessage(transforms=[transform_message("a", "b", 0, xyz, yaw)]), static=True)
    there = transform_boxes(found.boxes, buffer.lookup("a", "b", 0).matrix)
    back = transform_boxes(there, buffer.lookup("b", "a", 0).matrix)
    turn = np.remainder(back[:, 6] - found.boxes[:, 6] + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(np.delete(back, 6, axis=1), np.delete(found.boxes, 6, axis=1), atol=1e-9)
    np.testing.assert_allclose(turn, 0, atol=1e-9)
    speed = np.linalg.norm(there[:, 7:], axis=1)
    np.testing.assert_allclose(speed, np.linalg.norm(found.boxes[:, 7:].astype(float), axis=1), atol=1e-9)


def test_frame_uses_the_pose_at_each_image():
    """A point 10 m ahead at the set's stamp is 10.5 m ahead of where the car was 50 ms before."""
    images = {"front": (STAMP - 50_000_000, image(1)), "back": (STAMP, image(2))}
    frame = c.build_frame(images, STAMP, {"front": camera(), "back": camera()}, RIG, moving_rig())
    point = np.array((10.0, 0, 0, 1))  # model frame: 2 m above the base
    np.testing.assert_allclose(frame.T_cam_from_model[0] @ point, (10 - 1 + 0.5, 0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(frame.T_cam_from_model[1] @ point, (-10 - 1, 0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(frame.T_global_from_model[:3, 3], (100, 0, 2), atol=1e-9)
    assert frame.camera_names == ("front", "back") and frame.stamp_ns == STAMP
    assert [int(pixels[0, 0, 0]) for pixels in frame.images] == [1, 2]


def test_model_frame_given_as_numbers():
    numbers = np.eye(4)
    numbers[2, 3] = 2
    rig = c.RigFrames(RIG.cameras, model_frame="not in tf", T_base_from_model=numbers)
    images = {"front": (STAMP - 30_000_000, image()), "back": (STAMP, image())}
    models = {"front": camera(), "back": camera()}
    by_name, by_number = (c.build_frame(images, STAMP, models, r, moving_rig()) for r in (RIG, rig))
    np.testing.assert_allclose(by_number.T_cam_from_model, by_name.T_cam_from_model, atol=1e-12)
    np.testing.assert_allclose(by_number.T_global_from_model, by_name.T_global_from_model, atol=1e-12)


def test_missing_camera_is_none():
    frame = c.build_frame({"back": (STAMP, image())}, STAMP, {"back": camera()}, RIG, moving_rig())
    assert frame.images[0] is None and frame.images[1] is not None


def test_frame_errors():
    images = {"front": (STAMP, image()), "back": (STAMP, image())}
    models = {"front": camera(), "back": camera()}
    with pytest.raises(c.ConversionError, match="without CameraInfo"):
        c.build_frame(images, STAMP, {"back": camera()}, RIG, moving_rig())
    with pytest.raises(ExtrapolationFailed):
        c.build_frame(images, STAMP + 10**9, models, RIG, moving_rig())
    with pytest.raises(LookupFailed, match="cam_side"):
        c.build_frame(images, STAMP, models, c.RigFrames({"front": "cam_side"}), moving_rig())


def test_bad_transform_does_not_hide_the_good_ones():
    buffer = TransformBuffer()
    bad = transform_message("map", "base_link", STAMP)
    bad.transform.rotation.w = math.nan
    good = transform_message("map", "other", STAMP)
    with pytest.raises(InvalidArgument):
        c.insert_transforms(buffer, TFMessage(transforms=[bad, good]), static=False)
    assert buffer.lookup("map", "other", STAMP).stamp_ns == STAMP


def test_header_checks():
    good = CompressedImage(header=c.make_header("cam_front", STAMP))
    assert c.check_header(good, "cam_front") == STAMP
    with pytest.raises(c.ConversionError, match="the rig expects 'cam_back'"):
        c.check_header(good, "cam_back")
    with pytest.raises(c.ConversionError, match="time of exposure"):
        c.check_header(CompressedImage(header=c.make_header("cam_front", 0)), "cam_front")


def test_markers():
    boxes = np.array([[1.0, 2, 3, 4, 2, 1.5, 0, 3, 4, 0], [5.0, 5, 0, 0.4, 0.4, 1, 0, 0.1, 0, 0]])
    tracks = Tracks(boxes, np.array([0.9, 0.5]), np.array([0, 9]), ids=np.array([3, 12]))
    markers = c.to_markers(tracks, boxes, HEADER).markers
    assert markers[0].action == Marker.DELETEALL
    assert [m.ns for m in markers[1:]] == ["boxes", "ids", "velocity", "boxes", "ids"]  # the cone stands still
    assert (markers[1].scale.x, markers[1].scale.y, markers[1].scale.z) == (4.0, 2.0, 1.5)
    assert (markers[2].text, markers[5].text) == ("car 3", "traffic_cone 12")
    tip = markers[3].points[1]
    assert (tip.x, tip.y, tip.z) == (4.0, 6.0, 3.0)
    assert len({(m.ns, m.id) for m in markers[1:]}) == 5
    assert all(m.header.frame_id == "base_link" for m in markers)


def test_unknown_class_and_wrong_states():
    box = np.zeros((1, 10)) + 1
    found = Detections(box, np.array([0.5]), np.array([2]))
    message = c.to_detection_array(found, box, HEADER)
    assert message.detections[0].id == "" and c.detections_from_messages(message).ids is None
    with pytest.raises(c.ConversionError, match="0 points for 1 boxes"):
        empty = Detections(np.zeros((0, 10)), np.zeros(0), np.zeros(0, np.int64))
        c.detections_from_messages(message, c.to_state_cloud(empty, empty.boxes, HEADER))
    message.detections[0].results[0].hypothesis.class_id = "tram"
    with pytest.raises(c.ConversionError, match="class 'tram'"):
        c.detections_from_messages(message)
