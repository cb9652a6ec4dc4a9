"""The streams of a campaign as a small bag, for the player."""

from __future__ import annotations

import shutil
from pathlib import Path

from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Writer

from ..bags.bag_io import STORAGE, quality_of_service, typestore
from ..messages.stamps import make_header
from ..perception.rig import Rig
from ..units import NANOSECONDS
from .streams import camera_info, ego_pose, picture, static_transforms

START_NS = 1_700_000_000 * NANOSECONDS
RATE = 5  # sets a second
SECONDS = 4


def write_stream_bag(bag: Path, rig: Rig, size_wh: tuple[int, int]) -> Path:
    """Writes it anew; returns its folder."""
    shutil.rmtree(bag, ignore_errors=True)
    with Writer(bag, version=8, storage_plugin=STORAGE["mcap"]) as writer:
        connections = {}

        def write(topic: str, kind: str, stamp_ns: int, message) -> None:
            if topic not in connections:
                quality = [quality_of_service(topic == "/tf_static")]
                connections[topic] = writer.add_connection(
                    topic, kind, typestore=typestore(), offered_qos_profiles=quality
                )
            writer.write(connections[topic], stamp_ns, bytes(serialize_message(message)))

        write("/tf_static", "tf2_msgs/msg/TFMessage", START_NS, static_transforms(rig))
        for number in range(RATE * SECONDS):
            for k, camera in enumerate(rig.cameras):
                stamp_ns = START_NS + number * NANOSECONDS // RATE + k * NANOSECONDS // 1000
                image = picture(camera, size_wh)
                image.header = make_header(camera.frame, stamp_ns)
                kind = "CompressedImage" if camera.transport == "compressed" else "Image"
                write("/tf", "tf2_msgs/msg/TFMessage", stamp_ns, ego_pose(rig, stamp_ns))
                write(camera.info_topic, "sensor_msgs/msg/CameraInfo", stamp_ns, camera_info(camera, stamp_ns, size_wh))
                write(camera.image_topic, f"sensor_msgs/msg/{kind}", stamp_ns, image)
    return bag
