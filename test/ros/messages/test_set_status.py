"""Which cameras a set saw, as a message and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import deserialize_message, serialize_message

from sparse4d_ros.messages.set_status import set_status_from_message, to_set_status
from sparse4d_ros.messages.stamps import make_header
from sparse4d_ros.perception.image_decoding import ConversionError
from sparse4d_ros.perception.synced_set import Missing, SetStatus

STAMP = 1_532_402_927_612_460_123
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
reasons = st.builds(
    Missing, st.sampled_from(["absent", "late", "clock", "quarantined"]), st.none() | st.integers(-(2**62), 2**62)
)


@st.composite
def statuses(draw):
    ages = draw(st.dictionaries(NAMES, st.integers(0, 2**40), min_size=1, max_size=6))
    missing = draw(st.dictionaries(NAMES, reasons, max_size=4))
    return SetStatus(draw(st.integers(1, 2**31 * 10**9 - 1)), ages, {c: w for c, w in missing.items() if c not in ages})


@settings(max_examples=100, deadline=None)
@given(status=statuses())
def test_no_digit_is_lost_on_the_way(status):
    message = to_set_status(status, make_header("base_link", status.stamp_ns))
    assert set_status_from_message(deserialize_message(serialize_message(message), type(message))) == status


def test_a_reader_of_the_message_sees_cameras_ages_spread_and_reasons():
    missing = {"cam_back": Missing("quarantined", 3600 * 10**9), "cam_left": Missing("absent")}
    status = SetStatus(STAMP, {"cam_front": 0, "cam_right": 35_000_001}, missing)
    message = to_set_status(status, make_header("base_link", STAMP))
    assert [(s.name, s.level, s.message, {v.key: v.value for v in s.values}) for s in message.status] == [
        (
            "set",
            DiagnosticStatus.WARN,
            "2 of 4 cameras; without cam_back, cam_left",
            {"cameras": "2", "missing": "2", "spread_ms": "35.000001"},
        ),
        ("camera cam_front", DiagnosticStatus.OK, "seen", {"age_ms": "0.000000"}),
        ("camera cam_right", DiagnosticStatus.OK, "seen", {"age_ms": "35.000001"}),
        (
            "camera cam_back",
            DiagnosticStatus.WARN,
            "quarantined, clock +3600.000 s",
            {"reason": "quarantined", "clock_offset_ms": "3600000.000000"},
        ),
        ("camera cam_left", DiagnosticStatus.WARN, "absent", {"reason": "absent"}),
    ]
    whole = to_set_status(SetStatus(STAMP, {"cam_front": 0}), make_header("base_link", STAMP)).status[0]
    assert (whole.level, whole.message) == (DiagnosticStatus.OK, "1 of 1 cameras")


def test_a_message_of_another_kind_is_refused():
    message = to_set_status(SetStatus(STAMP, {"cam_front": 0}), make_header("base_link", STAMP))
    message.status[1].values.clear()
    with pytest.raises(ConversionError, match="camera cam_front: has \\[\\]; expected age_ms or reason"):
        set_status_from_message(message)
