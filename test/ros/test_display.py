"""What config/sparse4d.rviz shows, read off the file, and that the launch file's remappings reach it."""

from __future__ import annotations

import ast
import math
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from live_scenes import tracks

pytest.importorskip("rclpy")

from sparse4d_ros.messages.markers import LETTER_HEIGHT, MARKER_LIFETIME, to_markers  # noqa: E402
from sparse4d_ros.messages.outgoing import OUTPUTS  # noqa: E402
from sparse4d_ros.messages.stamps import make_header  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FILE = yaml.safe_load((ROOT / "config" / "sparse4d.rviz").read_text())
DISPLAYS = {display["Name"]: display for display in FILE["Visualization Manager"]["Displays"]}
TOPICS = {name: display["Topic"]["Value"] for name, display in DISPLAYS.items() if "Topic" in display}
AREAS = ("left", "right", "top", "bottom")


class Dock(NamedTuple):
    area: str
    visible: bool
    size: int  # pixels, along the direction in which the docks of its area lie


def docks(state: bytes) -> dict[str, Dock]:
    """The docks in the bytes of QMainWindow::saveState, of areas that are not split: Qt 5, qdockarealayout.cpp."""
    found = {}
    _, _, _, areas = struct.unpack_from(">IIBI", state)
    at = 13
    for _ in range(areas):
        area, _, _, sequence, _, count = struct.unpack_from(">IiiBBI", state, at)
        assert sequence == 0xFC
        at += 18
        for _ in range(count):
            widget, length = struct.unpack_from(">BI", state, at)
            assert widget == 0xFB
            name = state[at + 5 : at + 5 + length].decode("utf-16-be")
            flags, _, size, _, _ = struct.unpack_from(">B4i", state, at + 5 + length)
            found[name] = Dock(AREAS[area], bool(flags & 1), size)
            at += 5 + length + 17
    return found


def launch_constant(name: str):
    """The value of the one assignment to that name in the launch file."""
    tree = ast.parse((ROOT / "launch" / "detector.launch.py").read_text())
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    (value,) = [node.value for node in assignments if ast.unparse(node.targets[0]) == name]
    return ast.literal_eval(value)


def test_every_topic_follows_the_namespace():
    assert len(TOPICS) == 4
    assert [topic for topic in TOPICS.values() if topic.startswith("/")] == []


def test_every_topic_of_the_node_is_one_that_it_publishes():
    shown = {topic.removeprefix("sparse4d/") for topic in TOPICS.values() if topic.startswith("sparse4d/")}
    assert shown == {"markers", "track_states", "overlay/compressed"}
    assert shown <= {*OUTPUTS, "overlay/compressed"}


def test_the_launch_file_remaps_every_topic_of_the_node():
    """image_transport resolves the topic without the transport, so that is what has to be remapped."""
    bases = {topic.removesuffix("/compressed") for topic in TOPICS.values() if topic.startswith("sparse4d/")}
    assert {f"sparse4d/{output}" for output in launch_constant("outputs")} == bases


def test_the_launch_file_leads_the_camera_display_to_its_calibration():
    """rviz takes the parent of the subscribed topic, in the root namespace, as the folder of camera_info."""
    image = TOPICS["Front camera"]
    looked_for, there = launch_constant("calibration")
    assert looked_for == f"/{image.rsplit('/', 1)[0]}/camera_info"
    assert there == f"{image.removesuffix('/compressed').rsplit('/', 1)[0]}/camera_info"


def test_the_camera_display_shows_a_camera_of_the_rig():
    rig = yaml.safe_load((ROOT / "config" / "nuscenes_rig.yaml").read_text())
    assert TOPICS["Front camera"] in {camera["image_topic"].lstrip("/") for camera in rig["cameras"]}


def test_the_markers_are_those_that_are_published():
    found = tracks((4, "car", 0.9, (10.0, 0.0)))
    markers = to_markers(found, found.boxes, make_header("base_link", 0), {4: np.zeros((2, 3))}).markers
    assert DISPLAYS["Tracks"]["Namespaces"] == {marker.ns: True for marker in markers if marker.ns}


def test_the_overlay_lies_below_over_the_whole_width():
    layout = docks(bytes.fromhex(FILE["Window Geometry"]["QMainWindow State"]))
    assert layout["Displays"] == ("left", True, layout["Displays"].size)
    assert layout["Overlay"] == ("bottom", True, FILE["Window Geometry"]["Width"])
    assert DISPLAYS["Overlay"]["Enabled"]


def test_the_camera_display_is_off_where_rviz_looks():
    """A display whose dock is shown becomes enabled, whatever its own entry says."""
    layout = docks(bytes.fromhex(FILE["Window Geometry"]["QMainWindow State"]))
    assert not layout["Front camera"].visible
    assert not DISPLAYS["Front camera"]["Enabled"]


def test_every_dock_has_its_place():
    with_dock = {name for name, display in DISPLAYS.items() if display["Class"].endswith(("/Image", "/Camera"))}
    panels = {panel["Name"] for panel in FILE["Panels"]}
    assert panels == {"Displays"}
    assert docks(bytes.fromhex(FILE["Window Geometry"]["QMainWindow State"])).keys() == with_dock | panels


def test_axes_mark_the_vehicle():
    axes = next(display for display in DISPLAYS.values() if display["Class"].endswith("/Axes"))
    assert axes["Enabled"] and axes["Reference Frame"] == "base_link"


def test_frame_names_and_ids_can_be_read():
    """rviz draws frames' letters 0.1 m high, times the scale, and shows 45 degrees over some 450 pixels."""
    frames = next(display for display in DISPLAYS.values() if display["Class"].endswith("/TF"))
    distance = FILE["Visualization Manager"]["Views"]["Current"]["Distance"]
    pixels_a_metre = 450 / (2 * distance * math.tan(math.radians(22.5)))
    assert frames["Show Names"] and 0.1 * frames["Marker Scale"] * pixels_a_metre >= 8
    assert LETTER_HEIGHT * pixels_a_metre >= 6


def test_spheres_go_when_the_boxes_go():
    assert DISPLAYS["Track states"]["Decay Time"] == MARKER_LIFETIME


@pytest.mark.parametrize("shown, visible", [(b"\x01", True), (b"\x00", False)])
def test_docks_are_read(shown, visible):
    name = "Überblick".encode("utf-16-be")
    item = b"\xfb" + struct.pack(">I", len(name)) + name + shown + struct.pack(">4i", 0, 1600, 62, 100)
    state = struct.pack(">IIBIIiiBBI", 255, 0, 0xFD, 1, 3, 1600, 455, 0xFC, 1, 1) + item
    assert docks(state) == {"Überblick": Dock("bottom", visible, 1600)}
