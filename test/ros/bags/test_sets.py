"""The sets of a bag: cameras' clocks are judged by the bag's log times, as the node judges them by the arrivals."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
from rig_messages import restamped

from sparse4d_ros.bags.bag_io import BagError, create_bag, read_messages
from sparse4d_ros.bags.sets import BagFrames, bag_synchronizer, synchronized_sets
from sparse4d_ros.messages.stamps import ns_from_stamp
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.rig import load_rig, parse_rig

BAD = "cam_back"
CAMERAS = ("cam_front", "cam_back")


def namespaced(bag, out, *namespaces: str):
    """The images and CameraInfo of a bag below other namespaces; the transforms as they are."""
    with create_bag(out) as writer:
        for topic, log_ns, message in read_messages(bag):
            for namespace in namespaces if topic.startswith("/cam_") else ("",):
                writer.write(namespace + topic, log_ns, message)
    return out


def relative_rig():
    return parse_rig({"cameras": [{"name": c, "image_topic": f"{c}/image_rect/compressed"} for c in CAMERAS]})


@pytest.mark.parametrize("namespaces", [("",), ("/robot",), ("/fleet/robot",), ("", "/robot")])
def test_relative_topics_are_found_below_the_bag_s_namespace(tiny_bag, tmp_path, namespaces):
    bag = namespaced(tiny_bag, tmp_path / "bag", *namespaces)
    assert len(list(BagFrames(bag, relative_rig()).sets())) == 15


def test_relative_topics_below_two_namespaces_are_refused_with_both(tiny_bag, tmp_path):
    bag = namespaced(tiny_bag, tmp_path / "bag", "/one", "/two")
    with pytest.raises(BagError, match="has cam_front/image_rect/compressed as /one/cam_front/.*, /two/cam_front/"):
        list(BagFrames(bag, relative_rig()).sets())


def test_relative_topics_that_are_not_there_are_named(tiny_bag):
    with pytest.raises(BagError, match="lacks /cam_left/image_rect, /cam_left/camera_info"):
        list(BagFrames(tiny_bag, parse_rig({"cameras": [{"name": "l", "image_topic": "cam_left/image_rect"}]})).sets())


def test_a_masked_set_does_not_make_way_for_the_one_behind_it(tiny_bag, tmp_path):
    """The camera that fires last lost an image: its next one lets both sets out at once."""
    stamps = {camera: stamp_ns for camera, (stamp_ns, _) in list(BagFrames(tiny_bag).sets())[7].images.items()}
    camera, bag = max(stamps, key=stamps.get), tmp_path / "bag"
    with create_bag(bag) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if (topic, log_ns) != (f"/{camera}/image_rect/compressed", stamps[camera]):
                writer.write(topic, log_ns, message)
    frames = BagFrames(bag, parameters=NodeParameters(missing_camera="mask"))
    assert [len(synced.images) for synced in frames.sets()] == [6] * 7 + [5] + [6] * 7
    assert not +frames.synchronizer.drops


@pytest.mark.parametrize(("comes", "sets"), [(True, 1), (False, 0)])
def test_sets_that_wait_for_a_camera_info_are_counted(tiny_bag, tmp_path, comes, sets):
    """The newest is kept for it, as in the node, and at the end of the bag none."""
    bag, late_ns = tmp_path / "bag", 10**10
    with create_bag(bag) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            late = topic == f"/{BAD}/camera_info"
            if comes or not late:
                writer.write(topic, log_ns + late_ns * late, message)
    rig = load_rig()
    synchronizer = bag_synchronizer(NodeParameters(), rig)
    assert len(list(synchronized_sets(bag, rig, synchronizer))) == sets
    assert +synchronizer.drops == {"no_camera_info": 6 * (15 - sets)}


def without_tf(bag, out, *, static: bool):
    """The bag without /tf; with its static transforms, those of the vehicle among them, or without any."""
    with create_bag(out) as writer:
        for topic, log_ns, message in read_messages(bag):
            if topic == "/tf":
                topic = "/tf_static"
            if not topic.startswith("/tf") or static:
                writer.write(topic, log_ns, message)
    return out


def test_a_rig_that_stands_needs_no_tf(tiny_bag, tmp_path):
    """What `static_transform_publisher` gives is on /tf_static alone."""
    frames = BagFrames(without_tf(tiny_bag, tmp_path / "stands", static=True))
    sets = list(frames.sets())
    assert len(sets) == 15 and frames.builder.build(sets[0])[0].images
    with pytest.raises(BagError, match="lacks /tf; it has /cam_back"):
        list(BagFrames(without_tf(tiny_bag, tmp_path / "nothing", static=False)).sets())


def test_a_wrong_clock_in_a_bag_is_named_and_left_out(tiny_bag, tmp_path, caplog):
    """By one period: without log times wrong images would be paired, and nobody would notice."""
    by_ns, bag = 10**8, tmp_path / "shifted"
    with create_bag(bag) as writer:
        for topic, log_ns, message in read_messages(tiny_bag):
            if topic.startswith(f"/{BAD}/"):
                restamped(message, ns_from_stamp(message.header.stamp) + by_ns)
            writer.write(topic, log_ns, message)
    frames = BagFrames(bag, parameters=NodeParameters(missing_camera="mask"))
    sets = list(frames.sets())
    assert frames.synchronizer.quarantined_cameras() == (BAD,)
    assert f"camera {BAD}: quarantined, stamps 0.100 s ahead of the other cameras" in caplog.text
    assert len(sets) >= 13 and sets[-1].status.missing[BAD].offset_ns == by_ns
    patient = BagFrames(bag, parameters=NodeParameters(missing_camera="mask", clock_offset=0.2))
    assert all(not taken.missing for taken in list(patient.sets())[2:-2])
    assert patient.synchronizer.quarantined_cameras() == ()
