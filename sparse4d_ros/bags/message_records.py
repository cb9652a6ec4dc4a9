"""Published messages ► the record that a run leaves: the recorder and the replay both make it here."""

from __future__ import annotations

from typing import Any

from sparse4d_core.types import Tracks

from ..messages.detections import detections_from_messages
from ..messages.set_status import set_status_from_message
from ..messages.stamps import ns_from_stamp
from .box_record import SetRecord

RECORDED = ("detections", "detection_states", "tracks", "track_states", "set_status")
"""The topics of `messages.outgoing.OUTPUTS` that a record holds."""


def record_from_messages(
    detections: Any, detection_states: Any, tracks: Any, track_states: Any, set_status: Any, received_ns: int = 0
) -> SetRecord:
    """The messages of one set ► its record.

    Raises:
        ConversionError: the messages are not of one set.
    """
    found = detections_from_messages(detections, detection_states)
    tracked = detections_from_messages(tracks, track_states)
    return SetRecord(
        ns_from_stamp(detections.header.stamp),
        detections.header.frame_id,
        found,
        Tracks(tracked.boxes, tracked.scores, tracked.labels, ids=tracked.ids, class_names=tracked.class_names),
        received_ns,
        set_status_from_message(set_status),
    )
