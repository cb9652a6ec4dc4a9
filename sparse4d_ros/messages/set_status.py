"""Which cameras a set saw ◄► diagnostic_msgs/DiagnosticArray, with the set's stamp: a status for the set, one a camera.

    set               OK or WARN   6 of 6 cameras                  cameras, missing, spread_ms
    camera cam_front  OK           seen                            age_ms
    camera cam_back   WARN         quarantined, clock +0.200 s     reason, clock_offset_ms (where it was measured)

`age_ms`: how much older the camera's image is than the set's stamp. Milliseconds have six decimals: no digit is lost.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from ..perception.image_decoding import ConversionError
from ..perception.synced_set import Missing, SetStatus
from ..units import MILLISECOND
from .stamps import ns_from_stamp

SET, CAMERA = "set", "camera "  # names of the statuses; a camera's name follows


def to_set_status(status: SetStatus, header: Header) -> DiagnosticArray:
    """A set's status ► message; the header has the set's stamp."""
    seen, missing = len(status.ages_ns), len(status.missing)
    values = {"cameras": seen, "missing": missing, "spread_ms": _milliseconds(status.spread_ns)}
    without = f"; without {', '.join(status.missing)}" if missing else ""
    text = f"{seen} of {seen + missing} cameras{without}"
    statuses = [_status(SET, not missing, text, values)]
    for camera, age_ns in status.ages_ns.items():
        statuses.append(_status(CAMERA + camera, True, "seen", {"age_ms": _milliseconds(age_ns)}))
    for camera, why in status.missing.items():
        values = {"reason": why.reason}
        if why.offset_ns is not None:
            values["clock_offset_ms"] = _milliseconds(why.offset_ns)
        statuses.append(_status(CAMERA + camera, False, str(why), values))
    return DiagnosticArray(header=header, status=statuses)


def set_status_from_message(message: Any) -> SetStatus:
    """The inverse of `to_set_status`. The message is read by its fields.

    Raises:
        ConversionError: cause `fields` when a camera has neither an age nor a reason.
    """
    ages_ns, missing = {}, {}
    for status in message.status:
        values = {pair.key: pair.value for pair in status.values}
        camera = status.name.removeprefix(CAMERA)
        if status.name == SET:
            continue
        if "age_ms" in values:
            ages_ns[camera] = _nanoseconds(values["age_ms"])
        elif "reason" in values:
            offset = values.get("clock_offset_ms")
            missing[camera] = Missing(values["reason"], None if offset is None else _nanoseconds(offset))
        else:
            raise ConversionError("fields", f"{status.name}: has {sorted(values)}; expected age_ms or reason")
    return SetStatus(ns_from_stamp(message.header.stamp), ages_ns, missing)


def _status(name: str, good: bool, text: str, values: dict[str, Any]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=DiagnosticStatus.OK if good else DiagnosticStatus.WARN,
        name=name,
        message=text,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _milliseconds(time_ns: int) -> str:
    """All digits, without a float in between."""
    return f"{Decimal(time_ns) / MILLISECOND:.6f}"


def _nanoseconds(milliseconds: str) -> int:
    return int(Decimal(milliseconds) * MILLISECOND)
