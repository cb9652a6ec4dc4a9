"""What is published for a set: the node sends these messages, the replay records them. One function for both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CompressedImage, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from sparse4d_core.boxes import along_the_ground, transform_boxes
from sparse4d_core.inference.tracking import filter_by_score, worth_showing
from sparse4d_core.types import Detections, Frame
from sparse4d_core.visualization import draw_overlay

from ..perception.image_decoding import ConversionError
from ..perception.rig import RigFrames
from ..perception.synced_set import SetStatus
from ..perception.transforms import TransformBuffer, TransformError
from .detections import to_detection_array, to_state_cloud
from .markers import to_markers
from .set_status import to_set_status
from .stamps import make_header, ns_from_stamp
from .trails import Trails

if TYPE_CHECKING:  # a recorder of these messages starts without torch
    from sparse4d_core.inference.pipeline import StepResult

OUTPUTS = {
    "detections": Detection3DArray,
    "detection_states": PointCloud2,
    "tracks": Detection3DArray,
    "track_states": PointCloud2,
    "markers": MarkerArray,
    "set_status": DiagnosticArray,
}
"""Topics below the node's name, and their types. The overlay is apart: it takes long, and is for people alone."""


@dataclass(frozen=True)
class OtherOutput:
    """A topic of another family of messages, such as Autoware's."""

    kind: type
    convert: Callable[[Detections, np.ndarray, Header], Any]  # (found, boxes in the header's frame, header) ► message
    of: Literal["detections", "tracks"]


def renumbered(result: StepResult, first_id: int) -> StepResult:
    """The same with ids that count from `first_id` instead of 0; rows without one stay without."""
    return replace(
        result, detections=_renumbered(result.detections, first_id), tracks=_renumbered(result.tracks, first_id)
    )


def _renumbered(found: Detections, first_id: int) -> Detections:
    return found if found.ids is None else replace(found, ids=np.where(found.ids < 0, found.ids, found.ids + first_id))


def output_messages(
    result: StepResult,
    status: SetStatus,
    frames: RigFrames,
    buffer: TransformBuffer,
    score_threshold: float = 0.0,
    wanted: Collection[str] = tuple(OUTPUTS),
    others: Mapping[str, OtherOutput] = MappingProxyType({}),
    trails: Trails | None = None,
) -> dict[str, Any]:
    """The messages of one set by topic, boxes in the base frame at the set's stamp.

    Args:
        result: of the pipeline, boxes in the model frame.
        status: of the set.
        frames: of the rig.
        buffer: has the model frame's pose in the base frame, unless the rig gives it by numbers.
        score_threshold: detections below it are left out; tracks are not concerned.
        wanted: topics to make messages for.
        others: more topics that can be wanted.
        trails: of the sets before; with it the markers have trails, where the vehicle's pose is known.

    Raises:
        TransformError: the model frame has no pose in the base frame.
    """
    T_base_from_model = frames.base_from_model(buffer, status.stamp_ns)
    header = make_header(frames.base_frame, status.stamp_ns)
    detections = filter_by_score(result.detections, score_threshold)
    conversions = {
        "detections": (to_detection_array, detections),
        "detection_states": (to_state_cloud, detections),
        "tracks": (to_detection_array, result.tracks),
        "track_states": (to_state_cloud, result.tracks),
        "markers": (
            partial(_markers, frames=frames, buffer=buffer, trails=trails),
            worth_showing(result.detections, result.tracks),
        ),
    }
    found_by_name = {"detections": detections, "tracks": result.tracks}
    conversions |= {topic: (other.convert, found_by_name[other.of]) for topic, other in others.items()}
    messages = {
        topic: convert(found, transform_boxes(along_the_ground(found.boxes), T_base_from_model), header)
        for topic, (convert, found) in conversions.items()
        if topic in wanted
    }
    return messages | ({"set_status": to_set_status(status, header)} if "set_status" in wanted else {})


def _markers(
    found: Detections,
    boxes: np.ndarray,
    header: Header,
    frames: RigFrames,
    buffer: TransformBuffer,
    trails: Trails | None,
) -> MarkerArray:
    if trails is None:
        return to_markers(found, boxes, header)
    stamp_ns = ns_from_stamp(header.stamp)
    try:
        T_global_from_base = buffer.lookup(frames.global_frame, frames.base_frame, stamp_ns).matrix
    except TransformError:  # only the camera's poses are needed for boxes
        return to_markers(found, boxes, header)
    return to_markers(found, boxes, header, trails.follow(found, boxes, T_global_from_base, stamp_ns))


def overlay_message(frame: Frame, result: StepResult, frame_id: str, tile_width: int, quality: int) -> CompressedImage:
    """The tracks on the camera images and from above, as JPEG.

    Args:
        frame: the images.
        result: of the pipeline for this frame.
        frame_id: of the header.
        tile_width: pixels of one camera.
        quality: of the JPEG, 1 to 100.
    """
    picture = draw_overlay(frame, worth_showing(result.detections, result.tracks), tile_width=tile_width)
    return to_compressed_image(picture, make_header(frame_id, frame.stamp_ns), quality)


def to_compressed_image(picture: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """[H, W, 3] uint8 BGR ► sensor_msgs/CompressedImage (JPEG of that quality, 1 to 100)."""
    encoded, data = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not encoded:
        raise ConversionError("image_data", f"picture: OpenCV could not encode {picture.shape} {picture.dtype} as JPEG")
    return CompressedImage(header=header, format="jpeg", data=data.tobytes())
