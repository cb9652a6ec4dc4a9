"""What a bag contains besides images: all its transforms, its annotations, and the samples that its sets are."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..messages.incoming import insert_transforms
from ..messages.stamps import ns_from_stamp
from ..perception.transforms import TransformBuffer, TransformError
from .bag_io import BagError, read_messages
from .nuscenes_messages import ANNOTATION_TOPIC, SAMPLE_TOPIC

ALL_TIME = 1e9  # s; keep every transform of the bag
ANNOTATION_TYPE = "vision_msgs/msg/Detection3DArray"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Truth:
    """Stamps are those of the sets, in nanoseconds."""

    buffer: TransformBuffer = field(default_factory=lambda: TransformBuffer(ALL_TIME))  # all transforms of the bag
    samples: dict[int, dict[str, Any]] = field(default_factory=dict)  # stamp -> what nuscenes_to_rosbag noted
    annotations: dict[int, Any] = field(default_factory=dict)  # stamp -> Detection3DArray


def read_truth(bag: str | Path, annotation_topic: str | None = ANNOTATION_TOPIC) -> Truth:
    """Reads a bag once; transforms that cannot be right are logged and left out.

    Args:
        annotation_topic: of the annotations; None: without them.

    Raises:
        BagError: the bag cannot be read, or the topic is of another type.
    """
    truth = Truth()
    topics = ["/tf", "/tf_static", SAMPLE_TOPIC, *([annotation_topic] if annotation_topic else [])]
    for topic, _, message in read_messages(bag, topics):
        if topic == annotation_topic:
            if message.__msgtype__ != ANNOTATION_TYPE:
                raise BagError(
                    f"annotations: {topic} has {message.__msgtype__}; expected a topic with {ANNOTATION_TYPE}: "
                    "name it with --annotations"
                )
            truth.annotations[ns_from_stamp(message.header.stamp)] = message
        elif topic == SAMPLE_TOPIC:
            sample = json.loads(message.data)
            if annotation_topic != ANNOTATION_TOPIC:
                sample.pop("annotations", None)  # what is noted of each box there is of no other topic's boxes
            truth.samples[sample["stamp_ns"]] = sample
        else:
            try:
                insert_transforms(truth.buffer, message, static=topic == "/tf_static")
            except TransformError as error:
                log.warning("%s: %s", topic, error)
    return truth
