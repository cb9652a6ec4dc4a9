"""The messages of a set, as the node publishes and the replay records them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from rig_messages import static_transforms

from sparse4d_core.boxes import transform_boxes
from sparse4d_core.inference.pipeline import StepResult
from sparse4d_core.types import Detections, Frame, Tracks
from sparse4d_ros.bags.message_records import RECORDED, record_from_messages
from sparse4d_ros.messages.incoming import insert_transforms
from sparse4d_ros.messages.outgoing import OUTPUTS, output_messages, overlay_message, renumbered
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.messages.trails import Trails
from sparse4d_ros.perception.rig import RigFrames
from sparse4d_ros.perception.synced_set import Missing, SetStatus
from sparse4d_ros.perception.transforms import LookupFailed, TransformBuffer

STAMP = 1_532_402_927_612_460_123
FRAMES = RigFrames(cameras={"cam_front": "cam_front"})
STATUS = SetStatus(STAMP, {"cam_front": 0, "cam_left": 35_000_001}, {"cam_back": Missing("absent")})


@pytest.fixture
def result() -> StepResult:
    """Three detections in the model frame; the first two are tracks."""
    boxes = np.random.default_rng(0).uniform(0.5, 30, (3, 10)).astype(np.float32)
    boxes[:, 6] = (0.1, -2.0, 3.0)
    scores, labels = np.array([0.9, 0.5, 0.2], np.float32), np.array([0, 8, 9])
    detections = Detections(boxes, scores, labels, ids=np.array([4, 7, -1]))
    tracks = Tracks(boxes[:2], scores[:2], labels[:2], ids=np.array([4, 7]))
    return StepResult(detections, tracks, state=None, timings_ms={})


@pytest.fixture
def buffer() -> TransformBuffer:
    buffer = TransformBuffer()
    insert_transforms(buffer, static_transforms(), static=True)
    return buffer


def test_boxes_are_in_the_base_frame_at_the_stamp_of_the_set(result, buffer):
    messages = output_messages(result, STATUS, FRAMES, buffer)
    assert list(messages) == list(OUTPUTS)
    assert all(isinstance(messages[topic], kind) for topic, kind in OUTPUTS.items())
    record = record_from_messages(**{topic: messages[topic] for topic in RECORDED})
    assert (record.stamp_ns, record.frame_id, record.status) == (STAMP, "base_link", STATUS)
    T_base_from_model = buffer.lookup("base_link", "lidar_top", STAMP).matrix
    assert not np.allclose(T_base_from_model, np.eye(4)), "or the frames could not be told apart"
    for published, found in ((record.detections, result.detections), (record.tracks, result.tracks)):
        expected = transform_boxes(found.boxes * ([1] * 9 + [0]), T_base_from_model)
        np.testing.assert_array_equal(published.boxes[:, :6], expected[:, :6])
        np.testing.assert_allclose(published.boxes[:, 6:], expected[:, 6:], rtol=1e-6)  # velocities go as float32
        np.testing.assert_array_equal(published.scores, found.scores)
        np.testing.assert_array_equal(published.labels, found.labels)
    assert messages["markers"].markers[0].header.frame_id == "base_link"
    assert all(ns_from_stamp(messages[topic].header.stamp) == STAMP for topic in RECORDED)


def test_trails_are_there_where_the_vehicles_pose_is_known(result, buffer):
    def namespaces(trails: Trails) -> set[str]:
        """Of the second of two sets, the objects of which have moved by metres."""
        moved = replace(result, tracks=replace(result.tracks, boxes=result.tracks.boxes + np.float32(3.0)))
        for one, stamp_ns in ((result, STAMP), (moved, STAMP + 100_000_000)):
            status = replace(STATUS, stamp_ns=stamp_ns)
            message = output_messages(one, status, FRAMES, buffer, wanted=["markers"], trails=trails)["markers"]
        return {marker.ns for marker in message.markers if marker.ns}

    assert namespaces(Trails()) == {"boxes", "ids", "velocity"}
    buffer.insert(FRAMES.global_frame, "base_link", 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), static=True)
    assert namespaces(Trails()) == {"boxes", "ids", "velocity", "trails"}


def test_velocities_are_those_along_the_ground(result, buffer):
    """A model frame as tilted as nuScenes' lidar, and a vertical velocity that no model learns: nobody drives by it."""
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[np.cos(0.03), -np.sin(0.03)], [np.sin(0.03), np.cos(0.03)]]
    result.tracks.boxes[:, 7:] = (0.0, 0.0, -6.0)
    frames = RigFrames(FRAMES.cameras, T_base_from_model=tilted)
    messages = output_messages(result, STATUS, frames, buffer, wanted=RECORDED)
    assert not record_from_messages(**messages).tracks.boxes[:, 7:].any()


def test_a_model_frame_by_numbers_gives_the_same_boxes(result, buffer):
    numbers = buffer.lookup("base_link", "lidar_top", STAMP).matrix
    by_number = RigFrames(FRAMES.cameras, model_frame="not in tf", T_base_from_model=numbers)
    assert output_messages(result, STATUS, by_number, TransformBuffer()) == output_messages(
        result, STATUS, FRAMES, buffer
    )


def test_the_score_threshold_concerns_detections_alone(result, buffer):
    messages = output_messages(result, STATUS, FRAMES, buffer, score_threshold=0.6)
    counts = {topic: len(messages[topic].detections) for topic in ("detections", "tracks")}
    assert counts == {"detections": 1, "tracks": 2}
    assert (messages["detection_states"].width, messages["track_states"].width) == (1, 2)


def test_ids_count_from_a_given_number_and_rows_without_one_stay_without(result):
    shifted = renumbered(result, 1000)
    assert shifted.detections.ids.tolist() == [1004, 1007, -1] and shifted.tracks.ids.tolist() == [1004, 1007]
    assert result.detections.ids.tolist() == [4, 7, -1], "which is the pipeline's"
    nameless = replace(result, detections=replace(result.detections, ids=None))
    assert renumbered(nameless, 1000).detections.ids is None


def test_only_what_is_wanted_is_made(result, buffer):
    assert list(output_messages(result, STATUS, FRAMES, buffer, wanted=["tracks", "markers"])) == ["tracks", "markers"]
    assert output_messages(result, STATUS, FRAMES, buffer, wanted=[]) == {}


def test_without_the_pose_of_the_model_frame_there_is_no_message(result):
    with pytest.raises(LookupFailed):
        output_messages(result, STATUS, FRAMES, TransformBuffer(), wanted=[])


def test_the_overlay_is_a_picture_of_the_asked_width(result):
    image = np.full((48, 64, 3), 90, np.uint8)
    frame = Frame((image,), np.eye(3)[None] * 40, np.eye(4)[None], np.eye(4), STAMP, ("cam_front",))
    wide, narrow = (overlay_message(frame, result, "base_link", tile_width=width, quality=80) for width in (320, 160))
    pictures = [cv2.imdecode(np.frombuffer(m.data, np.uint8), cv2.IMREAD_COLOR) for m in (wide, narrow)]
    assert pictures[0].shape[1] > pictures[1].shape[1] and pictures[0].std() > 0
    assert wide.format == "jpeg" and wide.header.frame_id == "base_link"
