"""Tracks ► markers for rviz. Boxes are in the header's frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from sparse4d_core.types import Detections
from sparse4d_core.visualization import class_color_rgb

from .detections import pose_of_box, text_ids

MIN_ARROW_SPEED = 0.3  # m/s; slower objects get no velocity arrow
MARKER_LIFETIME = 1  # s; pictures of a node that stopped fade
LETTER_HEIGHT = 1.0  # m; 7 pixels from the 80 m away at which the display starts


def to_markers(
    tracks: Detections, boxes: np.ndarray, header: Header, trails: Mapping[int, np.ndarray] = MappingProxyType({})
) -> MarkerArray:
    """Tracks ► visualization_msgs/MarkerArray: DELETEALL, then box, text (class, id if any), arrow and trail of each.

    Args:
        tracks: labels and ids.
        boxes: [M, 10] float64, the same boxes in the header's frame.
        header: frame and stamp of the set.
        trails: track id -> where it was, [K, 3] in the header's frame, oldest first.
    """
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    ids = [None] * len(boxes) if tracks.ids is None else tracks.ids.tolist()
    rows = zip(boxes.tolist(), tracks.names(), text_ids(tracks), ids, strict=True)
    for number, (box, name, identity, track) in enumerate(rows):
        color = tuple(value / 255 for value in class_color_rgb(name))
        markers.append(_box_marker(box, color, header, number))
        markers.append(_text_marker(box, f"{name} {identity}".strip(), header, number))
        if math.hypot(box[7], box[8]) > MIN_ARROW_SPEED:
            markers.append(_arrow_marker(box, color, header, number))
        if track in trails:
            markers.append(_trail_marker(trails[track], color, header, number))
    return MarkerArray(markers=markers)


def _marker(
    namespace: str, kind: int, color: tuple[float, float, float], alpha: float, header: Header, number: int
) -> Marker:
    r, g, b = color
    marker = Marker(header=header, ns=namespace, id=number, type=kind, action=Marker.ADD)
    marker.color = ColorRGBA(r=r, g=g, b=b, a=alpha)
    marker.lifetime = Duration(sec=MARKER_LIFETIME)
    return marker


def _box_marker(box: Sequence[float], color: tuple[float, float, float], header: Header, number: int) -> Marker:
    marker = _marker("boxes", Marker.CUBE, color, 0.5, header, number)
    marker.pose = pose_of_box(box)
    marker.scale = Vector3(x=box[3], y=box[4], z=box[5])
    return marker


def _text_marker(box: Sequence[float], text: str, header: Header, number: int) -> Marker:
    marker = _marker("ids", Marker.TEXT_VIEW_FACING, (1.0, 1.0, 1.0), 1.0, header, number)
    marker.pose.position = Point(x=box[0], y=box[1], z=box[2] + 0.5 * box[5] + 0.5 * LETTER_HEIGHT + 0.2)
    marker.scale.z = LETTER_HEIGHT
    marker.text = text
    return marker


def _arrow_marker(box: Sequence[float], color: tuple[float, float, float], header: Header, number: int) -> Marker:
    """From the centre to where the object will be in one second."""
    marker = _marker("velocity", Marker.ARROW, color, 1.0, header, number)
    marker.points = [Point(x=box[0], y=box[1], z=box[2]), Point(x=box[0] + box[7], y=box[1] + box[8], z=box[2])]
    marker.scale = Vector3(x=0.15, y=0.35, z=0.4)
    return marker


def _trail_marker(places: np.ndarray, color: tuple[float, float, float], header: Header, number: int) -> Marker:
    marker = _marker("trails", Marker.LINE_STRIP, color, 0.8, header, number)
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in places.tolist()]
    marker.scale.x = 0.12
    return marker
