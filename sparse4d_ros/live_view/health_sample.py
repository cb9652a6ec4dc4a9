"""What a detector's diagnostics say, read for the page. Messages are read by their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

STAGE_SUFFIX = "_p50"
CAMERA_PREFIX = "camera "


class Verdict(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK, WARN, ERROR, STALE = range(4)


@dataclass(frozen=True)
class Component:
    """One status."""

    verdict: Verdict
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HealthSample:
    """All statuses of one detector at one time."""

    components: Mapping[str, Component]  # name without the node's: inference, synchronization, camera cam_front, ...

    @property
    def rate_hz(self) -> float | None:
        """Sets per second; None: the node does not tell."""
        return _number(self._inference().get("rate_hz"))

    @property
    def latencies_ms(self) -> dict[str, tuple[float, float]]:
        """Stage -> (median, 99th percentile)."""
        values = self._inference()
        stages = [name.removesuffix(STAGE_SUFFIX) for name in values if name.endswith(STAGE_SUFFIX)]
        pairs = {stage: (_number(values[f"{stage}_p50"]), _number(values.get(f"{stage}_p99"))) for stage in stages}
        return {stage: pair for stage, pair in pairs.items() if None not in pair}

    @property
    def dropped_sets(self) -> dict[str, int]:
        """Cause -> sets that gave no output, since the node started."""
        return _counts(self._inference(), "sets_dropped.")

    @property
    def dropped_images(self) -> dict[str, int]:
        """Cause -> images that did not end in a set."""
        component = self.components.get("synchronization")
        return _counts(component.values, "images_dropped.") if component else {}

    @property
    def gives_track_ids(self) -> bool:
        """False: a model of v1 or v2, whose tracks stay empty."""
        return self._inference().get("track_ids", "yes") == "yes"

    def camera(self, name: str) -> Component | None:
        """The status of one camera."""
        return self.components.get(f"{CAMERA_PREFIX}{name}")

    def _inference(self) -> Mapping[str, str]:
        component = self.components.get("inference")
        return component.values if component else {}


def health_from_message(message: Any, detector: str) -> HealthSample | None:
    """diagnostic_msgs/DiagnosticArray ► the statuses of one detector; None: it has none of this detector.

    Args:
        message: of anybody; others publish on /diagnostics as well.
        detector: full name of the detector's node.
    """
    prefix = f"{detector.strip('/')}: "
    components = {
        status.name.removeprefix(prefix): Component(
            Verdict(_level(status.level)), status.message, {pair.key: pair.value for pair in status.values}
        )
        for status in message.status
        if status.name.startswith(prefix)
    }
    return HealthSample(components) if components else None


def _level(level: bytes | int) -> int:
    """rclpy gives a byte, a bag reader a number."""
    return level[0] if isinstance(level, bytes) else int(level)


def _counts(values: Mapping[str, str], prefix: str) -> dict[str, int]:
    numbers = {key.removeprefix(prefix): _number(text) for key, text in values.items() if key.startswith(prefix)}
    return {cause: int(number) for cause, number in numbers.items() if number}


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
