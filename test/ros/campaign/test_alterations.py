"""What a campaign does to messages: each alteration is what its name promises, and leaves the original alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from sparse4d_ros.campaign.catalogue import alterations, clock_faults, input_faults
from sparse4d_ros.campaign.node_faults import FAULTS, chosen, main
from sparse4d_ros.campaign.streams import IMAGE, INFO, TF, camera_info, ego_pose, picture, unchanged
from sparse4d_ros.messages.stamps import make_header, ns_from_stamp
from sparse4d_ros.perception.rig import load_rig

RIG, SIZE_WH, STAMP_NS = load_rig(), (64, 48), 1_700_000_000_123_456_789
SECOND = 10**9


def image(stamp_ns: int = STAMP_NS) -> CompressedImage:
    message = picture(RIG.cameras[0], SIZE_WH)
    message.header = make_header(RIG.cameras[0].frame, stamp_ns)
    return message


def stamps(messages) -> list[int]:
    return [ns_from_stamp(message.header.stamp) for message in messages]


def shape(message: CompressedImage) -> tuple[int, ...] | None:
    pixels = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_COLOR) if message.data else None
    return None if pixels is None else pixels.shape


ALTERED: dict[Callable, Callable[[list], bool]] = {
    alterations.nothing: lambda out: out == [],
    alterations.repeated: lambda out: stamps(out) == [STAMP_NS] * 2,
    alterations.smaller: lambda out: shape(out[0]) == (24, 32, 3) and stamps(out) == [STAMP_NS],
    alterations.huge_picture: lambda out: len(out[0].data) < 10**6 and out[0].data[:2].tobytes() == b"\xff\xd8",
    alterations.flood: lambda out: len(out) == 20 and stamps(out) == [STAMP_NS + k * 10**6 for k in range(20)],
    alterations.frame_of_another: lambda out: out[0].header.frame_id == "cam_back" and stamps(out) == [STAMP_NS],
    clock_faults.offset(-2.5): lambda out: stamps(out) == [STAMP_NS - 5 * SECOND // 2],
}


@pytest.mark.parametrize("alter", ALTERED, ids=lambda alter: getattr(alter, "__name__", "offset"))
def test_images(alter):
    message = image()
    before = copy.deepcopy(message)
    assert ALTERED[alter](list(alter(message)))
    assert message == before


@pytest.mark.parametrize(
    "message", [image(), camera_info(RIG.cameras[0], STAMP_NS, SIZE_WH), ego_pose(RIG, STAMP_NS)], ids=[IMAGE, INFO, TF]
)
@pytest.mark.parametrize("alter", [alterations.cut_bytes, alterations.lying_length])
def test_bytes_that_are_no_message(message, alter):
    (data,) = alter(message)
    assert isinstance(data, bytes)
    with pytest.raises(Exception, match="deserializ"):
        deserialize_message(data, type(message))


def test_delayed_messages_come_with_later_ones():
    now = [0.0]
    delayed = alterations.Delayed(0.5, clock=lambda: now[0])
    came = []
    for k in range(8):
        now[0] = 0.2 * k
        came.append([stamp - STAMP_NS for stamp in stamps(delayed(image(STAMP_NS + k)))])
    assert came == [[], [], [], [0], [1], [2], [3], [4]]


def test_swapped_messages_are_all_there():
    swapped = alterations.Swapped()
    came = [stamp - STAMP_NS for k in range(4) for stamp in stamps(swapped(image(STAMP_NS + k)))]
    assert came == [1, 0, 3, 2]


def test_poses():
    message = ego_pose(RIG, STAMP_NS)
    (bad,) = alterations.pose("translation.x", math.nan)(message)
    assert math.isnan(bad.transforms[0].transform.translation.x)
    assert message.transforms[0].transform.translation.x == 0.0
    (old,) = alterations.older_pose(10.0)(message)
    assert ns_from_stamp(old.transforms[0].header.stamp) == STAMP_NS - 10 * SECOND
    (loop,) = alterations.loop(message)
    assert loop.transforms[0].header.frame_id == "cam_front"
    same, many = alterations.strangers(message)
    assert same is message and len(many.transforms) == 3000 and isinstance(many, TFMessage)


def test_clocks():
    now = [STAMP_NS]
    drifting = clock_faults.drift(0.1, now_ns=lambda: now[0])
    assert [stamps(drifting(image(STAMP_NS + k * SECOND)))[0] - STAMP_NS for k in (0, 1, 5)] == [
        0,
        11 * SECOND // 10,
        55 * SECOND // 10,
    ]
    jumping = clock_faults.Jumping(now_ns=lambda: now[0])
    offsets = [stamps(jumping(image(STAMP_NS + k * SECOND // 2)))[0] - STAMP_NS - k * SECOND // 2 for k in range(4)]
    assert offsets == [0, 5 * SECOND, 0, 5 * SECOND]
    stuck = clock_faults.Stuck()
    assert [stamps(stuck(image(STAMP_NS + k)))[0] for k in range(3)] == [STAMP_NS] * 3
    shift = clock_faults.all_offset(-3600.0)
    assert stamps(shift(IMAGE, "cam_front", image())) == [STAMP_NS - 3600 * SECOND]
    (pose,) = shift(TF, "base_link", ego_pose(RIG, STAMP_NS))
    assert ns_from_stamp(pose.transforms[0].header.stamp) == STAMP_NS - 3600 * SECOND


def test_only_what_is_meant_is_changed():
    change = input_faults.only(IMAGE, alterations.nothing, "cam_front")
    assert change(IMAGE, "cam_front", image()) == []
    for kind, source in ((IMAGE, "cam_back"), (INFO, "cam_front")):
        assert change(kind, source, "message") == ["message"] == unchanged(kind, source, "message")
    assert input_faults.only(TF, alterations.nothing, None)(TF, "anything", "message") == []


def test_calibration_that_is_wrong():
    (info,) = alterations.field("k", lambda k: [0.0] * 9, camera_info(RIG.cameras[0], STAMP_NS, SIZE_WH))
    assert isinstance(info, CameraInfo) and not np.any(info.k) and info.width == SIZE_WH[0]


def test_the_list(capsys):
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names)) >= 40
    assert main(["--list"]) == 0
    assert [line[:30].rstrip() for line in capsys.readouterr().out.splitlines()] == names
    assert [fault.name for fault in chosen([names[3], names[1]])] == [names[3], names[1]]
    assert main(["--only", "the sky falls"]) == 2
    assert "only: unknown the sky falls" in capsys.readouterr().err
