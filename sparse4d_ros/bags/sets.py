"""The sets of a bag, as the node's synchronizer would make them, and the frames that they show."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparse4d_core.config import preset
from sparse4d_core.types import Frame

from ..messages.conversions import insert_transforms, ns_from_stamp
from ..node import default_rig
from ..parameters import NodeParameters
from ..perception.frame_builder import FrameBuilder
from ..perception.rig import Rig, load_rig
from ..perception.synchronizer import SyncedSet, Synchronizer
from ..perception.transforms import TransformBuffer, TransformError
from .bag_io import BagError, open_bag, read_messages

NANOSECONDS = 1_000_000_000
TF_TOPICS = ("/tf", "/tf_static")

log = logging.getLogger(__name__)


class BagFrames:
    """One pass over a bag, in its own order and without haste.

    Args:
        rig: None: the nuScenes rig.
        parameters: those of the node that concern synchronization, poses and images.

    Attributes:
        synchronizer: its counts of images.
        buffer: transforms up to the set that was read last.
    """

    def __init__(self, bag: str | Path, rig: Rig | None = None, parameters: NodeParameters | None = None):
        self._bag = bag
        self.rig = load_rig(default_rig()) if rig is None else rig
        self._parameters = values = NodeParameters() if parameters is None else parameters
        self.buffer = TransformBuffer(values.tf_cache)
        self.builder = FrameBuilder(
            self.rig.frames,
            self.buffer,
            distortion=values.distortion,
            decode_threads=values.decode_threads,
            max_field_of_view=values.fisheye_field_of_view,
            reduced_for=preset(values.model).image if values.reduced_decoding else None,
        )
        self.synchronizer = Synchronizer(
            self.rig.names,
            slop_ns=round(values.sync_slop * NANOSECONDS),
            timeout_ns=round(values.sync_timeout * NANOSECONDS),
            missing=values.missing_camera,
        )

    def frames(self, only: set[int]) -> Iterator[Frame]:
        """The frames of the sets with these stamps, nanoseconds.

        Raises:
            BagError: the bag cannot be read, or lacks the rig's topics.
            ConversionError, TransformError: a set cannot be used.
        """
        for synced in self.sets():
            if synced.stamp_ns in only:
                yield self.builder.build(synced)[0]

    def sets(self) -> Iterator[SyncedSet]:
        """Complete sets in the order of the bag; transforms run ahead by the time that the node would wait for them.

        Raises:
            BagError: the bag cannot be read, or lacks the rig's topics.
        """
        images = {camera.image_topic: camera.name for camera in self.rig.cameras}
        infos = {camera.info_topic: camera.name for camera in self.rig.cameras}
        self._check_topics([*images, *infos])
        transforms = read_messages(self._bag, TF_TOPICS)
        ahead = next(transforms, None)
        for topic, log_ns, message in read_messages(self._bag, [*images, *infos]):
            while ahead is not None and ahead[1] <= log_ns + self._parameters.tf_timeout * NANOSECONDS:
                self._insert(*ahead)
                ahead = next(transforms, None)
            if topic in infos:
                self.synchronizer.add_info(infos[topic], message, ns_from_stamp(message.header.stamp))
            else:
                self.synchronizer.add_image(images[topic], ns_from_stamp(message.header.stamp), message)
            synced = self.synchronizer.take_newest()
            if synced is not None:
                yield synced

    def _insert(self, topic: str, _: int, message: Any) -> None:
        try:
            insert_transforms(self.buffer, message, static=topic == "/tf_static")
        except TransformError as error:
            log.warning("%s: %s", topic, error)

    def _check_topics(self, wanted: Sequence[str]) -> None:
        with open_bag(self._bag) as reader:
            there = set(reader.topics)
        if missing := [topic for topic in [*wanted, "/tf"] if topic not in there]:
            raise BagError(f"bag: {self._bag} lacks {', '.join(missing)}; it has {', '.join(sorted(there))}")
