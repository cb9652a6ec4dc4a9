"""The sets of a bag, as the node's synchronizer would make them, and the frames that they show."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparse4d_core.types import Frame

from ..assembly import make_frame_builder, make_synchronizer
from ..messages.incoming import transforms_of
from ..messages.rig_transforms import RigTransforms
from ..messages.stamps import ns_from_stamp
from ..parameters import NodeParameters
from ..perception.rig import Rig, load_rig
from ..perception.synchronizer import SILENCE_NS, SyncedSet, Synchronizer
from ..perception.transforms import TransformBuffer, TransformError
from ..units import nanoseconds
from .bag_io import BagError, open_bag, read_messages

TF_TOPICS = ("/tf", "/tf_static")
SETS_AT_ONCE = 1000  # more than one image makes ready: those that waited for it, and the one that it completes

log = logging.getLogger(__name__)


def bag_synchronizer(parameters: NodeParameters, rig: Rig) -> Synchronizer:
    """The node's, for `synchronized_sets`: there nobody is late, so that no set makes way for a newer one."""
    return make_synchronizer(replace(parameters, waiting_sets=max(SETS_AT_ONCE, parameters.waiting_sets)), rig)


def synchronized_sets(
    bag: str | Path,
    rig: Rig,
    synchronizer: Synchronizer,
    to_item: Callable[[str, int, Any], Any] = lambda camera, stamp_ns, message: message,
    before: Callable[[int], None] = lambda log_ns: None,
) -> Iterator[SyncedSet]:
    """Complete sets in the order of the bag. Cameras' clocks are judged by its log times, as times of arrival.

    Args:
        bag: its folder.
        rig: its cameras' topics are read.
        synchronizer: new; keeps the counts.
        to_item: (camera, stamp in nanoseconds, image message) ► what the set holds; None leaves the image out.
        before: called with each message's log time (nanoseconds) before the message is used.

    Raises:
        BagError: the bag cannot be read.
    """
    rig = rig_in_bag(rig, bag)
    images = {camera.image_topic: camera.name for camera in rig.cameras}
    infos = {camera.info_topic: camera.name for camera in rig.cameras}
    last_ns = None
    for topic, log_ns, message in read_messages(bag, [*images, *infos]):
        if last_ns is not None and log_ns - last_ns > SILENCE_NS:  # where the node would have noticed it
            yield from _what_waited(synchronizer)
        last_ns = log_ns
        before(log_ns)
        stamp_ns = ns_from_stamp(message.header.stamp)
        if topic in infos:
            synchronizer.add_info(infos[topic], message, stamp_ns)
        else:
            item = to_item(images[topic], stamp_ns, message)
            if item is not None:
                synchronizer.add_image(images[topic], stamp_ns, item, arrival_ns=log_ns)
            for event in synchronizer.take_events():
                log.warning("%s", event.text)
        yield from _those_that_wait(synchronizer)
        synchronizer.drop_waiting(but_newest=1)  # as in the node, which keeps one for a CameraInfo that comes late
    yield from _what_waited(synchronizer)
    synchronizer.drop_waiting()


def _what_waited(synchronizer: Synchronizer) -> Iterator[SyncedSet]:
    """The set that waits for a missing image when all images stop."""
    synchronizer.expect_nothing()
    yield from _those_that_wait(synchronizer)


def _those_that_wait(synchronizer: Synchronizer) -> Iterator[SyncedSet]:
    while (synced := synchronizer.take_next()) is not None:
        yield synced


def rig_in_bag(rig: Rig, bag: str | Path) -> Rig:
    """The rig with its topics' names in a bag: one without a leading slash is there below some namespace, or none.

    Raises:
        BagError: the bag cannot be read, or has such a topic below several namespaces.
    """
    if all(topic.startswith("/") for camera in rig.cameras for topic in (camera.image_topic, camera.info_topic)):
        return rig
    with open_bag(bag) as reader:
        there = sorted(reader.topics)

    def full(topic: str) -> str:
        if topic.startswith("/"):
            return topic
        found = [name for name in there if name.endswith(f"/{topic}")]
        if len(found) > 1 and f"/{topic}" not in found:
            raise BagError(f"rig: {bag} has {topic} as {', '.join(found)}; write the one that is meant, with its slash")
        return found[0] if len(found) == 1 else f"/{topic}"

    return rig.with_topics(full)


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
        self.rig = load_rig() if rig is None else rig
        parameters = NodeParameters() if parameters is None else parameters
        self.buffer = TransformBuffer(parameters.tf_cache)
        self.builder = make_frame_builder(parameters, self.rig, self.buffer)
        self.synchronizer = bag_synchronizer(parameters, self.rig)
        self._tf_lead_ns = nanoseconds(parameters.tf_timeout)
        self._masks_missing = parameters.missing_camera == "mask"

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
        rig = rig_in_bag(self.rig, self._bag)
        self._check_topics(rig)
        transforms = _TransformsAhead(self._bag, RigTransforms(self.rig.frames, self.buffer), self._tf_lead_ns)
        yield from synchronized_sets(self._bag, rig, self.synchronizer, before=transforms.read_until)

    def _check_topics(self, rig: Rig) -> None:
        """A camera may be gone from the whole recording where the node would mask it."""
        with open_bag(self._bag) as reader:
            there = set(reader.topics)
        wanted = {camera.name: (camera.image_topic, camera.info_topic) for camera in rig.cameras}
        gone = [name for name, topics in wanted.items() if not there.issuperset(topics)]
        missing = [topic for topics in wanted.values() for topic in topics if topic not in there]
        posed = not there.isdisjoint(TF_TOPICS)  # a rig that stands may have static transforms alone
        missing += [] if posed else ["/tf"]
        some = len(gone) < len(wanted) and posed
        if some and gone and self._masks_missing:
            log.warning("%s lacks %s: masked throughout are %s", self._bag, ", ".join(missing), ", ".join(gone))
        elif missing:
            hint = "; missing_camera: mask runs without" if some else ""
            raise BagError(f"bag: {self._bag} lacks {', '.join(missing)}; it has {', '.join(sorted(there))}{hint}")


class _TransformsAhead:
    """Reads a bag's transforms, a fixed time ahead of the messages that are read meanwhile."""

    def __init__(self, bag: str | Path, transforms: RigTransforms, lead_ns: int):
        self._transforms, self._lead_ns = transforms, lead_ns
        self._messages = read_messages(bag, TF_TOPICS)
        self._next = next(self._messages, None)

    def read_until(self, log_ns: int) -> None:
        """Inserts what was logged up to the lead after `log_ns`."""
        while self._next is not None and self._next[1] <= log_ns + self._lead_ns:
            topic, _, message = self._next
            try:
                if self._transforms.take(transforms_of(message), static=topic == "/tf_static"):
                    log.warning("/tf jumped back in time: older transforms are forgotten")
            except TransformError as error:
                log.warning("%s: %s", topic, error)
            self._next = next(self._messages, None)
