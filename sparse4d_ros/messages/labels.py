"""The model's classes, for consumers of messages that have numbers: vision_msgs/LabelInfo."""

from __future__ import annotations

from collections.abc import Sequence

from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo, VisionClass


def to_label_info(class_names: Sequence[str], threshold: float, header: Header) -> LabelInfo:
    """Class names ► LabelInfo.

    Args:
        class_names: in the order of the numbers `class_id` of `~/detection_states` and `~/track_states`.
        threshold: score below which there is no track, 0 to 1.
        header: frame of the boxes, and when the model was loaded.
    """
    classes = [VisionClass(class_id=number, class_name=name) for number, name in enumerate(class_names)]
    return LabelInfo(header=header, class_map=classes, threshold=threshold)
