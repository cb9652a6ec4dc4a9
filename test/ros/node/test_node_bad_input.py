"""Bad input to the node, in this process: a counted drop with its cause, and the node lives on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from node_driver import Driver
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rig_messages import (
    CAMERAS,
    MS,
    PERIOD,
    SIZE,
    START,
    camera_info,
    compressed,
    ego_pose,
    image_stamps,
    jpeg,
    raw,
    static_transforms,
    transform,
)
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from sparse4d_core.config import preset
from sparse4d_core.network.sparse4d import Sparse4D

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


def raw_rig(folder):
    path = folder / "rig.yaml"
    path.write_text("cameras:\n" + "".join(f"  - {{name: {c}, image_topic: /{c}/image_rect}}\n" for c in CAMERAS))
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
    path.write_text("cameras:\n" + "".join(f"  - {{name: {c}, rectified: false}}\n" for c in CAMERAS))
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
    driver = make_driver(rig=lens_rig(tmp_path), distortion="undistort").start()
    driver.info("cam_front", camera_info("cam_front", START, d=(-0.3, 0.1, 0, 0, 0)))
    assert driver.run(0) == "ok"


def test_faster_ways_to_decode_and_resize_give_sets_too(make_driver):
    driver = make_driver(reduced_decoding=True, resize="torch").start()
    assert driver.run(0) == "ok"
    assert driver.node.processor._builder._readers["cam_front"]._known[1].size_wh == (SIZE[0] // 2, SIZE[1] // 2)


def test_sets_wait_for_calibration(make_driver):
    driver = make_driver().start(infos=False)
    driver.feed(0)
    driver.feed(1)
    assert driver.node.synchronizer.drops["no_camera_info"] == 6
    for camera in CAMERAS:
        driver.info(camera, camera_info(camera, START))
    driver.wait(1)
    assert driver.statistics.processed == 1


def test_stamps_of_zero_duplicated_and_out_of_order_are_counted(driver):
    assert driver.run(0) == "ok"
    stamp = image_stamps(0)["cam_front"]
    driver.image("cam_front", compressed("cam_front", 0))
    driver.image("cam_front", compressed("cam_front", stamp))
    driver.image("cam_front", compressed("cam_front", stamp - 50 * MS))
    assert driver.statistics.rejected == {"stamp": 1}
    assert driver.node.synchronizer.drops == {"duplicate_stamp": 1, "out_of_order": 1}
    assert driver.run(1) == "ok"


def test_a_bag_that_starts_again_clears_the_memory_and_says_so(driver):
    for k in range(12):
        assert driver.run(k) == "ok"
    assert not driver.statistics.resets
    for k in range(3):
        assert driver.run(k) == "ok"
    assert driver.statistics.resets == {"time jumped back": 1, "transforms jumped back in time": 1}
    assert driver.node.synchronizer.epoch == 1


def test_a_gap_longer_than_the_limit_of_the_model_clears_the_memory_and_says_so(driver):
    assert driver.run(0) == "ok"
    assert driver.run(40) == "ok"
    assert list(driver.statistics.resets.values()) == [1] and "gap" in next(iter(driver.statistics.resets))


def test_a_silent_camera_skips_sets_and_is_named(driver):
    assert driver.run(0) == "ok"
    for k in range(1, 8):
        driver.feed(k, {"cam_back": None})
    synchronizer = driver.node.synchronizer
    assert synchronizer.silent_cameras() == ("cam_back",)
    assert synchronizer.drops["timeout"] >= 15 and synchronizer.missing_images["cam_back"] >= 3
    assert driver.run(8) == "ok"


def test_a_silent_camera_is_masked_on_demand(make_driver):
    driver = make_driver(missing_camera="mask").start()
    assert driver.run(0) == "ok"
    for k in range(1, 8):
        driver.feed(k, {"cam_back": None})
    driver.wait(2)
    assert driver.statistics.processed >= 2 and not driver.drops
    assert driver.node.synchronizer.sets["masked"] >= 4


def test_a_late_camera_is_counted(driver):
    for k in range(12):
        driver.feed(k, {"cam_back": None if k < 6 else compressed("cam_back", image_stamps(k - 6)["cam_back"])})
    assert driver.node.synchronizer.drops["late"] >= 5
    assert driver.statistics.processed == 0


def test_a_missing_pose_is_waited_for_then_counted(make_driver):
    driver = make_driver(tf_timeout=0.2).start()
    assert driver.run(0) == "ok"
    start = time.monotonic()
    assert driver.run(1, poses=False) == "tf_extrapolation_future"
    assert time.monotonic() - start >= 0.2
    assert driver.run(2) == "ok"


def test_a_pose_that_comes_a_little_later_than_the_images_is_used(make_driver):
    driver = make_driver(tf_timeout=5.0).start()
    driver.feed(0, poses=False)
    time.sleep(0.2)
    for stamp in image_stamps(0).values():
        driver.transforms(ego_pose(stamp))
    driver.wait(1)
    assert driver.statistics.processed == 1


def test_poses_that_start_later_than_the_images_are_no_poses(driver):
    driver.transforms(ego_pose(START + 10 * PERIOD))
    driver.transforms(ego_pose(START + 11 * PERIOD))
    assert driver.run(0, poses=False) == "tf_extrapolation_past"


def test_no_transforms_at_all_are_counted(make_driver):
    driver = make_driver(tf_timeout=0.05).start(static=False)
    assert driver.run(0, poses=False) == "tf_unknown_frame"


def test_disconnected_trees_are_counted(make_driver):
    driver = make_driver(tf_timeout=0.05).start()
    for stamp in image_stamps(0).values():
        other = transform("map", "somewhere_else", stamp)
        driver.transforms(TFMessage(transforms=[other]))
    assert driver.run(0, poses=False) == "tf_connectivity"
    assert driver.run(1) == "ok"


def test_an_unknown_camera_frame_is_counted(make_driver):
    driver = make_driver(tf_timeout=0.05).start(static=False)
    driver.transforms(static_transforms(CAMERAS[1:]), static=True)
    assert driver.run(0) == "tf_unknown_frame"
    driver.transforms(static_transforms(), static=True)
    assert driver.run(1) == "ok"


def test_a_transform_that_can_not_be_right_is_refused(driver):
    wrong = transform("map", "base_link", START, (np.nan, 0, 0))
    driver.transforms(TFMessage(transforms=[wrong]))
    assert driver.statistics.rejected == {"tf_not_finite": 1}
    assert driver.run(0) == "ok"


def test_nan_in_the_output_of_the_network_is_counted_and_the_memory_cleared(driver):
    assert driver.run(0) == "ok"
    network = driver.node.processor.pipeline.model
    parameters = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    assert driver.run(1) == "non_finite_output"
    network.load_state_dict(parameters)
    assert driver.run(2) == "ok"
    assert driver.statistics.resets == {"the network's output was not finite": 1}


def test_an_error_nobody_thought_of_costs_its_set_only(driver, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("out of the blue")

    with monkeypatch.context() as patch:
        patch.setattr(driver.node.outputs, "publish", fail)
        assert driver.run(0) == "internal_error"
    assert driver.run(1) == "ok"


def checkpoint_of_another_model(folder):
    path = folder / "other.pt"
    torch.save(Sparse4D(replace(preset("demo"), num_anchors=64)).state_dict(), path)
    return path


def truncated_checkpoint(folder):
    path = checkpoint_of_another_model(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    "checkpoint",
    [lambda folder: folder / "missing.pt", truncated_checkpoint, checkpoint_of_another_model],
    ids=["missing", "truncated", "other_model"],
)
def test_a_checkpoint_that_does_not_fit_leaves_the_node_unconfigured(make_driver, tmp_path, capfd, checkpoint):
    path = checkpoint(tmp_path)
    driver = make_driver(checkpoint=str(path))
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert driver.node._state_machine.current_state[1] == "unconfigured"
    assert "configure failed" in (log := capfd.readouterr().err) and path.name in log
    driver.node.set_parameters([Parameter("checkpoint", value="")])
    driver.start()
    assert driver.run(0) == "ok"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rig": "/no/such/file.yaml"}, "rig: cannot read /no/such/file.yaml"),
        ({"sync_slop": 0.5}, "sync_timeout: expected at least sync_slop"),
        ({"device": "cuda:99"}, "configure failed"),
    ],
)
def test_configure_says_what_is_wrong(make_driver, capfd, parameters, message):
    driver = make_driver(**parameters)
    assert driver.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("device", "tpu", "device: expected cpu, cuda or cuda:N, got 'tpu'"),
        ("model", "v9", "model: expected one of v1_r101_t1"),
        ("score_threshold", "high", "expecting type 'DOUBLE'"),
        ("decode_threads", 0, "out of range"),
    ],
)
def test_a_parameter_that_can_not_be_is_refused_with_the_reason(make_driver, name, value, reason):
    with pytest.raises((InvalidParameterTypeException, InvalidParameterValueException), match=reason):
        make_driver(**{name: value})


def test_parameters_of_configure_are_refused_while_configured(driver):
    (result,) = driver.node.set_parameters([Parameter("sync_slop", value=0.05)])
    assert not result.successful and "clean up the node first" in result.reason
    (result,) = driver.node.set_parameters([Parameter("score_threshold", value=0.5)])
    assert result.successful


def test_reset_forgets_the_instances(driver):
    assert driver.run(0) == "ok"
    assert driver.node._on_reset(Trigger.Request(), Trigger.Response()).success
    assert driver.run(1) == "ok"
    assert driver.statistics.resets == {"asked for": 1}


def test_the_newest_complete_set_wins_while_the_worker_is_busy(driver):
    driver.run(0)
    for k in range(1, 9):
        driver.feed(k)
    driver.wait(2)
    time.sleep(0.5)
    superseded = driver.node.synchronizer.sets["superseded"]
    assert superseded >= 1
    assert driver.statistics.processed + superseded == 9
    assert not driver.drops


def test_the_node_can_be_stopped_cleaned_up_and_started_again(driver):
    node = driver.node
    assert driver.run(0) == "ok"
    for transition in (node.trigger_deactivate, node.trigger_activate, node.trigger_deactivate, node.trigger_cleanup):
        assert transition() == TransitionCallbackReturn.SUCCESS
    assert not node._on_reset(Trigger.Request(), Trigger.Response()).success
    driver.start()
    assert driver.run(5) == "ok"
