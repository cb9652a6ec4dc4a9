"""Pictures of a recorded run: the overlay video and the drive from above."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sparse4d_core.boxes import transform_boxes
from sparse4d_core.inference.tracking import filter_by_score, worth_showing
from sparse4d_core.types import Detections
from sparse4d_core.visualization import Trail, draw_drive, draw_overlay

from ..bags.box_record import SetRecord, read_box_record
from ..bags.nuscenes_messages import BASE_FRAME, GLOBAL_FRAME
from ..bags.sets import BagFrames
from ..bags.truth import Truth, read_truth
from ..messages.detections import detections_from_messages
from ..perception.transforms import TransformBuffer
from ..units import NANOSECONDS

MIN_DRAWN_SCORE = 0.2  # of a box in the video; below it boxes hide the pictures
MIN_TRAIL = 3  # sets; shorter tracks are noise in a picture of the whole drive
MIN_TRACK_SCORE = 0.3  # of a track's best set, likewise
PAUSE_NS = 2 * NANOSECONDS  # a longer silence separates two drives


def annotated_boxes(truth: Truth) -> dict[int, Detections]:
    """Stamp of the set ► annotated boxes in the global frame; the ids are their instances' numbers in the bag."""
    instances: dict[str, int] = {}
    annotations = {}
    for stamp_ns, message in truth.annotations.items():
        names = [instances.setdefault(detection.id, len(instances)) for detection in message.detections]
        annotations[stamp_ns] = replace(detections_from_messages(message), ids=np.array(names, np.int64))
    return annotations


def draw_overlay_video(bag: Path, recorded: Path, out: Path, fps: float) -> None:
    """Every recorded set on the six images and from above: tracks, or the confident detections of a model without ids;
    annotations thin and grey where there are any."""
    records = {item.stamp_ns: item for item in read_box_record(recorded)}
    bag_truth = read_truth(bag)
    annotations, buffer = annotated_boxes(bag_truth), bag_truth.buffer
    writer = None
    frames = BagFrames(bag)
    for frame in tqdm(frames.frames(set(records)), total=len(records), desc=out.name, unit="set"):
        stamp_ns = frame.stamp_ns
        record = records[stamp_ns]
        boxes = filter_by_score(worth_showing(record.detections, record.tracks), MIN_DRAWN_SCORE)
        boxes = _in_model_frame(boxes, buffer, stamp_ns, record.frame_id, frames)
        truth = annotations.get(stamp_ns)
        if truth is not None:
            truth = _in_model_frame(truth, buffer, stamp_ns, GLOBAL_FRAME, frames)
        picture = draw_overlay(frame, boxes, ground_truth=truth, title=f"{stamp_ns / NANOSECONDS:.2f} s")
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]  # video codecs want even sizes
        if writer is None:
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter_fourcc(*"mp4v"), fps, picture.shape[1::-1])
        writer.write(picture)
    if writer is not None:
        writer.release()


def _in_model_frame(
    boxes: Detections, buffer: TransformBuffer, stamp_ns: int, frame_id: str, frames: BagFrames
) -> Detections:
    T_model_from_frame = buffer.lookup(frames.rig.frames.model_frame, frame_id, stamp_ns).matrix
    return replace(boxes, boxes=transform_boxes(boxes.boxes, T_model_from_frame))


def draw_bev_picture(bag: Path, record: Path, out: Path) -> None:
    """The first drive of the bag from above: where the vehicle went, what it tracked, and what was there."""
    truth = read_truth(bag)
    records = _first_drive(list(read_box_record(record)))
    ego = [truth.buffer.lookup(GLOBAL_FRAME, BASE_FRAME, item.stamp_ns).matrix[:2, 3] for item in records]
    tracks: dict[int, list[tuple[np.ndarray, str, float]]] = defaultdict(list)
    for item in records:
        T_global_from_frame = truth.buffer.lookup(GLOBAL_FRAME, item.frame_id, item.stamp_ns).matrix
        boxes = transform_boxes(item.tracks.boxes, T_global_from_frame)
        for box, name, score, number in zip(
            boxes, item.tracks.names(), item.tracks.scores, item.tracks.ids, strict=True
        ):
            tracks[int(number)].append((box[:2], name, float(score)))
    trails = {
        number: Trail(np.array([xy for xy, _, _ in points]), points[-1][1])
        for number, points in tracks.items()
        if len(points) >= MIN_TRAIL and max(score for _, _, score in points) >= MIN_TRACK_SCORE
    }
    truth_trails = _truth_trails(truth, {item.stamp_ns for item in records})
    picture = draw_drive(np.array(ego).reshape(-1, 2), trails, truth_trails, title=f"{len(trails)} tracks")
    cv2.imwrite(str(out), picture)


def _first_drive(records: list[SetRecord]) -> list[SetRecord]:
    stamps = np.array([item.stamp_ns for item in records], np.int64)
    pauses = np.flatnonzero(np.diff(stamps) > PAUSE_NS)
    return records[: pauses[0] + 1] if len(pauses) else records


def _truth_trails(truth: Truth, stamps: set[int]) -> dict[str, Trail]:
    points: dict[int, list[tuple[np.ndarray, str]]] = defaultdict(list)
    for stamp_ns, boxes in annotated_boxes(truth).items():
        if stamp_ns in stamps:
            for box, name, number in zip(boxes.boxes, boxes.names(), boxes.ids, strict=True):
                points[int(number)].append((box[:2], name))
    return {str(n): Trail(np.array([xy for xy, _ in found]), found[0][1]) for n, found in points.items()}
