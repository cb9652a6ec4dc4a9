"""Health as a message."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import deserialize_message, serialize_message

from sparse4d_ros.messages.stamps import make_header
from sparse4d_ros.online.diagnostics import to_diagnostics
from sparse4d_ros.online.health import ComponentHealth, Level


def test_one_status_for_each_component():
    components = [
        ComponentHealth("inference", Level.ERROR, "no output", {"rate_hz": "0.00", "sets_processed": 3}),
        ComponentHealth("transforms", Level.OK, "all poses found"),
    ]
    message = to_diagnostics(components, "robot/sparse4d", "cuda:0", make_header("", 12))
    message = deserialize_message(serialize_message(message), type(message))
    first, second = message.status
    assert (first.name, first.level, first.message) == (
        "robot/sparse4d: inference",
        DiagnosticStatus.ERROR,
        "no output",
    )
    assert {pair.key: pair.value for pair in first.values} == {"rate_hz": "0.00", "sets_processed": "3"}
    assert (second.name, second.level, second.hardware_id) == (
        "robot/sparse4d: transforms",
        DiagnosticStatus.OK,
        "cuda:0",
    )
    assert message.header.stamp.nanosec == 12
