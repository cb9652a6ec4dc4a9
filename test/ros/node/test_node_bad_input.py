"""Bad input to the node, in this process: a counted drop with its cause, and the node lives on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from node_driver import Driver
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message
from rig_messages import (
    CAMERAS,
    MS,
    SIZE,
    START,
    camera_info,
    compressed,
    ego_pose,
    image_stamps,
    jpeg,
    raw,
    set_stamp,
)

pytestmark = pytest.mark.ros


def bad_image(driver: Driver, message) -> str:
    """What becomes of a set whose front image is this; the sets before and after it must be fine."""
    assert driver.run(0) == "ok"
    outcome = driver.run(1, {"cam_front": message})
    assert driver.run(2) == "ok"
    return outcome


FRONT_STAMP = image_stamps(1)["cam_front"]


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (lambda: compressed("cam_front", FRONT_STAMP, jpeg("cam_front")[:2000]), "image_data"),
        (lambda: compressed("cam_front", FRONT_STAMP, b""), "image_data"),
        (lambda: compressed("cam_front", FRONT_STAMP, b"not a picture"), "encoding"),
        (lambda: compressed("cam_front", FRONT_STAMP, jpeg("cam_front", (176, 98))), "image_size"),
        (lambda: compressed("cam_front", FRONT_STAMP, frame="cam_back"), "frame_id"),
    ],
    ids=["truncated_jpeg", "empty", "no_image", "wrong_size", "wrong_frame"],
)
def test_a_damaged_image_costs_its_set(driver, message, cause):
    assert bad_image(driver, message()) == cause


def test_raw_images_of_wrong_encoding_or_length_cost_their_set(make_driver, tmp_path):
    driver = make_driver(rig=str(raw_rig(tmp_path))).start()

    def raw_set(k: int) -> dict:
        return {camera: raw(camera, stamp) for camera, stamp in image_stamps(k).items()}

    assert driver.run(0, raw_set(0)) == "ok"
    assert (
        driver.run(1, raw_set(1) | {"cam_front": raw("cam_front", image_stamps(1)["cam_front"], "32FC1")}) == "encoding"
    )
    short = raw("cam_front", image_stamps(2)["cam_front"])
    short.data = short.data[:1000]
    assert driver.run(2, raw_set(2) | {"cam_front": short}) == "image_data"
    assert driver.run(3, raw_set(3)) == "ok"


def test_bytes_that_are_no_image_cost_their_set(driver, capfd):
    """However often: no error of the node's own, after some of which it gives up."""
    data = bytes(serialize_message(compressed("cam_front", FRONT_STAMP)))
    driver.feed(1, {"cam_front": None})
    driver.node.camera_intake.take_image("cam_front", data[: len(data) // 2])
    driver.wait(1)
    assert driver.drops == {"image_message": 1}
    assert driver.run(2) == "ok"
    logged = capfd.readouterr().err
    assert "camera cam_front: bytes that are no CompressedImage" in logged and "Traceback" not in logged


def test_bytes_that_end_early_are_refused_and_counted(driver, capfd):
    driver.node.camera_intake.take_image("cam_front", bytes(5))
    driver.node.transform_intake.take(bytes(serialize_message(ego_pose(START)))[:50], static=False)
    assert driver.statistics.rejected == {"message": 2}
    assert driver.run(0) == "ok"
    logged = capfd.readouterr().err
    assert "message refused of camera cam_front: serialized message: 5 bytes" in logged and "Traceback" not in logged


def test_health_does_not_need_a_file(driver, monkeypatch):
    """Where every file that the process may open is open."""

    def fail():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("sparse4d_ros.node.psutil.Process", fail)
    assert driver.node.health()[0].values["memory_mib"] == "unknown"


def test_a_node_that_cannot_look_at_itself_lives_on(driver, monkeypatch, capfd):
    def fail(*_):
        raise ZeroDivisionError("out of the blue")

    monkeypatch.setattr("sparse4d_ros.node.to_diagnostics", fail)
    executor = SingleThreadedExecutor(context=driver.node.context)
    executor.add_node(driver.node)
    driver.until(lambda: executor.spin_once(timeout_sec=0.1) or "cannot look after itself" in capfd.readouterr().err)
    assert driver.run(0) == "ok"


def raw_rig(folder):
    path = folder / "rig.yaml"
    path.write_text(
        "global_frame: map\ncameras:\n" + "".join(f"  - {{name: {c}, image_topic: /{c}/image_rect}}\n" for c in CAMERAS)
    )
    return path


@pytest.mark.parametrize(
    ("info", "cause"),
    [
        (lambda: camera_info("cam_front", START, k=(0.0,) * 9), "camera_info"),
        (lambda: camera_info("cam_front", START, k=(np.nan,) * 9), "camera_info"),
    ],
    ids=["K_of_zeros", "K_of_nan"],
)
def test_a_useless_calibration_costs_sets_until_a_good_one_comes(driver, info, cause):
    driver.info("cam_front", info())
    assert driver.run(0) == cause
    driver.info("cam_front", camera_info("cam_front", START))
    assert driver.run(1) == "ok"


def lens_rig(folder) -> str:
    """The same topics, with images that are not rectified."""
    path = folder / "lens_rig.yaml"
    path.write_text(
        "global_frame: map\ncameras:\n" + "".join(f"  - {{name: {c}, rectified: false}}\n" for c in CAMERAS)
    )
    return str(path)


def test_rectified_images_keep_the_d_of_the_raw_ones(driver):
    """image_proc publishes image_rect beside the original CameraInfo."""
    driver.info("cam_front", camera_info("cam_front", START, d=(-0.3, 0.1, 0, 0, 0)))
    assert driver.run(0) == "ok"


def test_raw_images_of_a_lens_cost_sets_until_a_good_calibration_comes(make_driver, tmp_path):
    driver = make_driver(rig=lens_rig(tmp_path)).start()
    driver.info("cam_front", camera_info("cam_front", START, d=(-0.3, 0.1, 0, 0, 0)))
    assert driver.run(0) == "distortion"
    driver.info("cam_front", camera_info("cam_front", START))
    assert driver.run(1) == "ok"


def test_distorted_images_are_undistorted_on_demand(make_driver, tmp_path):
    """The distorted camera's image reaches the model straight, the others as they are."""
    driver, distortion = make_driver(rig=lens_rig(tmp_path), distortion="undistort").start(), (-0.3, 0.1, 0.0, 0.0, 0.0)
    watched, info = driver.watch(), camera_info("cam_front", START, d=distortion)
    driver.info("cam_front", info)
    assert driver.run(0) == "ok"
    front, other = watched.frames[0].images[:2]
    sent, sent_other = (cv2.imdecode(np.frombuffer(jpeg(c), np.uint8), cv2.IMREAD_COLOR) for c in CAMERAS[:2])
    straight = cv2.undistort(sent, np.array(info.k).reshape(3, 3), np.array(distortion))
    assert np.abs(front.astype(int) - straight).max() <= 1
    assert np.abs(front.astype(int) - sent).max() > 50
    np.testing.assert_array_equal(other, sent_other)


def test_faster_ways_to_decode_and_resize_give_sets_too(make_driver):
    driver = make_driver(reduced_decoding=True, resize="torch").start()
    assert driver.run(0) == "ok"
    assert driver.node.processor._builder._readers["cam_front"]._known[1].size_wh == (SIZE[0] // 2, SIZE[1] // 2)


def test_sets_wait_for_calibration(make_driver):
    driver = make_driver().start(infos=False)
    watched = driver.watch()
    driver.feed(0)
    driver.feed(1)
    assert driver.node.synchronizer.drops["no_camera_info"] == 6
    for camera in CAMERAS:
        driver.info(camera, camera_info(camera, START))
    driver.wait(1)
    assert [frame.stamp_ns for frame in watched.frames] == [set_stamp(1)]
    assert driver.statistics.processed == 1


def test_stamps_of_zero_duplicated_and_out_of_order_are_counted_and_logged(driver, capfd):
    assert driver.run(0) == "ok"
    stamp = image_stamps(0)["cam_front"]
    driver.image("cam_front", compressed("cam_front", 0))
    driver.image("cam_front", compressed("cam_front", stamp))
    driver.image("cam_front", compressed("cam_front", stamp - 50 * MS))
    assert driver.node.synchronizer.drops == {"no_stamp": 1, "duplicate_stamp": 1, "out_of_order": 1}
    driver.node.look_after_losses()
    assert "camera cam_front: 1 images dropped, no_stamp: their stamp was zero" in capfd.readouterr().err
    assert not driver.statistics.rejected
    assert driver.run(1) == "ok"


def test_an_error_nobody_thought_of_costs_its_set_only(driver, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("out of the blue")

    with monkeypatch.context() as patch:
        patch.setattr(driver.node.outputs, "publish", fail)
        assert driver.run(0) == "internal_error"
    assert driver.run(1) == "ok"


@pytest.mark.parametrize(
    ("error", "cause", "logged"),
    [
        (
            ValueError("images: expected 6"),
            "unusable_frame",
            "unusable_frame: images: expected 6 (test_node_bad_input.py:",
        ),
        (TypeError("no number"), "internal_error", "Traceback"),
    ],
)
@pytest.mark.parametrize("stage", ["prepare", "run"])
def test_an_error_of_the_pipeline_is_logged_with_its_place(driver, monkeypatch, capfd, stage, error, cause, logged):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(driver.node.processor.pipeline, stage, fail)
        assert driver.run(0) == cause
    assert logged in capfd.readouterr().err
    assert driver.run(1) == "ok"
