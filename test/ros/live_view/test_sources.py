"""From topics, and from a bag with its record, to the scene."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

pytest.importorskip("rclpy")
import rclpy
from live_scenes import tracks
from rclpy.executors import SingleThreadedExecutor

from sparse4d_core.interrupts import StopRequest
from sparse4d_core.types import Tracks
from sparse4d_ros.bags.bag_io import open_bag
from sparse4d_ros.bags.box_record import BoxRecordError, BoxRecordWriter, SetRecord
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.live_view import __main__ as live_view
from sparse4d_ros.live_view import recorded_source
from sparse4d_ros.live_view.recorded_source import RecordedSource
from sparse4d_ros.live_view.scene import Scene, T_cam_from_base
from sparse4d_ros.live_view.strip import decode
from sparse4d_ros.live_view.thumbnails import WIDTH, reduction, shrink
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.middleware import isolated, variables
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.rig import Rig, load_rig

RIG = load_rig()


@pytest.fixture(scope="module")
def stamps(tiny_bag) -> list[int]:
    return [synced.stamp_ns for synced in BagFrames(tiny_bag).sets()]


@pytest.fixture
def record(tiny_bag, stamps, tmp_path) -> Path:
    """Of every set of the bag but the last."""
    return recorded(stamps[:-1], tmp_path / "record.jsonl")


def recorded(stamps: list[int], path: Path) -> Path:
    """A car 10 m ahead in each set."""
    found = tracks((4, "car", 0.9, (10.0, 0.0)))
    with BoxRecordWriter(path) as file:
        for stamp_ns in stamps:
            file.write(SetRecord(stamp_ns, "base_link", found, Tracks(**vars(found))))
    return path


def test_a_recorded_run(tiny_bag, stamps, record):
    scene = Scene(RIG.names)
    source = RecordedSource(tiny_bag, record, RIG)
    end = source.load(scene)
    assert source.without_boxes == 1 and source.unreadable == 0
    assert end == pytest.approx((stamps[-1] - stamps[0]) * 1e-9 + 0.1)
    moment = scene.moment()
    assert moment.objects.stamp_ns == stamps[-2] and moment.objects.boxes.ids.tolist() == [4]
    assert set(moment.images) == set(RIG.names)
    assert len(scene.set_times(scene.now)) == len(stamps) - 1


def test_boxes_are_projected_as_the_detector_sees_them(tiny_bag, stamps, record):
    """The same pixel as through the frame builder, whose images are larger."""
    scene = Scene(RIG.names)
    RecordedSource(tiny_bag, record, RIG).load(scene)
    moment = scene.moment()
    frames = BagFrames(tiny_bag)
    (frame,) = frames.frames({moment.objects.stamp_ns})
    point = np.array([10.0, 1.0, 1.0, 1.0])
    in_model = np.linalg.inv(frames.buffer.lookup("base_link", "lidar_top", moment.objects.stamp_ns).matrix) @ point
    for camera, K, T in zip(frame.camera_names, frame.intrinsics, frame.T_cam_from_model, strict=True):
        image = moment.images[camera]
        expected = K @ (T @ in_model)[:3]
        shown = image.intrinsics @ (T_cam_from_base(moment.objects, image) @ point)[:3]
        scale = image.size_wh[0] / frame.images[0].shape[1]
        np.testing.assert_allclose(shown[:2] / shown[2], scale * expected[:2] / expected[2], rtol=1e-6)


def test_a_run_that_is_played_can_be_stopped(tiny_bag, record):
    scene, stop = Scene(RIG.names), StopRequest()
    source = RecordedSource(tiny_bag, record, RIG)
    player = threading.Thread(target=source.play, args=(scene, stop, 50.0, 0))
    player.start()
    while scene.wait_for_change(scene.revision, PATIENCE) and scene.moment().objects is None:
        pass
    stop.requested = True
    player.join(PATIENCE)
    assert not player.is_alive()
    assert scene.moment().objects.boxes.ids.tolist() == [4]


class HandStop(StopRequest):
    """Its waits take no time but are on the clock, `now`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, seconds: float = 0.0) -> bool:
        self.now += max(seconds, 0.0)
        return self.requested


@pytest.mark.parametrize(
    "slow, end",
    [
        ({}, 1.5),  # whatever decoding takes, as long as it takes less than the pause
        ({3: 0.35}, 1.5),  # made up for
        ({0: 5.0}, 0.1 + 5.0 - 0.5 + 13 * 0.1),  # of that half a second at most
    ],
)
def test_a_run_is_played_in_its_own_time(tiny_bag, stamps, record, monkeypatch, slow, end):
    source, stop, shown = RecordedSource(tiny_bag, record, RIG), HandStop(), []
    monkeypatch.setattr(recorded_source, "monotonic", lambda: stop.now, raising=False)
    make = recorded_source.Thumbnails
    makers = []
    monkeypatch.setattr(recorded_source, "Thumbnails", lambda *words: makers.append(make(*words)) or makers[-1])

    def show(scene, time, synced, thumbnails):
        assert thumbnails is makers[-1]
        shown.append(stop.now)
        stop.now += slow.get(len(shown) - 1, 0.06)

    monkeypatch.setattr(source, "_show", show)
    source.play(Scene(RIG.names), stop)
    assert len(shown) == len(stamps) and len(makers) == 1, "maps of a lens are made once a pass"
    assert shown[-1] == pytest.approx(end, abs=1e-6)


def test_a_bag_without_a_set_and_a_record_of_another_bag_are_told(tiny_bag, record, tmp_path, monkeypatch, capsys):
    """Also where the run is to start over for ever."""
    words = ["--bag", str(tiny_bag), "--record", str(record), "--rate", "50", "--port", "0"]
    for change, text in (
        (lambda: monkeypatch.setattr(recorded_source, "read_box_record", lambda path: []), "is it of another bag?"),
        (lambda: monkeypatch.setattr(BagFrames, "sets", lambda self: iter(())), "no complete set in"),
    ):
        change()
        assert live_view.main(words) == 2
        assert text in capsys.readouterr().err


def test_a_record_of_a_node_with_another_slop(tiny_bag, tmp_path):
    """Its sets end with another camera than those of the default, so none has the same stamp."""
    parameters = NodeParameters(missing_camera="mask", sync_slop=0.033)
    record = recorded([synced.stamp_ns for synced in BagFrames(tiny_bag, RIG, parameters).sets()], tmp_path / "record")
    with pytest.raises(BoxRecordError, match="a node whose sync_slop was not 0.06 s: give it by --sync-slop"):
        RecordedSource(tiny_bag, record, RIG).load(Scene(RIG.names))
    words = ["--bag", str(tiny_bag), "--record", str(record), "--sync-slop", "0.033"]
    source, scene = RecordedSource(tiny_bag, record, RIG, live_view.parse_arguments(words).sync_slop), Scene(RIG.names)
    source.load(scene)
    assert source.without_boxes == 0 and len(scene.arrivals()) == len(record.read_text().splitlines())


@pytest.mark.parametrize("text", ["-0.1", "0.3", "nan", "wide"])
def test_a_slop_that_no_set_can_have_is_refused(text, capsys):
    with pytest.raises(SystemExit) as end:
        live_view.parse_arguments([f"--sync-slop={text}"])
    assert end.value.code == 2 and "argument --sync-slop: " in capsys.readouterr().err


@pytest.mark.parametrize("width, factor", [(300, 1), (WIDTH, 1), (2 * WIDTH, 2), (1600, 2), (1920, 4), (4000, 8)])
def test_jpegs_are_decoded_as_small_as_the_picture_allows(width, factor):
    assert reduction(WIDTH, (width, width // 2)) == factor


def test_intrinsics_shrink_with_the_image():
    K = np.array([[800.0, 0, 400], [0, 800, 200], [0, 0, 1]])
    small, scaled = shrink(np.zeros((400, 800, 3), np.uint8), K, 200)
    assert small.shape == (100, 200, 3)
    np.testing.assert_allclose(scaled, [[200, 0, 100], [0, 200, 50], [0, 0, 1]])
    assert shrink(np.zeros((40, 80, 3), np.uint8), K, 200)[0].shape == (40, 80, 3), "never larger"


# ------------------------------------------------------------------------------------------------------ over the topics


class Graph:
    """What a detector and its cameras publish, by hand."""

    def __init__(self, scene: Scene, detector: str, rig: Rig = RIG):
        from sparse4d_ros.live_view.live_source import LiveSource

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("detector_and_cameras", context=self.context)
        self.view = rclpy.create_node("live_view", context=self.context)
        self.source = LiveSource(self.view, scene, rig, detector)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.view)
        self.publishers: dict[str, object] = {}

    def spin_until(self, condition) -> None:
        for _ in range(round(PATIENCE / 0.01)):
            if condition():
                return
            self.executor.spin_once(0.01)
        raise AssertionError(f"never came true; not shown: {dict(self.source.skipped)}")

    def publish(self, topic: str, message: object, qos: object = 10) -> None:
        """Waits for the subscriber first."""
        if topic not in self.publishers:
            self.publishers[topic] = self.node.create_publisher(type(message), topic, qos)
            self.spin_until(lambda: self.publishers[topic].get_subscription_count() > 0)
        self.publishers[topic].publish(message)

    def subscribed(self, topic: str) -> bool:
        """Whether the view is."""
        return any(subscription.topic_name == topic for subscription in self.view.subscriptions)

    def close(self) -> None:
        self.source.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.view.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def graph(ros_domain):
    with variables(isolated(ros_domain)):
        graph = Graph(Scene(RIG.names), "/sparse4d")
        yield graph
        graph.close()


ACTIVE = ("inference", "synchronization")  # components of a node that is; otherwise it has no synchronization


def diagnostics(components: tuple[str, ...] = ACTIVE, detector: str = "sparse4d", **values: str):
    """Statuses of a detector's components, all with these values."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    names = [f"{detector}: {component}" for component in components]
    return DiagnosticArray(status=[DiagnosticStatus(level=b"\0", name=name, values=pairs) for name in names])


def output(topic: str, stamp_ns: int):
    """The two messages of one set."""
    from sparse4d_ros.messages.detections import to_detection_array, to_state_cloud
    from sparse4d_ros.messages.stamps import make_header

    found, header = tracks((4, "car", 0.9, (10.0, 0.0))), make_header("base_link", stamp_ns)
    return to_detection_array(found, found.boxes, header), to_state_cloud(found, found.boxes, header)


def bag_messages(bag: Path, topics: list[str], until_ns: int):
    """As rclpy's messages, (topic, message)."""
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CameraInfo, CompressedImage
    from tf2_msgs.msg import TFMessage

    types = {kind.__name__: kind for kind in (CameraInfo, CompressedImage, TFMessage)}
    with open_bag(bag) as reader:
        connections = [connection for connection in reader.connections if connection.topic in topics]
        for connection, log_ns, data in reader.messages(connections=connections):
            if log_ns <= until_ns:
                yield connection.topic, deserialize_message(bytes(data), types[connection.msgtype.rpartition("/")[2]])


def test_what_a_detector_publishes_is_in_the_scene(graph, tiny_bag, stamps):
    scene = graph.source._scene
    graph.publish("/diagnostics", diagnostics(rate_hz="9.5", track_ids="yes"))
    graph.spin_until(lambda: scene.moment().health is not None)
    assert scene.moment().health.rate_hz == 9.5
    front = RIG.cameras[0]
    for topic, message in bag_messages(tiny_bag, ["/tf_static", "/tf", front.info_topic], stamps[5]):
        from rclpy.qos import DurabilityPolicy, QoSProfile

        latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        graph.publish(topic, message, latched if topic == "/tf_static" else 100)
    newest = [message for _, message in bag_messages(tiny_bag, [front.image_topic], stamps[4])][-1]
    graph.spin_until(lambda: graph.source._buffer.newest_ns("base_link") is not None and graph.source._infos)
    graph.publish(front.image_topic, newest)
    graph.spin_until(lambda: "cam_front" in scene.moment().images)
    array, states = output("tracks", stamps[4])
    graph.publish("/sparse4d/tracks", array)
    graph.publish("/sparse4d/track_states", states)
    graph.spin_until(lambda: scene.moment().objects is not None)
    moment = scene.moment()
    assert moment.objects.boxes.ids.tolist() == [4] and moment.objects.boxes.boxes[0, 8] == pytest.approx(3.0)
    assert moment.objects.T_global_from_base is not None
    assert decode(moment.images["cam_front"]).shape[1] == moment.images["cam_front"].size_wh[0]
    assert T_cam_from_base(moment.objects, moment.images["cam_front"]) is not None


def test_frames_of_others_change_no_pose_and_a_bag_that_starts_over_does(graph, stamps):
    """A gripper's frame has two publishers, of which one is a second behind. Poses are there as long as the images of
    their time."""
    from tf2_msgs.msg import TFMessage

    from sparse4d_ros.campaign.streams import transform

    base, buffer = RIG.frames.base_frame, graph.source._buffer
    seconds = [stamps[0] + 15 * k * 10**9 for k in range(4)]
    for stamp_ns in seconds:
        transforms = [transform(RIG.frames.global_frame, base, stamp_ns), transform("gripper", "finger", stamp_ns)]
        graph.publish("/tf", TFMessage(transforms=transforms), 100)
        graph.publish("/tf", TFMessage(transforms=[transform("gripper", "finger", stamp_ns - 10**9)]), 100)
    graph.spin_until(lambda: buffer.newest_ns(base) == seconds[-1])
    assert graph.source._thumbnails.pose(RIG.frames.global_frame, base, seconds[0]) is not None
    graph.publish("/tf", TFMessage(transforms=[transform(RIG.frames.global_frame, base, seconds[1])]), 100)
    graph.spin_until(lambda: buffer.newest_ns(base) == seconds[1])
    assert graph.source._thumbnails.pose(RIG.frames.global_frame, base, seconds[0]) is None


def test_a_model_without_track_ids_shows_its_detections(graph, stamps):
    scene = graph.source._scene
    graph.publish("/diagnostics", diagnostics(track_ids="no (a model of v1 or v2)"))
    graph.spin_until(lambda: scene.moment().health is not None)
    array, states = output("detections", stamps[0])
    graph.publish("/sparse4d/detections", array)
    graph.publish("/sparse4d/detection_states", states)
    graph.spin_until(lambda: scene.moment().objects is not None)
    assert scene.moment().objects.T_global_from_base is None, "no transforms came: the pose is not known"
    assert graph.source.skipped["no pose"] == 1


def test_cameras_are_left_alone_until_the_detector_is_active(graph):
    """A player that waits for subscribers of its images means the detector."""
    topic, scene = RIG.cameras[0].image_topic, graph.source._scene
    for told, components in enumerate((("operator",), ("inference", "transforms", "operator")), 1):
        graph.publish("/diagnostics", diagnostics(components))
        graph.spin_until(lambda told=told: len(scene.health_history(scene.now)) == told)
    assert not graph.subscribed(topic) and graph.view.count_subscribers(topic) == 0
    graph.publish("/diagnostics", diagnostics())  # also the first that a view hears of a node that runs for long
    graph.spin_until(lambda: graph.view.count_subscribers(topic) == 1)


@pytest.mark.parametrize("detector, namespace", [("/robot/sparse4d", "/robot"), ("/sparse4d", ""), ("sparse4d", "")])
def test_topics_without_a_slash_are_below_the_detectors_namespace(ros_domain, detector, namespace):
    """Wherever the view itself is."""
    relative = RIG.with_topics(lambda topic: topic.removeprefix("/"))
    with variables(isolated(ros_domain)):
        graph = Graph(Scene(RIG.names), detector, relative)
        try:
            graph.source._on_diagnostics(diagnostics(detector=detector.strip("/")))
            assert all(graph.subscribed(f"{namespace}{camera.image_topic}") for camera in RIG.cameras)
            assert all(graph.subscribed(f"{namespace}{camera.info_topic}") for camera in RIG.cameras)
        finally:
            graph.close()


def test_what_is_left_of_one_playback_is_not_joined_with_the_next(graph, stamps, monkeypatch):
    joined = []
    monkeypatch.setattr(graph.source, "_add_set", lambda arrived, *halves: joined.append(halves))
    (_, alone), *whole = [output("tracks", stamp_ns) for stamp_ns in (*stamps[:2], *stamps[:2])]
    graph.source._on_half("states", alone)  # the other one went out before its subscription was found
    for array, states in whole:
        graph.source._on_half("array", array)
        graph.source._on_half("states", states)
    graph.spin_until(lambda: len(joined) == len(whole))
    assert [tuple(map(id, halves)) for halves in joined] == [tuple(map(id, halves)) for halves in whole]
    assert graph.source.skipped["half a set"] == 1


def test_a_message_that_cannot_be_shown_is_counted(graph, stamps):
    scene = graph.source._scene
    array, states = output("tracks", stamps[0])
    array.detections[0].results[0].hypothesis.class_id = ""
    graph.publish("/sparse4d/tracks", array)
    graph.publish("/sparse4d/track_states", states)
    graph.spin_until(lambda: graph.source.skipped["class"] == 1)
    for second in range(25):
        array.header.stamp.sec = second
        graph.publish("/sparse4d/tracks", array)
        graph.spin_until(lambda: ns_from_stamp(array.header.stamp) in graph.source._halves)
    assert graph.source.skipped["half a set"] == 5 and len(graph.source._halves) == 20
    assert scene.moment().objects is None
