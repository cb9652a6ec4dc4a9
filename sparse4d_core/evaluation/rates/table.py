"""The rows as a table of Markdown: scores at key frames, then what all frames show."""

from __future__ import annotations

from collections.abc import Mapping

from .rate_run import Measured

HEADER = (
    "memories", "Hz", "NDS", "mAP", "AMOTA", "IDS", "found", "place error, m", "velocity error, m/s",
    "id changes", "without id", "id delay, s", "box jumps, m", "box gaps", "processor time, ms", "memory, MB",
)  # fmt: skip


def markdown(found: Mapping[tuple[str, float], Measured]) -> str:
    """Id changes and box gaps are counted for a minute of one object in view."""
    lines = [list(HEADER), ["---"] * len(HEADER)]
    for (way, rate), one in found.items():
        seen = one.of()
        minutes = max(seen.minutes, 1e-9)
        lines.append(
            [f"`{way}`", f"{rate:g}", f"{one.nds:.3f}", f"{one.map:.3f}",
             "-" if one.amota is None else f"{one.amota:.3f}", "-" if one.ids is None else str(one.ids),
             f"{100 * seen.found:.1f} %", f"{seen.place_error:.3f}", f"{seen.velocity_error:.3f}",
             f"{seen.id_changes / minutes:.1f}", f"{100 * seen.without_id:.1f} %",
             f"{seen.id_delay:.3f} (most {seen.longest_id_delay:.2f})", f"{seen.jump:.3f}",
             f"{seen.blinks / minutes:.1f}", f"{one.frame_ms:.0f}", f"{one.memory_mb:.2f}"]
        )  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
