"""The page's texts, as HTML. Everything that comes from outside is escaped: names and messages are other people's."""

from __future__ import annotations

from html import escape

import numpy as np

from ..health_sample import Component, Verdict
from ..scene import Moment
from ..strip import silence

COLORS = {Verdict.OK: "#58c468", Verdict.WARN: "#f0b429", Verdict.ERROR: "#f25f5c", Verdict.STALE: "#8a9096"}
_SMALL = "font-size:13px;line-height:1.45;padding:2px 10px"


def status(moment: Moment, paused: bool, seconds_back: float, shown: int, rate_hz: float | None) -> str:
    """The line at the top."""
    state = f"PAUSED, {seconds_back:.1f} s back" if paused else "LIVE"
    color = COLORS[Verdict.WARN if paused else Verdict.OK]
    return _line(state, color, moment, shown, rate_hz)


def recorded(moment: Moment, cameras: tuple[str, ...], seconds: float, shown: int, rate_hz: float) -> str:
    """Line and health of a moment in a file, `seconds` after its first one; of health what a record has."""
    line = _line(f"{seconds:.1f} s", COLORS[Verdict.OK], moment, shown, rate_hz)
    if moment.health is not None:
        return line + health(moment, cameras)
    silent = {camera: silence(moment, camera) for camera in cameras}
    rows = [_row(camera, Component(Verdict.ERROR, text)) for camera, text in silent.items() if text is not None]
    return line + (f'<div style="{_SMALL}">{"".join(rows)}</div>' if rows else "")


def _line(state: str, color: str, moment: Moment, shown: int, rate_hz: float | None) -> str:
    rate = "no sets" if rate_hz is None else f"{rate_hz:.1f} sets/s"
    found = "no objects" if moment.objects is None else f"{shown} of {len(moment.objects.boxes.scores)} objects"
    return f'<div style="{_SMALL}"><b style="color:{color}">{state}</b> · {rate} · {found}</div>'


def health(moment: Moment, cameras: tuple[str, ...]) -> str:
    """The node's components and every camera, each with its verdict and the reason. The last words of a node that has
    fallen silent do not count any more."""
    told = moment.health if moment.silent_for is None else None
    since = "" if moment.silent_for is None else f" for {moment.silent_for:.0f} s"
    parts = told.components if told else {"node": Component(Verdict.STALE, f"no diagnostics{since}")}
    rows = [_row(name, part) for name, part in parts.items() if not name.startswith("camera ")]
    for camera in cameras:
        rows.append(_row(camera, _camera(silence(moment, camera), told.camera(camera) if told else None)))
    return f'<div style="{_SMALL}">{"".join(rows)}</div>'


def track(identity: int | None, name: str, history: np.ndarray) -> str:
    """What is known about the object that was clicked; `history` as of Scene.history."""
    if identity is None:
        return f'<div style="{_SMALL}">Click an object to see its history.</div>'
    if not len(history):
        return f'<div style="{_SMALL}"><b>#{identity}</b> is not there at this time.</div>'
    _, score, speed, distance, yaw = history[-1]
    rows = {
        "class": escape(name),
        "seen": f"{len(history)} sets, {history[-1, 0] - history[0, 0]:.1f} s",
        "score": f"{score:.2f}",
        "speed": f"{speed:.1f} m/s",
        "distance": f"{distance:.1f} m",
        "heading": f"{np.degrees(yaw):.0f}° from ahead",
    }
    cells = "".join(f"<div>{key}: <b>{value}</b></div>" for key, value in rows.items())
    return f'<div style="{_SMALL}"><b>#{identity}</b>{cells}</div>'


def _camera(silent: str | None, told: Component | None) -> Component:
    """The node's verdict on a camera, unless the page itself sees none of its images."""
    if silent is not None and (told is None or told.verdict == Verdict.OK):
        return Component(Verdict.ERROR, silent)
    return told or Component(Verdict.OK, "images come")


def _row(name: str, component: Component) -> str:
    dot = f'<span style="color:{COLORS[component.verdict]}">●</span>'
    return f"<div>{dot} <b>{escape(name)}</b> {escape(component.message)}</div>"
