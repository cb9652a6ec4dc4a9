"""config/foxglove_layout.json has the structure of a layout that Foxglove exports, and every topic in it is one that
node or converter publishes, with the type that its panel takes."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from live_scenes import tracks  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage  # noqa: E402

from sparse4d_ros.bags import nuscenes_messages as converter  # noqa: E402
from sparse4d_ros.messages.detections import STATE_FIELDS  # noqa: E402
from sparse4d_ros.messages.markers import to_markers  # noqa: E402
from sparse4d_ros.messages.outgoing import OUTPUTS  # noqa: E402
from sparse4d_ros.messages.stamps import make_header  # noqa: E402
from sparse4d_ros.online.diagnostics import to_diagnostics  # noqa: E402
from sparse4d_ros.online.health import Moment, assess  # noqa: E402
from sparse4d_ros.online.statistics import Statistics  # noqa: E402
from sparse4d_ros.perception.rig import load_rig  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = json.loads((ROOT / "config" / "foxglove_layout.json").read_text())
RIG = load_rig()

PARTS = {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
# The settings of each kind of panel, as Foxglove writes them (foxglove.layouts of its SDK has them with their types).
SCENE = {"cameraState", "followMode", "scene", "transforms", "topics", "layers", "publish", "imageMode"}
SETTINGS = {
    "3D": SCENE | {"followTf"},
    "Image": SCENE,
    "DiagnosticSummary": {
        "minLevel", "pinnedIds", "topicToRender", "hardwareIdFilter", "sortByLevel", "secondsUntilStale",
    },
    "Plot": {
        "title", "paths", "showXAxisLabels", "showYAxisLabels", "showLegend", "legendDisplay", "showPlotValuesInLegend",
        "isSynced", "xAxisVal", "sidebarDimension", "followingViewWidth", "minYValue",
    },
}  # fmt: skip
SERIES = {"timestampMethod", "value", "enabled", "label", "color"}
# What can be set about a topic in 3D and Image panels, by the topic's type.
TOPIC_SETTINGS = {
    "visualization_msgs/msg/MarkerArray": {"visible", "namespaces"},
    "sensor_msgs/msg/CameraInfo": {"visible", "distance", "planarProjectionFactor", "width", "color"},
    "sensor_msgs/msg/PointCloud2": {
        "visible", "pointSize", "pointShape", "decayTime", "colorField", "colorMode", "colorMap", "explicitAlpha",
        "minValue", "maxValue",
    },
}  # fmt: skip
# `/topic.status[:]{name=="A"}.values[:]{key=="B"}.value`
PATH = re.compile(r'(/[\w/]+)\.status\[:\]\{name=="([^"]+)"\}\.values\[:\]\{key=="(\w+)"\}\.value')
STAGE = re.compile(r"(\w+)_p(?:50|99)")


def type_name(kind: Any) -> str:
    """Of a class of rclpy or a message of rosbags: package/msg/Name."""
    if hasattr(kind, "__msgtype__"):
        return kind.__msgtype__
    return f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"


@pytest.fixture(scope="module")
def live() -> dict[str, str]:
    """Topic -> type, of what the detector publishes and what its cameras do."""
    topics = {f"/sparse4d/{name}": type_name(kind) for name, kind in OUTPUTS.items()}
    topics |= {"/sparse4d/overlay/compressed": type_name(CompressedImage), "/diagnostics": type_name(DiagnosticArray)}
    for camera in RIG.cameras:
        assert camera.transport == "compressed"
        topics |= {camera.image_topic: type_name(CompressedImage), camera.info_topic: type_name(CameraInfo)}
    return topics


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> dict[str, str]:
    """Topic -> type, of what the converter writes of each camera into a bag."""
    tables = SimpleNamespace(dataroot=tmp_path_factory.mktemp("images"))
    (tables.dataroot / "image.jpg").write_bytes(b"jpeg")
    record = {"timestamp": 1, "width": 4, "height": 3, "filename": "image.jpg", "token": ""}
    topics = {}
    for channel in (name.upper() for name in RIG.names):
        info = converter.camera_info(channel, record, {"camera_intrinsic": np.eye(3), "token": ""})
        image = converter.compressed_image(tables, channel, record)
        topics |= {converter.info_topic(channel): type_name(info), converter.image_topic(channel): type_name(image)}
    return topics


@pytest.fixture(scope="module")
def diagnostics() -> dict[str, dict[str, str]]:
    """Status -> key -> value, as the node publishes them; of stages those that its threads measure."""
    measured = {"sparse4d_ros/online/worker.py", "sparse4d_ros/perception/frame_builder.py"}
    sources = "".join((ROOT / path).read_text() for path in {*measured, "sparse4d_core/inference/pipeline.py"})
    stages = re.findall(r'"(\w+)"(?:: \(|: work\.waited_ms|\))', sources)
    statistics = Statistics()
    statistics.count_processed(dict.fromkeys(stages, 1.0))
    now = Moment(statistics.snapshot(), 0.0)
    message = to_diagnostics(assess(now, now, [], {}), "sparse4d", "cpu", make_header("", 0))
    return {status.name: {pair.key: pair.value for pair in status.values} for status in message.status}


def namespaces() -> set[str]:
    """Of the markers of a moving object."""
    found = tracks((4, "car", 0.9, (10.0, 0.0)))
    markers = to_markers(found, found.boxes, make_header("base_link", 0), {4: np.zeros((2, 3))}).markers
    return {marker.ns for marker in markers if marker.ns}


def leaves(node: Any, where: str = "layout") -> Iterator[str]:
    """Panels of the mosaic: each node is a panel's id, or two nodes side by side or above each other.

    Raises:
        AssertionError: a node is neither.
    """
    if isinstance(node, str):
        yield node
        return
    assert isinstance(node, dict) and node.keys() == {"first", "second", "direction", "splitPercentage"}, where
    assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100, where
    yield from leaves(node["first"], f"{where}.first")
    yield from leaves(node["second"], f"{where}.second")


def check_structure(layout: dict[str, Any]) -> None:
    """Every part is there, every panel is in the mosaic once and has settings that its kind has.

    Raises:
        AssertionError: it is not so.
    """
    assert layout.keys() == PARTS
    assert (layout["globalVariables"], layout["userNodes"]) == ({}, {}) and layout["playbackConfig"] == {"speed": 1}
    assert sorted(leaves(layout["layout"])) == sorted(layout["configById"]), "panels shown and panels set"
    for panel, settings in layout["configById"].items():
        kind, _, number = panel.partition("!")
        assert number and kind in SETTINGS, panel
        assert settings.keys() - {"foxglovePanelTitle"} <= SETTINGS[kind], panel
        for series in settings.get("paths", ()):
            assert series.keys() == SERIES and series["timestampMethod"] in ("receiveTime", "headerStamp"), panel


def uses(layout: dict[str, Any]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(panel, topic, type that the panel needs there, settings of the topic); the type is empty where the settings are
    of no known one."""
    for panel, settings in layout["configById"].items():
        mode = settings.get("imageMode", {})
        if "imageTopic" in mode:
            yield panel, mode["imageTopic"], type_name(CompressedImage), {}
            yield panel, mode["calibrationTopic"], type_name(CameraInfo), {}
        if "topicToRender" in settings:
            yield panel, settings["topicToRender"], type_name(DiagnosticArray), {}
        for series in settings.get("paths", ()):
            yield panel, PATH.fullmatch(series["value"])[1], type_name(DiagnosticArray), {}
        for topic, shown in settings.get("topics", {}).items():
            fitting = (kind for kind, known in TOPIC_SETTINGS.items() if shown.keys() == known)
            yield panel, topic, next(fitting, ""), shown


def check_topics(layout: dict[str, Any], live: dict[str, str]) -> None:
    """Every topic is published, with the type that the panel takes.

    Raises:
        AssertionError: it is not so.
    """
    for panel, topic, needed, shown in uses(layout):
        assert live.get(topic) == needed, f"{panel}: {topic}"
        assert shown.get("colorField", "score") in STATE_FIELDS.names, f"{panel}: {topic}"
        assert shown.get("namespaces", namespaces()) and shown.get("namespaces", {}).keys() <= namespaces(), panel


def test_the_file_has_the_structure_of_an_exported_layout():
    check_structure(LAYOUT)


def test_every_topic_is_published_with_the_type_that_its_panel_takes(live):
    check_topics(LAYOUT, live)


def test_a_bag_of_the_converter_fills_the_image_panels(recorded):
    assert {topic: needed for _, topic, needed, _ in uses(LAYOUT) if topic.startswith("/cam_")} == recorded


def test_each_camera_has_one_panel_with_its_own_calibration_and_the_boxes():
    panels = [settings for panel, settings in LAYOUT["configById"].items() if panel.startswith("Image!")]
    shown = [(panel["imageMode"]["imageTopic"], panel["imageMode"]["calibrationTopic"]) for panel in panels]
    assert sorted(shown) == sorted((camera.image_topic, camera.info_topic) for camera in RIG.cameras)
    for panel in panels:
        markers = panel["topics"]["/sparse4d/markers"]
        visible = {name for name, namespace in markers["namespaces"].items() if namespace["visible"]}
        assert markers["visible"] and visible == {"boxes", "ids"}


def test_the_scene_follows_the_vehicle_and_names_frames_of_the_rig():
    (scene,) = (settings for panel, settings in LAYOUT["configById"].items() if panel.startswith("3D!"))
    frames = {RIG.frames.base_frame, RIG.frames.global_frame, RIG.frames.model_frame, *RIG.frames.cameras.values()}
    assert scene["followTf"] == RIG.frames.base_frame == scene["layers"]["grid"]["frameId"]
    assert {name.removeprefix("frame:") for name in scene["transforms"]} <= frames
    assert scene["layers"].keys() == {layer["instanceId"] for layer in scene["layers"].values()}


def test_every_plotted_value_is_a_number_in_the_nodes_diagnostics(diagnostics):
    paths = [series["value"] for panel in LAYOUT["configById"].values() for series in panel.get("paths", ())]
    assert len(paths) == len(set(paths)) > 5
    for path in paths:
        _, status, key = PATH.fullmatch(path).groups()
        float(diagnostics[status][key])


WRONG: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no mosaic": lambda layout: layout.pop("layout"),
    "a panel that is not shown": lambda layout: layout["configById"].update({"Plot!more": {}}),
    "a panel without settings": lambda layout: layout["configById"].pop("Plot!rate"),
    "a third child": lambda layout: layout["layout"].update(third="Plot!rate"),
    "another kind of panel": lambda layout: (
        layout["configById"].update({"Imaginary!rate": layout["configById"].pop("Plot!rate")}),
        layout["layout"]["second"]["second"].update(first="Imaginary!rate"),
    ),
    "a setting of another panel": lambda layout: layout["configById"]["Plot!rate"].update(topicToRender="/diagnostics"),
    "a path without a time": lambda layout: layout["configById"]["Plot!rate"]["paths"][0].pop("timestampMethod"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_another_structure_is_refused(fault):
    layout = copy.deepcopy(LAYOUT)
    WRONG[fault](layout)
    with pytest.raises(AssertionError):
        check_structure(layout)


@pytest.mark.parametrize(
    "change",
    [
        lambda panel: panel["imageMode"].update(imageTopic="/cam_roof/image_rect/compressed"),
        lambda panel: panel["imageMode"].update(imageTopic="/cam_front/camera_info"),
        lambda panel: panel["imageMode"].update(calibrationTopic="/cam_front/image_rect/compressed"),
        lambda panel: panel["topics"].update({"/sparse4d/tracks": panel["topics"]["/sparse4d/markers"]}),
        lambda panel: panel["topics"]["/sparse4d/markers"]["namespaces"].update(cubes={"visible": True}),
    ],
    ids=["unknown topic", "no image", "no calibration", "no markers", "unknown namespace"],
)
def test_a_topic_of_another_type_is_refused(change, live):
    layout = copy.deepcopy(LAYOUT)
    change(layout["configById"]["Image!front"])
    with pytest.raises(AssertionError):
        check_topics(layout, live)
